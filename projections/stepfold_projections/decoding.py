"""Avro values to Arrow columns, many at once; the only importer of polars.

The log's values are single-object encoded: ten bytes that name the writer's schema, then the
value. The values of one schema, one behind the other, are just what a block of an Avro container
file holds, which polars reads into columns without making Python objects. For steps of 20 bytes
that takes a tenth of the time that decoding them one by one takes.
"""

# polars' and pyarrow's stubs are partly unknown; tables leave this module checked by name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingTypeArgument=false

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from stepfold_projections.arrow import ArrowTable, pa, pc
from stepfold_schemas import codec

HEADER_BYTES = 10
_SYNC = b"stepfold's blocks"[:16]
_END = 2**31 - 1

NESTED = frozenset({"RunRestated", "HistoryRestated"})
"""Polars does not read schemas that name a type a second time; these are read one by one."""

Column = Any
"""An Arrow array; pyarrow's stubs name a class for each type of value."""

Places = npt.NDArray[np.int64]


class DamagedError(ValueError):
    """Values of this schema cannot be read; the message says which schema and why."""


def long_bytes(number: int) -> bytes:
    """Write a number as Avro does: zigzag, seven bits a byte.

    >>> long_bytes(64).hex()
    '8001'
    """
    left = (number << 1) ^ (number >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def _container_head(schema: Mapping[str, object]) -> bytes:
    written = json.dumps(_without_defaults(schema)).encode()
    pairs = {b"avro.schema": written, b"avro.codec": b"null"}
    parts = [b"Obj\x01", long_bytes(len(pairs))]
    for name, value in pairs.items():
        parts += (long_bytes(len(name)), name, long_bytes(len(value)), value)
    return b"".join([*parts, b"\0", _SYNC])


def _without_defaults(schema: Any) -> Any:
    """Leave out what only readers of older values need: polars does not read all of them."""
    if isinstance(schema, list):
        return [_without_defaults(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_defaults(part) for name, part in schema.items() if name != "default"}


class Kind:
    """One schema: the bytes that name it, its class, and how a block of it begins."""

    def __init__(self, name: str, schema: Mapping[str, object]) -> None:
        self.name, self.cls, self._schema = name, name.partition(".v")[0], schema
        self._head = _container_head(schema)

    def table(self, bodies: bytes, count: int) -> ArrowTable:
        """Read ``count`` values that lie one behind the other, without their headers.

        Raises:
            DamagedError: they are not values of this schema.
        """
        block = [self._head, long_bytes(count), long_bytes(len(bodies)), bodies, _SYNC]
        try:
            frame = pl.read_avro(io.BytesIO(b"".join(block)))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise DamagedError(f"damaged {self.name}: {error}") from error
        if frame.height != count:
            raise DamagedError(f"damaged {self.name}: {frame.height} values of {count}")
        return frame.to_arrow()

    def table_of(self, values: Sequence[bytes]) -> ArrowTable:
        """Read values with their headers, one by one.

        Raises:
            DamagedError: one of them is not a value of this schema.
        """
        try:
            rows = [asdict(codec.decode_entry(value)) for value in values]
        except codec.UndecodableError as error:
            raise DamagedError(str(error)) from error
        return pa.Table.from_pylist(rows, schema=pa.schema(list(_arrow_type(self._schema, {}))))


_SCHEMAS = codec.schema_files()


def _arrow_type(avro: Any, known: dict[str, Any]) -> Any:
    """Return the Arrow type that holds what an Avro type does; ``known`` are those with names."""
    if isinstance(avro, list):
        parts: list[Any] = avro
        (inner,) = [part for part in parts if part != "null"]
        return _arrow_type(inner, known)
    if isinstance(avro, str):
        return known[avro] if avro in known else _PLAIN[avro]()
    if avro["type"] == "array":
        return pa.large_list(_arrow_type(avro["items"], known))
    fields = [(field["name"], _arrow_type(field["type"], known)) for field in avro["fields"]]
    known[avro["name"]] = pa.struct(fields)
    return known[avro["name"]]


_PLAIN = {
    "long": pa.int64, "int": pa.int64, "double": pa.float64, "boolean": pa.bool_,
    "string": pa.large_string, "bytes": pa.large_binary,
}  # fmt: skip

KINDS: dict[bytes, Kind] = {
    header: Kind(name, _SCHEMAS[name]) for header, name in codec.schema_headers().items()
}


def decode(values: Sequence[bytes], cls: str) -> ArrowTable:
    """Read values of one class, whatever the versions of their schemas, in order.

    Raises:
        DamagedError: one of them is not of a known schema of the class, or damaged.
    """
    column = pa.array(values, pa.large_binary())
    headers: list[bytes] = pc.unique(pc.binary_slice(column, 0, HEADER_BYTES)).to_pylist()
    if len(headers) == 1:
        kind = _known(headers[0], cls)
        return kind.table(_joined(pc.binary_slice(column, HEADER_BYTES, _END)), len(values))
    tables: list[ArrowTable] = []
    order: list[int] = []
    for header in headers:
        kind = _known(header, cls)
        mine = [i for i, v in enumerate(values) if v[:HEADER_BYTES] == header]
        tables.append(kind.table(b"".join([values[i][HEADER_BYTES:] for i in mine]), len(mine)))
        order += mine
    whole = pa.concat_tables(tables, promote_options="default")
    return whole.take(np.argsort(np.array(order)))


def _known(header: bytes, cls: str = "") -> Kind:
    kind = KINDS.get(header)
    if kind is None or (cls and kind.cls != cls):
        what = kind.name if kind is not None else f"an unknown schema ({header.hex()})"
        text = f"{cls or 'a value'} was expected, this is {what}"
        raise DamagedError(f"{text}; a newer release of stepfold may read it")
    return kind


def flat(column: Column) -> Column:
    """Return a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column


def entries_by_class(
    values: Column, wanted: Collection[str]
) -> Iterator[tuple[str, Places, ArrowTable]]:
    """Take a column of encoded entries apart by class: (class, their places, their fields).

    Classes that are not wanted are left out, undecoded.

    Raises:
        DamagedError: one of them is not of a known schema, or damaged.
    """
    heads = pc.binary_slice(values, 0, HEADER_BYTES).dictionary_encode()
    codes = heads.indices.to_numpy(zero_copy_only=False)
    for code, header in enumerate(heads.dictionary.to_pylist()):
        kind = _known(header)
        if kind.cls not in wanted:
            continue
        places = np.flatnonzero(codes == code)
        some = values if len(places) == len(values) else values.take(pa.array(places))
        bodies = flat(pc.binary_slice(some, HEADER_BYTES, _END))
        if kind.cls in NESTED:
            yield kind.cls, places, kind.table_of(some.to_pylist())
        else:
            yield kind.cls, places, kind.table(_joined(bodies), len(places))


def _joined(column: Column) -> bytes:
    """Return the values of a column of bytes, one behind the other."""
    if len(column) == 0:
        return b""
    _, offsets, data = column.buffers()
    kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    ends = np.frombuffer(offsets, dtype=kind)[column.offset : column.offset + len(column) + 1]
    return bytes(memoryview(data)[ends[0] : ends[-1]]) if data is not None else b""
