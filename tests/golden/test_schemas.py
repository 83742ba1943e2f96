"""Bytes of every schema version ever released are decoded as they were written."""

import json
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from stepfold_schemas import codec, entries, events, messages, runfile
from stepfold_schemas.codec import UndecodableError

GOLDEN = Path(__file__).with_name("schemas.json")
LINES: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text())


def decode(name: str, data: bytes) -> object:
    kind = name.partition(".v")[0]
    if kind == "Decision":
        return codec.decode_decision(data)
    if kind == "Letter":
        return codec.decode_letter(data)
    if kind == "ExportedRun":
        return codec.decode_run(data)
    if kind == "Event":
        return codec.decode_event(data)
    if kind in {c.__name__ for c in typing.get_args(messages.Message)}:
        return codec.decode_message(data)
    return codec.decode_entry(data)


def shown(value: Any, schema: Any, named: dict[str, Any]) -> str:
    """Show a value with the fields that it, and what it holds, had when it was written."""
    if isinstance(schema, list):
        schema = next(s for s in schema if (s == "null") is (value is None))
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    if not isinstance(schema, dict):
        return repr(value)
    if schema["type"] == "array":
        return "[" + ", ".join(shown(one, schema["items"], named) for one in value) + "]"
    named[schema["name"]] = schema
    parts = [
        f"{f['name']}={shown(getattr(value, f['name']), f['type'], named)}"
        for f in schema["fields"]
    ]
    return f"{type(value).__name__}({', '.join(parts)})"


@pytest.mark.parametrize("name", sorted(LINES))
def test_bytes_of_every_released_schema_are_decoded(name: str) -> None:
    value = decode(name, bytes.fromhex(LINES[name]["bytes"]))
    assert shown(value, codec.schema_files()[name], {}) == LINES[name]["value"]


def test_every_schema_file_has_golden_bytes() -> None:
    assert set(codec.schema_files()) == set(LINES), "run tests/golden/samples.py"


@pytest.mark.parametrize("name", sorted(LINES))
def test_what_is_written_today_names_a_golden_schema(name: str) -> None:
    data = bytes.fromhex(LINES[name]["bytes"])
    value = typing.cast("entries.Entry", decode(name, data))
    assert codec.encode(value)[:2] == b"\xc3\x01"
    assert decode(name, codec.encode(value)) == value


def test_classes_and_newest_schemas_have_the_same_fields() -> None:
    newest: dict[str, list[str]] = {}
    for name, schema in sorted(codec.schema_files().items()):
        newest[name.partition(".v")[0]] = [f["name"] for f in schema["fields"]]
    for cls in (
        *typing.get_args(entries.Entry),
        *typing.get_args(messages.Message),
        entries.Decision,
        messages.Letter,
        events.Event,
        runfile.ExportedRun,
    ):
        assert newest[cls.__name__] == [f.name for f in fields(cls)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "single-object encoding"),
        (b'{"name": "x"}', "single-object encoding"),
        (b"\xc3\x01" + b"\x00" * 8, "unknown schema"),
    ],
)
def test_other_bytes_are_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(UndecodableError, match=says):
        codec.decode_entry(data)


def test_cut_and_lengthened_values_are_refused() -> None:
    whole = codec.encode(entries.SleepEnded(b"r" * 16, b"s" * 20))
    for cut in range(len(whole)):
        with pytest.raises(UndecodableError):
            codec.decode_entry(whole[:cut])
    with pytest.raises(UndecodableError, match="too many"):
        codec.decode_entry(whole + b"\x00")


def test_a_value_of_another_kind_is_refused() -> None:
    event = codec.encode(events.Event("a", b"{}"))
    with pytest.raises(UndecodableError, match="an entry was expected"):
        codec.decode_entry(event)
    with pytest.raises(UndecodableError, match="a message was expected"):
        codec.decode_message(event)
