"""Records of existing topics as events: paths, texts, times, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from stepfold_engine.errors import LogSettingError
from stepfold_engine.formats.mapping import EARLIEST, Given, Source, mapped
from stepfold_engine.formats.paths import parse_path, parse_template
from stepfold_engine.kafka.sourcefile import sources_from
from stepfold_engine.kafka.topics import TopicNames
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import Event

NAMES = TopicNames("shop")
VALUE = {
    "order_id": 7,
    "status": "paid",
    "lines": [{"sku": "a-1", "n": 2}, {"sku": "b-2", "n": 1}],
    "a.b": {"c d": True},
    "none": None,
    "at": "2026-11-01T12:00:00+01:00",
}
FULL = """
[[source]]
topic = "legacy.orders"
name = "shop/order.{value.status}"
id = "order-{value.order_id}"
ts = "value.at"
from = 2026-11-01T00:00:00Z
empty = "skip"

[source.data]
first = "value.lines.0.sku"
dotted = 'value."a.b"."c d"'
none = "value.none"
maybe = "value.absent.deep?"
key = "key"
trace = "headers.trace"
place = "offset"
partition = "partition"
topic = "topic"
stamp = "timestamp"

[source.user]
name = "key"
"""


def sources(tmp_path: Path, text: str) -> list[Source]:
    path = tmp_path / "sources.toml"
    path.write_text(text)
    return sources_from(path, NAMES)


def source(tmp_path: Path, more: str, topic: str = "t") -> Source:
    return sources(tmp_path, f'[[source]]\ntopic = "{topic}"\n{more}')[0]


def given(value: object, *, key: bytes = b"ann", **headers: bytes) -> Given:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Given(3, 17, 1_790_000_000_000, data, key, headers)


def no_avro(data: bytes) -> object:
    raise AssertionError(data)


def test_every_field_of_a_mapping_is_used(tmp_path: Path) -> None:
    (made,) = sources(tmp_path, FULL)
    assert (made.begin_ms, made.skip_empty) == (1_793_491_200_000, True)
    event = mapped(made, given(VALUE, trace=b"abc"), no_avro)
    assert (event.name, event.id, event.ts) == ("shop/order.paid", "order-7", 1_793_530_800_000)
    assert json.loads(event.data) == {
        "first": "a-1",
        "dotted": True,
        "none": None,
        "maybe": None,
        "key": "ann",
        "trace": "abc",
        "place": 17,
        "partition": 3,
        "topic": "legacy.orders",
        "stamp": 1_790_000_000_000,
    }
    assert json.loads(event.user) == {"name": "ann"}


def test_only_a_topic_and_a_name_are_needed(tmp_path: Path) -> None:
    made = source(tmp_path, 'name = "shop/order"')
    assert made.begin_ms == EARLIEST
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = mapped(made, given(VALUE, traceparent=parent), no_avro)
    user = json.dumps({"cloudevent": {"traceparent": parent.decode()}}, separators=(",", ":"))
    data = json.dumps(VALUE, separators=(",", ":")).encode()
    assert event == Event("shop/order", data, "", 1_790_000_000_000, user.encode())
    assert json.loads(mapped(made, given([1, 2]), no_avro).data) == {"value": [1, 2]}


def test_texts_and_keys_may_be_of_other_formats(tmp_path: Path) -> None:
    made = source(
        tmp_path,
        'name = "t/x"\nformat = "text"\nkey_format = "json"\nid = "{key.id}"\ndata = "value"',
    )
    event = mapped(made, given(b"caf\xc3\xa9", key=b'{"id": 9}'), no_avro)
    assert (event.id, json.loads(event.data)) == ("9", {"value": "café"})
    avro = source(tmp_path, 'name = "t/x"\nformat = "avro"\nid = "{value.id}"')
    assert mapped(avro, given(b"\x00"), lambda _: {"id": True}).id == "true"


@pytest.mark.parametrize(
    ("mapping", "record", "says"),
    [
        ('id = "{value.nr}"', given(VALUE), r"no value\.nr \(there are a\.b, at, lines"),
        ('data = "value.lines.5"', given(VALUE), "the list there has 2 items"),
        ('data = "value.order_id.x"', given(VALUE), "there is int"),
        ('id = "{value.lines}"', given(VALUE), "value.lines is the list there has 2 items, not"),
        ('id = "{value.none}"', given(VALUE), "value.none is null, not a text"),
        ('data = "headers.h"', given(VALUE), "the object there is empty"),
        ('ts = "value.status"', given(VALUE), 'value.status is neither milliseconds.*"paid"'),
        ("", given(b"{"), "the value is not json"),
        ("", given(b'{"x": NaN}'), "NaN is not a JSON value"),
        ("", given(b""), 'no value; empty = "skip" in the mapping of t passes over'),
        ('data = "key"', given(VALUE, key=b"\xff"), "the key is not text: key is not UTF-8"),
        ('key_format = "json"\ndata = "key"', given(VALUE), "the key is not json"),
    ],
)
def test_what_a_record_lacks_is_said(
    mapping: str, record: Given, says: str, tmp_path: Path
) -> None:
    made = source(tmp_path, f'name = "t/x"\n{mapping}')
    with pytest.raises(UndecodableError, match=says):
        mapped(made, record, no_avro)


def test_a_reserved_name_cannot_come_out_of_a_record(tmp_path: Path) -> None:
    made = source(tmp_path, 'name = "{value.name}"')
    with pytest.raises(UndecodableError, match="'stepfold/x' is reserved"):
        mapped(made, given({"name": "stepfold/x"}), no_avro)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[source", "it cannot be read"),
        ("", "it names no topic"),
        ("[sources]", "no 'sources' here; is it source"),
        ("source = [1]", "source 1 is no table"),
        ('[[source]]\nname = "x"', r"source 1 \(no topic\): topic is missing"),
        ('[[source]]\ntopic = "t"', r"source 1 \(t\): name is missing"),
        ('[[source]]\ntopic = "t"\nnam = "x"', "no 'nam' here; is it name"),
        ('[[source]]\ntopic = "t"\nname = "inngest/x"', "is reserved"),
        ('[[source]]\ntopic = "t"\nname = "x{value"', "a brace is alone"),
        ('[[source]]\ntopic = "t"\nname = "{values.x}"', "does not begin with one of value"),
        ('[[source]]\ntopic = "t"\nname = "x"\nid = "{value..x}"', "is not a path"),
        ('[[source]]\ntopic = "t"\nname = "x"\nts = "when"', "ts: the path 'when'"),
        ('[[source]]\ntopic = "t"\nname = "x"\nts = "offset.x"', "nothing lies under offset"),
        ('[[source]]\ntopic = "t"\nname = "x"\ndata = 3', "neither a path nor a table"),
        ('[[source]]\ntopic = "t"\nname = "x"\nformat = "xml"', "one of json, avro, text"),
        ('[[source]]\ntopic = "t"\nname = "x"\nempty = "no"', "one of dead-letter, skip"),
        ('[[source]]\ntopic = "t"\nname = "x"\nfrom = "latest"', "give a time: 20"),
        ('[[source]]\ntopic = "t"\nname = "x"\nfrom = "soon"', "neither earliest nor a time"),
        ('[[source]]\ntopic = "shop.journal"\nname = "x"', "a topic of this namespace"),
        ('[[source]]\ntopic = "t"\nname = "x"\n[[source]]\ntopic = "t"\nname = "y"', "named twice"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_field(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(LogSettingError, match=says) as caught:
        sources(tmp_path, text)
    assert "sources.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogSettingError, match=r"none\.toml: it cannot be read"):
        sources_from(tmp_path / "none.toml", NAMES)


def test_paths_and_texts_are_read_as_they_stand() -> None:
    assert parse_path("key").names == ()
    assert parse_template("plain").constant == "plain"
    for wrong in ("", ".", "value.", "value?.x", 'value."x', "value.{x}"):
        with pytest.raises(ValueError, match="path"):
            parse_path(wrong)
