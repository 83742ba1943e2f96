"""Events, decisions, entries and letters to bytes and back; the home of fastavro.

What is of others' schemas is read in ``foreign``.

Every value is written in Avro's single-object encoding (Avro 1.12 specification, "Single-object
encoding"): the two bytes C3 01, the 8-byte CRC-64-AVRO fingerprint of the writer's schema, the
value. A reader finds the writer's schema by the fingerprint, so a log of any release can be read.

The schemas are the files ``avro/<Class>.v<version>.avsc``. A released file is never edited; a new
version is a new file, and the class follows the newest.
"""

# fastavro ships partial type information: what it returns is checked by the readers here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false

import json
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import resources
from io import BytesIO
from typing import IO, Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from stepfold_schemas import entries, events, messages
from stepfold_schemas.entries import Decision, Entry
from stepfold_schemas.events import Event
from stepfold_schemas.messages import Letter, Message
from stepfold_schemas.runfile import FORMAT, ExportedRun, RunFile

_MARKER = b"\xc3\x01"
_HEADER_BYTES = 10
_T = typing.TypeVar("_T")


class UndecodableError(ValueError):
    """Bytes are not a value of any known schema; the message says what is wrong with them."""


class NewerSchemaError(UndecodableError):
    """Bytes are in single-object encoding, of a schema that this release does not know.

    Attributes:
        fingerprint: the schema's, as hexadecimal digits.
    """

    def __init__(self, fingerprint: str) -> None:
        super().__init__(
            f"written with an unknown schema, fingerprint {fingerprint};"
            " a newer release of stepfold can read it"
        )
        self.fingerprint = fingerprint


class _Kind:
    """How values of one class are written and read.

    Attributes:
        raw: the schema as its file has it.
        newest: the class's newest schema, if this is an older one: what it lacks has the newest
            one's default (Avro's schema resolution).
    """

    def __init__(self, name: str, cls: type, schema: dict[str, Any]) -> None:
        self.name, self.cls = name, cls
        self.newest: Any = None
        self.raw = schema
        self.schema = fastavro.parse_schema(schema)
        canonical = to_parsing_canonical_form(schema)
        self.header = _MARKER + bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
        self.to_plain = _plainer(cls)
        self.from_plain = _builder(cls)


def is_ours(data: bytes) -> bool:
    """Say whether bytes are in Avro's single-object encoding."""
    return data.startswith(_MARKER)


def encode(value: Event | Letter | Message | Entry | Decision | ExportedRun) -> bytes:
    """Write one value in single-object encoding.

    A decision's entries are themselves single-object encoded inside its record.
    """
    kind = _BY_CLASS[type(value)]
    out = BytesIO(kind.header)
    out.seek(_HEADER_BYTES)
    fastavro.schemaless_writer(out, kind.schema, kind.to_plain(value))
    return out.getvalue()


def decode_event(data: bytes) -> Event:
    """Read an event.

    Raises:
        UndecodableError: the bytes are not an event of a known schema.
    """
    return _decode_as(Event, data)


def decode_letter(data: bytes) -> Letter:
    """Read a record of an inbox.

    Raises:
        UndecodableError: the bytes are not a letter of a known schema.
    """
    return _decode_as(Letter, data)


def decode_decision(data: bytes) -> Decision:
    """Read a record of a journal, entries included.

    Raises:
        UndecodableError: the bytes, or those of an entry, are not of a known schema.
    """
    return _decode_as(Decision, data)


def decode_message(data: bytes) -> Message:
    """Read the message in a letter or in a ``MessageQueued``.

    Raises:
        UndecodableError: the bytes are not a message of a known schema.
    """
    value = _decode(data)
    if type(value) not in _MESSAGES:
        raise UndecodableError(f"a message was expected, this is a {type(value).__name__}")
    return typing.cast("Message", value)  # just checked


def decode_entry(data: bytes) -> Entry:
    """Read one entry.

    Raises:
        UndecodableError: the bytes are not an entry of a known schema.
    """
    value = _decode(data)
    if type(value) not in _ENTRIES:
        raise UndecodableError(f"an entry was expected, this is a {type(value).__name__}")
    return typing.cast("Entry", value)  # just checked


def decode_run(data: bytes) -> ExportedRun:
    """Read a run of a run file that travels alone.

    Raises:
        UndecodableError: the bytes are not a run of a known schema.
    """
    return _decode_as(ExportedRun, data)


def peek_decision(data: bytes) -> tuple[int, int] | None:
    """Return epoch and seq of a record of a journal without reading the rest of it.

    None if it is not known how its schema begins; the whole record says more.
    """
    if data[:_HEADER_BYTES] not in _DECISIONS:
        return None
    epoch, at = _long(data, _HEADER_BYTES)
    seq, _ = _long(data, at)
    return epoch, seq


def _long(data: bytes, at: int) -> tuple[int, int]:
    """Read a number as Avro writes it; return it and where the next value begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at


def write_runs(out: IO[bytes], file: RunFile) -> None:
    """Write a run file: an Avro object container whose metadata holds its entries' schemas."""
    headers = {item.entry[:_HEADER_BYTES] for run in file.runs for item in run.journal}
    schemas = {
        header[2:].hex(): _BY_HEADER[header].raw for header in sorted(headers & _BY_HEADER.keys())
    }
    metadata = {
        "stepfold.format": str(FORMAT),
        "stepfold.made_by": file.made_by,
        "stepfold.made_ms": str(file.made_ms),
        "stepfold.source": file.source,
        "stepfold.entry_schemas": json.dumps(schemas),
    }
    kind = _BY_CLASS[ExportedRun]
    plain = map(kind.to_plain, file.runs)
    fastavro.writer(out, kind.schema, plain, codec="deflate", metadata=metadata)


def read_runs(source: IO[bytes]) -> RunFile:
    """Read a run file.

    Raises:
        UndecodableError: it is not one, it is damaged, or a newer release wrote it.
    """
    kind = _BY_CLASS[ExportedRun]
    try:
        reader = fastavro.reader(source, kind.schema)
        metadata = reader.metadata
        _check_format(metadata.get("stepfold.format", ""))
        runs = [kind.from_plain(plain) for plain in reader]
        made_ms = int(metadata.get("stepfold.made_ms", "0"))
    except UndecodableError:
        raise
    except Exception as error:
        raise UndecodableError(f"not a run file: {type(error).__name__}: {error}") from error
    if not runs:
        raise UndecodableError("a run file without a run in it")
    made_by, where = metadata.get("stepfold.made_by", ""), metadata.get("stepfold.source", "")
    return RunFile(runs, made_by, made_ms, where)


def _check_format(written: str) -> None:
    if not written.isdecimal():
        raise UndecodableError("an Avro file, but not a run file (made by stepfold export)")
    if int(written) > FORMAT:
        raise UndecodableError(f"a run file of format {written}; a newer release can read it")


def _decode_as(cls: type[_T], data: bytes) -> _T:
    value = _decode(data)
    if type(value) is not cls:
        raise UndecodableError(f"{cls.__name__} was expected, this is a {type(value).__name__}")
    return value


def _decode(data: bytes) -> object:
    kind = _BY_HEADER.get(data[:_HEADER_BYTES])
    if kind is None:
        raise _unknown(data)
    source = BytesIO(data)
    source.seek(_HEADER_BYTES)
    try:
        plain = fastavro.schemaless_reader(source, kind.schema, kind.newest)
        value = kind.from_plain(plain)
    except UndecodableError:
        raise
    except Exception as error:
        msg = f"damaged {kind.cls.__name__}: {type(error).__name__}: {error}"
        raise UndecodableError(msg) from error
    if source.tell() != len(data):
        left = len(data) - source.tell()
        raise UndecodableError(f"damaged {kind.cls.__name__}: {left} bytes too many")
    return value


def _unknown(data: bytes) -> UndecodableError:
    if data[:2] == _MARKER and len(data) >= _HEADER_BYTES:
        return NewerSchemaError(data[2:_HEADER_BYTES].hex())
    return UndecodableError(
        f"not in Avro's single-object encoding (it begins with {data[:2].hex() or 'nothing'})"
    )


def _plainer(cls: type) -> Callable[[Any], Any]:
    """Compile a function that turns an instance into the dict fastavro writes."""
    if cls is Decision:
        return _plain_decision
    hints = typing.get_type_hints(cls)
    names: dict[str, object] = {}
    parts = [_plain_part(f"v.{f.name}", f.name, hints[f.name], names) for f in fields(cls)]
    source = "lambda v: {" + ", ".join(parts) + "}"
    return typing.cast("Callable[[Any], Any]", eval(source, names))  # noqa: S307 - own source


def _plain_part(path: str, name: str, hint: Any, names: dict[str, object]) -> str:
    inner, shape = _shape(hint)
    if inner is None:
        return f"{name!r}: {path}"
    names[f"p_{name}"] = _plainer(inner)
    if shape == "list":
        return f"{name!r}: [p_{name}(x) for x in {path}]"
    if shape == "optional":
        return f"{name!r}: None if {path} is None else p_{name}({path})"
    return f"{name!r}: p_{name}({path})"


def _builder(cls: type) -> Callable[[Any], Any]:
    """Compile a function that turns what fastavro read into an instance."""
    if cls is Decision:
        return _build_decision
    hints = typing.get_type_hints(cls)
    names: dict[str, object] = {"cls": cls}
    parts: list[str] = []
    for f in fields(cls):
        inner, shape = _shape(hints[f.name])
        path = f"d[{f.name!r}]"
        if inner is None:
            parts.append(path)
            continue
        names[f"b_{f.name}"] = _builder(inner)
        if shape == "list":
            parts.append(f"[b_{f.name}(x) for x in {path}]")
        elif shape == "optional":
            parts.append(f"None if {path} is None else b_{f.name}({path})")
        else:
            parts.append(f"b_{f.name}({path})")
    source = "lambda d: cls(" + ", ".join(parts) + ")"
    return typing.cast("Callable[[Any], Any]", eval(source, names))  # noqa: S307 - own source


def _shape(hint: Any) -> tuple[Any, str]:
    """Say which dataclass a field holds, and whether alone, optional or in a list."""
    if isinstance(hint, types.UnionType):
        (inner,) = [a for a in typing.get_args(hint) if a is not type(None)]
        return (inner, "optional") if is_dataclass(inner) else (None, "")
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return (inner, "list") if is_dataclass(inner) else (None, "")
    return (hint, "one") if is_dataclass(hint) else (None, "")


_plain_position = _plainer(entries.Position)
_build_position = _builder(entries.Position)


def _plain_decision(decision: Decision) -> dict[str, Any]:
    return {
        "epoch": decision.epoch,
        "seq": decision.seq,
        "at_ms": decision.at_ms,
        "fold_from": decision.fold_from,
        "positions": [_plain_position(p) for p in decision.positions],
        "entries": [encode(e) for e in decision.entries],
    }


def _build_decision(plain: dict[str, Any]) -> Decision:
    return Decision(
        plain["epoch"],
        plain["seq"],
        plain["at_ms"],
        plain["fold_from"],
        [_build_position(p) for p in plain["positions"]],
        [decode_entry(e) for e in plain["entries"]],
    )


_ENTRIES: frozenset[type] = frozenset(typing.get_args(entries.Entry))
_MESSAGES: frozenset[type] = frozenset(typing.get_args(messages.Message))
_CLASSES: dict[str, type] = {
    c.__name__: c for c in (*_ENTRIES, *_MESSAGES, Decision, Letter, events.Event, ExportedRun)
}


def schema_files() -> dict[str, dict[str, Any]]:
    """Return every schema ever released, by file name without its ending (``Event.v1``)."""
    folder = resources.files("stepfold_schemas") / "avro"
    return {
        path.name.removesuffix(".avsc"): json.loads(path.read_text())
        for path in sorted(folder.iterdir(), key=lambda p: p.name)
        if path.name.endswith(".avsc")
    }


def schema_headers() -> dict[bytes, str]:
    """Return the ten bytes that begin a value, with the name of the schema that they mean."""
    return {header: kind.name for header, kind in _BY_HEADER.items()}


def _load() -> tuple[dict[type, _Kind], dict[bytes, _Kind]]:
    newest: dict[type, tuple[int, _Kind]] = {}
    by_header: dict[bytes, _Kind] = {}
    for name, schema in schema_files().items():
        class_name, _, version = name.partition(".v")
        kind = _Kind(name, _CLASSES[class_name], schema)
        by_header[kind.header] = kind
        if int(version) >= newest.get(kind.cls, (0, kind))[0]:
            newest[kind.cls] = (int(version), kind)
    by_class = {cls: kind for cls, (_, kind) in newest.items()}
    for kind in by_header.values():
        if kind is not by_class[kind.cls]:
            kind.newest = by_class[kind.cls].schema
    return by_class, by_header


_BY_CLASS, _BY_HEADER = _load()
_DECISIONS = frozenset(
    header
    for header, kind in _BY_HEADER.items()
    if kind.cls is Decision and [f["name"] for f in kind.raw["fields"]][:2] == ["epoch", "seq"]
)
