"""Records in the log that nobody should have written: cut, flipped, forged, of unknown schemas.

What cannot be read of events and inboxes goes to the dead letters, byte for byte, once; the
partition goes on. A damaged journal stops its partition alone and stays as it is.
"""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import stepfold
from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_schemas import codec
from stepfold_schemas.codec import NewerSchemaError, UndecodableError
from stepfold_schemas.entries import Decision
from stepfold_schemas.events import Event
from stepfold_schemas.messages import Letter, SignalSent
from tests.behaviour.scenario import Scenario, Variant
from tests.fuzz.effort import LIVE
from tests.fuzz.engines import HOT, THREE, dead_letters, engine, new_app
from tests.fuzz.test_codec import DAMAGED, GARBAGE, HARM, Harm, damage, harmed
from tests.fuzz.values import MESSAGES, instances

NOW_MS = 1_800_000_000_000

_NAMES = st.sampled_from(["t/go", "t/big", "ordinary/go", "t/other", ""])
_DATA = st.sampled_from([b"{}", b'{"n":1}', b"[]", b"null", b"", b"{", b'{"n":"x"}', b"\xff"])
_TIMES = st.sampled_from([0, 1, NOW_MS, NOW_MS + 1_000, -1, 2**62, -(2**62), 4_102_444_800_001])
EVENT = st.builds(
    Event, _NAMES, _DATA, st.sampled_from(["", "an-id", "x" * 2_000]), _TIMES, _DATA,
    st.sampled_from(["", "an-internal-id"]), _TIMES,
)  # fmt: skip
EVENT_BYTES = DAMAGED | GARBAGE | EVENT.map(codec.encode) | damage(EVENT) | damage(instances(Event))
KEYS = st.binary(max_size=4)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["name", "id", "x"]), st.sampled_from([b"t/go", b"an-id", b"\xff", b""])
    ),
    max_size=3,
).map(tuple)


def fuzzed_app() -> stepfold.App:
    app = new_app()

    @app.function("f", on=["t/go", "t/*"], cancel_on=stepfold.CancelOn("t/other", match="data.n"))
    async def f(ctx: stepfold.Context) -> object:
        await ctx.step.wait_for_event("e", event="t/other", match="data.n", timeout="1h")
        return [ctx.event.data, ctx.event.ts.isoformat(), ctx.event.user]

    return app


def is_event(data: bytes) -> bool:
    try:
        codec.decode_event(data)
    except UndecodableError:
        return False
    return True


@pytest.mark.parametrize("variant", [HOT, THREE], ids=str)
@LIVE
@given(
    records=st.lists(st.builds(NewRecord, EVENT_BYTES, KEYS, HEADERS), min_size=1, max_size=6),
    place=st.integers(0, 2),
)
@example(records=[NewRecord(codec.encode(Event("t/go", b"[" * 100_000, "id")))], place=0)
@example(records=[NewRecord(codec.encode(Event("t/go", b"{}", "id", 2**62)))], place=0)
def test_an_event_that_cannot_be_read_is_a_dead_letter_once(
    variant: Variant, records: list[NewRecord], place: int
) -> None:
    with engine(fuzzed_app(), variant) as s:
        s.do(s.log.append(EVENTS, place % variant.partitions, records))
        s.advance(3 * 3_600)
        letters = Counter((r.value, r.key) for r in dead_letters(s))
        given_ = Counter((r.value, r.key) for r in records)
        assert letters <= given_
        for record in records:
            if not is_event(record.value):
                assert letters[record.value, record.key] == given_[record.value, record.key]
        for letter in dead_letters(s):
            assert dict(letter.headers)["stepfold.error"].decode()
            assert dict(letter.headers)["stepfold.source"].startswith(b"events-")
        for run in s.of("f"):
            assert run.status in ("completed", "cancelled"), run.entries[-1]


def is_newer(value: bytes) -> bool:
    """Say whether a record of an inbox seems to be of a newer release."""
    try:
        codec.decode_message(codec.decode_letter(value).message)
    except NewerSchemaError:
        return True
    except UndecodableError:
        pass
    return False


LETTER = st.builds(
    Letter,
    st.integers(-3, -1) | st.integers(3, 5) | st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 3),
    st.binary(min_size=16, max_size=16) | st.binary(max_size=20),
    st.one_of([instances(cls) for cls in MESSAGES]).map(codec.encode) | st.binary(max_size=20),
)
LETTER_BYTES = DAMAGED | GARBAGE | LETTER.map(codec.encode) | damage(LETTER)


@pytest.mark.parametrize("variant", [HOT, THREE], ids=str)
@LIVE
@given(values=st.lists(LETTER_BYTES, min_size=1, max_size=6), place=st.integers(0, 2))
@example(
    values=[
        codec.encode(Letter(-1, 0, b"r" * 16, codec.encode(SignalSent("s", b"x" * 8_900_000))))
    ],
    place=0,
)
def test_a_letter_that_cannot_be_read_is_a_dead_letter_once(
    variant: Variant, values: list[bytes], place: int
) -> None:
    for value in values:
        assume(not is_newer(value))  # it stops the partition: tests/behaviour/test_newer.py
        try:
            source = codec.decode_letter(value).source
        except UndecodableError:
            continue
        # A number forged in another partition's name would take the place of a real message.
        assume(not 0 <= source < variant.partitions)
    with engine(fuzzed_app(), variant) as s:
        s.do(s.log.append(INBOX, place % variant.partitions, [NewRecord(v) for v in values]))
        s.advance(3 * 3_600)
        letters = Counter(r.value for r in dead_letters(s))
        assert letters <= Counter(values)
        for value in values:
            try:
                codec.decode_message(codec.decode_letter(value).message)
            except UndecodableError:
                assert value in letters
        for letter in dead_letters(s):
            assert dict(letter.headers)["stepfold.error"].decode()


def _started(s: Scenario) -> None:
    """Let some runs begin, and end, in every partition."""
    for number in range(6):
        s.send("t/go", {"n": number}, id=f"run-{number}")
        s.send("ordinary/go", {"n": number}, id=f"done-{number}")
    s.send("t/other", {"n": 2})
    s.advance(60)


@LIVE
@given(
    place=st.integers(0, 60),
    harm=HARM,
    value=st.none() | GARBAGE | DAMAGED | instances(Decision).map(codec.encode),
)
@example(place=0, harm=[("flip", 5, 1, b"")], value=None)
@example(place=60, harm=[("cut", 50, 1, b"")], value=None)
def test_a_damaged_journal_stops_its_partition_alone_and_is_kept(
    place: int, harm: list[Harm], value: bytes | None
) -> None:
    app = fuzzed_app()

    @app.function("alone", on="alone/go")
    async def alone(ctx: stepfold.Context) -> int:
        return await ctx.step.run("one", lambda: int(ctx.event.data["n"]))

    with engine(app, THREE, check=False) as s:
        _started(s)
        s.crash()
        assert isinstance(s.log, MemoryLog)
        journal = s.log.topics[JOURNAL][1]
        at = place % (len(journal.records) + 1)
        if at < len(journal.records):
            old = journal.records[at]
            journal.records[at] = replace(old, value=value or harmed(old.value, harm))
        else:
            last = journal.records[-1].value
            s.do(s.log.append(JOURNAL, 1, [NewRecord(value or harmed(last, harm))]))
        kept = [r.value for r in journal.records]
        s.complete = False
        s.start()
        for number in range(12):
            s.send("alone/go", {"n": number}, id=f"alone-{number}")
        s.advance(600)
        ended = {r.id[6] << 4 | r.id[7] >> 4 for r in s.of("alone") if r.end is not None}
        assert ended >= {0, 2}
        assert [r.value for r in journal.records][: len(kept)] == kept
        if 1 not in s.node.owners:
            assert "journal/1 offset" in s.node.stopped_partitions[1]
