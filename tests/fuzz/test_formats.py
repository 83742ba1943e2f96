"""Events as other producers write them: JSON and CloudEvents, well formed or nearly.

Each is an event or a dead letter with its reason in words; the partition goes on.
"""

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepfold
from stepfold_engine.formats import read_event
from stepfold_engine.log.base import EVENTS, Headers, NewRecord
from stepfold_schemas import codec, strict
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import RunStarted
from tests.behaviour.scenario import Variant
from tests.fuzz.effort import LIVE, PURE
from tests.fuzz.engines import HOT, THREE, dead_letters, engine, new_app
from tests.fuzz.values import JSON_BYTES, JSON_TEXT

REASON_CHARS_MAX = 2_000

_WORDS = st.sampled_from(
    ['"1.0"', '"t/go"', '"an-id"', '"2030-01-01T00:00:00Z"', '"9999-12-31T23:59:59-23:59"',
     '"application/json"', '"aGVsbG8="', '"e30="', '"é"', r'"\ud800"', "1800000000000", "-1",
     "1e300", "{}", '{"n":1}', '"' + "x" * 9_000 + '"']
)  # fmt: skip
_LONG_NAME = '"' + "x" * 100_000 + '"'


def _fields(names: list[str], always: str) -> st.SearchStrategy[bytes]:
    """Write objects of some of these fields behind those that are always there."""
    pairs = st.tuples(st.sampled_from([f'"{n}"' for n in names]), _WORDS | JSON_TEXT)
    odd = st.tuples(st.sampled_from([r'"\ud800"', _LONG_NAME, '""', '"é"']), _WORDS | JSON_TEXT)
    return st.builds(
        lambda begin, found: (
            "{" + ",".join([*begin, *(f"{name}:{value}" for name, value in found)]) + "}"
        ).encode("utf-8", "surrogatepass"),
        st.sampled_from([[always], []]),
        st.lists(pairs | odd, max_size=4),
    )


PLAIN = _fields(["name", "NAME", "data", "id", "ts", "user", "v", "_inngest"], '"name":"t/go"')
CLOUD = _fields(
    ["specversion", "type", "source", "id", "time", "datacontenttype", "data", "data_base64"],
    '"specversion":"1.0","type":"t/go","source":"s","id":"an-id"',
)
_CLOUD_HEADERS = [("ce_specversion", b"1.0"), ("ce_type", b"t/go"), ("ce_source", b"s"),
                  ("ce_id", b"an-id")]  # fmt: skip
_CONTENTS = st.binary(max_size=8) | st.sampled_from(
    [b"1.0", b"t/go", b"2.0", b"application/json", b"text/plain", b"x/y+json;a=b",
     b"application/cloudevents+json", b"2030-01-01T00:00:00Z", b"x" * 9_000]
)  # fmt: skip
_NAMES = st.sampled_from(
    ["ce_specversion", "ce_type", "ce_source", "ce_id", "ce_time", "ce_", "ce_é", "content-type",
     "name", "id", "stepfold.error", "stepfold.redriven"]
)  # fmt: skip
HEADERS: st.SearchStrategy[Headers] = st.builds(
    lambda begin, more: (*begin, *more),
    st.sampled_from([_CLOUD_HEADERS, _CLOUD_HEADERS[:1], []]),
    st.lists(st.tuples(_NAMES, _CONTENTS), max_size=3),
)
VALUES = PLAIN | CLOUD | JSON_BYTES
RECORDS = st.builds(lambda value, headers: NewRecord(value, b"", headers), VALUES, HEADERS)


def cloud(more: bytes) -> NewRecord:
    begin = b'{"specversion":"1.0","type":"t/go","source":"s","id":"an-id",'
    return NewRecord(begin + more + b"}")


@PURE
@given(record=RECORDS)
@example(cloud(b'"data_base64":' + b"[" * 980 + b"]" * 980))
@example(cloud(b'"\\ud800":[]'))
@example(cloud(b"%b:[]" % _LONG_NAME.encode()))
@example(NewRecord(b'{"name":%b,"data":[]}' % _LONG_NAME.encode()))
@example(NewRecord(b'{"name":"\\ud800","data":[]}'))
@example(NewRecord(b'{"name":"t/go","ts":' + b"9" * 4_000 + b"}"))
def test_a_foreign_record_is_an_event_or_refused_in_words(record: NewRecord) -> None:
    try:
        event = read_event(record.value, record.headers)
    except UndecodableError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return
    if not codec.is_ours(record.value):
        # Names, ids and times are checked behind, whatever the format.
        for data in (event.data, event.user):
            assert strict.read_object(data) is not None


@pytest.mark.parametrize("variant", [HOT, THREE], ids=str)
@LIVE
@given(records=st.lists(RECORDS, min_size=1, max_size=6), place=st.integers(0, 2))
@example(records=[cloud(b'"data_base64":' + b"[" * 980 + b"]" * 980)], place=0)
@example(records=[cloud(b'"\\ud800":[]')], place=0)
@example(records=[cloud(b"%b:[]" % _LONG_NAME.encode())], place=0)
@example(records=[NewRecord(b'{"name":"t/go","ts":' + b"9" * 4_000 + b"}")], place=0)
@example(
    records=[NewRecord(b'{"name":"t/go","data":{"n":1}}', headers=(("id", b"\xff"),))], place=0
)
def test_a_foreign_event_starts_its_function_or_is_a_dead_letter_once(
    variant: Variant, records: list[NewRecord], place: int
) -> None:
    app = new_app()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("nap", "1s")
        # Not the data itself: in a list it may be nested deeper than a result may be.
        return [repr(ctx.event.data)[:99], ctx.event.ts.isoformat(), repr(ctx.event.user)[:99]]

    with engine(app, variant) as s:
        s.do(s.log.append(EVENTS, place % variant.partitions, records))
        s.advance(3_600)
        letters = Counter((r.value, r.key) for r in dead_letters(s))
        given_ = Counter((r.value, r.key) for r in records)
        assert letters <= given_
        for letter in dead_letters(s):
            assert 0 < len(dict(letter.headers)["stepfold.error"].decode()) < REASON_CHARS_MAX
        refused = [r for r in records if not _is_event(r)]
        assert Counter((r.value, r.key) for r in refused) <= letters
        for run in s.of("f"):
            (begun, *_) = run.entries
            assert isinstance(begun, RunStarted)
            # An event of the future delays its run.
            assert run.status == "completed" or begun.due_ms > s.clock.now_ms()


def _is_event(record: NewRecord) -> bool:
    try:
        read_event(record.value, record.headers)
    except UndecodableError:
        return False
    return True
