"""Records of a topic that others made, as events: what a mapping says of each field.

A mapping is data (``Source``); the file that says it is read in ``kafka.sourcefile``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import cast

from stepfold_engine.formats.paths import Path, Roots, Template
from stepfold_engine.formats.plain import parse_json, written
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import RESERVED_PREFIXES, Event, InvalidEventError

FORMATS = ("json", "avro", "text")
EARLIEST = -1

Fields = Path | Mapping[str, Path]
"""All of an object, or the fields of a new one."""

AvroReader = Callable[[bytes], object]
"""Reads Confluent's wire format."""


@dataclass(frozen=True, slots=True)
class Source:
    """An existing topic whose records are events.

    Attributes:
        topic: its name in Kafka.
        value_format: one of ``FORMATS``; ``key_format`` likewise.
        name: the event's name.
        id: the event's id; None: where the record lies.
        data: the event's data; ``user`` likewise, None: nobody.
        ts: when it happened; None: the record's timestamp.
        begin_ms: read from the first record of this time on; ``EARLIEST``: from the first.
        skip_empty: records without a value are passed over, as a compacted topic has them.
    """

    topic: str
    value_format: str
    key_format: str
    name: Template
    id: Template | None
    data: Fields
    user: Fields | None
    ts: Path | None
    begin_ms: int
    skip_empty: bool


@dataclass(frozen=True, slots=True)
class Given:
    """A record of such a topic."""

    partition: int
    offset: int
    at_ms: int
    value: bytes
    key: bytes
    headers: Mapping[str, bytes]


def mapped(source: Source, given: Given, avro: AvroReader) -> Event:
    """Return the event that a record is; its id is "" if the mapping gives none.

    Raises:
        UndecodableError: a field is missing or cannot be used; the message says which.
    """
    if not given.value:
        raise UndecodableError(
            f'the record has no value; empty = "skip" in the mapping of {source.topic} passes'
            " over such records"
        )
    roots = _roots(source, given, avro)
    try:
        name = source.name.of(roots)
        if name.lower().startswith(RESERVED_PREFIXES):
            raise InvalidEventError(f"the name {name!r} is reserved")
        return Event(
            name,
            written(_fields(source.data, roots), "data", name),
            source.id.of(roots) if source.id is not None else "",
            given.at_ms if source.ts is None else _time_ms(source.ts, roots),
            written(_user(source, given, roots), "user", name),
        )
    except UndecodableError:
        raise
    except ValueError as error:
        raise UndecodableError(f"mapping of {source.topic}: {error}") from error


def _roots(source: Source, given: Given, avro: AvroReader) -> Roots:
    return {
        "value": cache(lambda: _read("value", source.value_format, given.value, avro)),
        "key": cache(lambda: _read("key", source.key_format, given.key, avro)),
        "headers": cache(
            lambda: {n: _text(f"header {n}", content) for n, content in given.headers.items()}
        ),
        "timestamp": lambda: given.at_ms,
        "topic": lambda: source.topic,
        "partition": lambda: given.partition,
        "offset": lambda: given.offset,
    }


def _read(what: str, kind: str, data: bytes, avro: AvroReader) -> object:
    try:
        match kind:
            case "avro":
                return avro(data)
            case "json":
                return parse_json(data)
            case _:
                return _text(what, data)
    except ValueError as error:
        raise UndecodableError(f"the {what} is not {kind}: {error}") from error


def _text(what: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8") from error


def _fields(fields: Fields, roots: Roots) -> dict[str, object]:
    if isinstance(fields, Path):
        found = fields.of(roots)
        return cast("dict[str, object]", found) if isinstance(found, dict) else {"value": found}
    return {name: path.of(roots) for name, path in fields.items()}


def _user(source: Source, given: Given, roots: Roots) -> dict[str, object]:
    """Return who it concerns, and the trace that the record belongs to, where tracing looks."""
    user = {} if source.user is None else dict(_fields(source.user, roots))
    parent = given.headers.get("traceparent")
    if parent is not None and "cloudevent" not in user:
        user["cloudevent"] = {"traceparent": parent.decode(errors="replace")}
    return user


def _time_ms(path: Path, roots: Roots) -> int:
    value = path.of(roots)
    if value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError as error:
        shown = json.dumps(value, default=str)[:80]
        raise ValueError(
            f"{path.text} is neither milliseconds since 1970 nor an RFC 3339 time: {shown}"
        ) from error
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)
