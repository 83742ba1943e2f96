"""Confluent's wire format: a zero byte, the schema's id in four bytes (big endian), the value.

Source: "Wire format" in the documentation of Confluent's schema registry. Avro and JSON schemas
can be read; where schemas come from is behind a port.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Protocol, cast
from uuid import UUID

from stepfold_engine.formats.plain import event_of, parse_json
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import Event, InvalidEventError
from stepfold_schemas.foreign import ForeignSchema, decode_foreign

MAGIC = 0
HEAD_BYTES = 5


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema of the registry: ``avro`` is None if values are JSON."""

    number: int
    avro: ForeignSchema | None

    @property
    def title(self) -> str:
        """What people call it."""
        name = self.avro.name if self.avro is not None else "JSON"
        return f"schema {self.number} ({name})"


class Schemas(Protocol):
    """The schemas of a registry."""

    async def learn(self, number: int) -> None:
        """Ask for a schema, until the registry answers."""
        ...

    def settled(self, number: int) -> bool:
        """Say whether the registry has answered what this schema is, not too long ago."""
        ...

    def known(self, number: int) -> Registered:
        """Return a schema that was asked for.

        Raises:
            UndecodableError: the registry knows none of this number, or it cannot be used.
        """
        ...


def is_framed(value: bytes) -> bool:
    """Say whether bytes may be in this format; JSON, and Avro of our own, never begin so."""
    return len(value) >= HEAD_BYTES and value[0] == MAGIC


def number_in(value: bytes) -> int:
    """Return the schema's id.

    Raises:
        UndecodableError: the bytes are not in this format.
    """
    if not is_framed(value):
        begins = value[:HEAD_BYTES].hex() or "nothing"
        raise UndecodableError(f"not in Confluent's wire format (it begins with {begins})")
    return int.from_bytes(value[1:HEAD_BYTES])


def read_framed(value: bytes, schemas: Schemas | None) -> object:
    """Read a value as JSON has it.

    Raises:
        UndecodableError: it cannot be read; the message says why.
    """
    number = number_in(value)
    if schemas is None:
        text = f"in Confluent's wire format, schema {number}; set schema.registry.url to read it"
        raise UndecodableError(text)
    schema = schemas.known(number)
    body = value[HEAD_BYTES:]
    if schema.avro is None:
        try:
            return parse_json(body)
        except ValueError as error:
            raise UndecodableError(f"{schema.title}: {error}") from error
    return as_json(decode_foreign(schema.avro, body))


def read_event_framed(value: bytes, schemas: Schemas | None) -> Event:
    """Read an event: a record with the fields of a plain JSON event.

    ``data`` and ``user`` are records or maps, or JSON in a string or in bytes.

    Raises:
        UndecodableError: it cannot be read, or lacks fields.
    """
    given = read_framed(value, schemas)
    number = number_in(value)
    known = dict(cast("Mapping[str, object]", given)) if isinstance(given, dict) else {}
    if "name" not in known:
        raise UndecodableError(
            f"schema {number} is not of an event: it has no field name (it has"
            f" {', '.join(sorted(known)[:20]) or 'none'}); an event has name and data, and may have"
            " id, ts and user. To take other records as events, map their topic (--sources)"
        )
    for field in ("data", "user"):
        if isinstance(known.get(field), str):
            known[field] = _unpacked(str(known[field]), field, number)
    try:
        return event_of(known, 0)
    except InvalidEventError as error:
        raise UndecodableError(f"schema {number}: {error}") from error


def _unpacked(text: str, field: str, number: int) -> object:
    """Read JSON that a field holds as a string, or as bytes."""
    for data in (text.encode(), _of_base64(text)):
        try:
            return parse_json(data)
        except ValueError:
            continue
    raise UndecodableError(f"schema {number}: {field} is neither an object nor JSON in a string")


def _of_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def as_json(value: object) -> object:
    """Return what Avro gave as JSON has it.

    Times are RFC 3339, decimals texts (so that no digit is lost), bytes base64.

    >>> as_json({"price": Decimal("9.90"), "raw": bytes(2)})
    {'price': '9.90', 'raw': 'AAA='}
    """
    match value:
        case dict():
            return {str(k): as_json(v) for k, v in cast("dict[object, object]", value).items()}
        case list() | tuple():
            return [as_json(item) for item in cast("list[object]", value)]
        case datetime() | date() | time():
            return value.isoformat().replace("+00:00", "Z")
        case Decimal() | UUID():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value
