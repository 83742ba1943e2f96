"""Entries as columns: the shapes of facts, and the columns that are taken from entries.

Rules: ids of runs are ULIDs as text; a step is its key (bytes) until its run has ended.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from stepfold_projections.arrow import ArrowTable, pa, pc
from stepfold_projections.decoding import Column, flat

Numbers = npt.NDArray[np.int64]
_ALPHABET = np.frombuffer(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", dtype=np.uint8)

TEXT = pa.large_string()
NUMBER = pa.int64()
_ERROR = {"error_name": TEXT, "error_message": TEXT, "error_stack": TEXT}
_FACT = {"n": NUMBER, "at_ms": NUMBER, "partition": NUMBER, "run": TEXT}
_STEP = {**_FACT, "step": pa.large_binary()}

SHAPES: dict[str, dict[str, Any]] = {
    "started": {
        **_FACT, "function": TEXT, "version": TEXT, "due_ms": NUMBER, "event_name": TEXT,
        "event_id": TEXT,
        "input": TEXT, "event_ids": pa.large_list(TEXT), "invoker_run": TEXT,
        "invoker_step": pa.large_binary(),
    },
    "heads": {
        **_FACT, "function": TEXT, "version": TEXT, "due_ms": NUMBER, "invoker_run": TEXT,
        "invoker_step": pa.large_binary(), "stopped": pa.bool_(), "attempt": NUMBER,
    },
    "finished": {**_FACT, "status": TEXT, "output": TEXT, **_ERROR, "reason": TEXT},
    "reruns": {**_FACT, "origin": TEXT, "from_step": TEXT, "asked_by": TEXT, "why": TEXT},
    "marks": {**_FACT, "stopped": pa.bool_(), "report": TEXT},
    "began": {
        **_STEP, "kind": TEXT, "name": TEXT, "due_ms": NUMBER, "target": TEXT, "expression": TEXT,
    },
    "tried": {
        **_STEP, "name": TEXT, "attempt": NUMBER, "started_ms": NUMBER, "failed": pa.bool_(),
        "due_ms": NUMBER, **_ERROR,
    },
    "ended": {
        **_STEP, "kind": TEXT, "status": TEXT, "name": TEXT, "attempt": NUMBER,
        "started_ms": NUMBER, "data": TEXT, "event_id": TEXT, **_ERROR,
    },
}  # fmt: skip


def empty(name: str) -> ArrowTable:
    """Return a table of no facts of a kind."""
    return pa.schema(list(SHAPES[name].items())).empty_table()


class Rows:
    """Entries of one class: their fields, and where and when they were written."""

    def __init__(
        self, fields: ArrowTable, numbers: Numbers, at_ms: Numbers, partition: int
    ) -> None:
        self.fields, self._numbers, self._at_ms, self._partition = (
            fields, numbers, at_ms, partition,
        )  # fmt: skip

    def fact(self, *names: str, **more: Any) -> dict[str, Any]:
        """Return the columns of a fact of a run: the common ones, fields by name, and more."""
        columns: dict[str, Any] = {
            "n": self._numbers,
            "at_ms": self._at_ms,
            "partition": np.full(len(self._numbers), self._partition, dtype=np.int64),
        }
        for name in ("run", *names):
            column = flat(self.fields[name])
            columns[name] = ulids(column) if name == "run" else column
        return columns | more

    def repeated(self, column: str) -> tuple["Rows", Column]:
        """Return a row for each item of a list, and the items."""
        lists = flat(self.fields[column])
        parents = pc.list_parent_indices(lists).to_numpy()
        fields = self.fields.drop_columns([column]).take(pa.array(parents))
        rows = Rows(fields, self._numbers[parents], self._at_ms[parents], self._partition)
        return rows, pc.list_flatten(lists)

    def with_fields(self, fields: ArrowTable) -> "Rows":
        """Return the same rows with other fields."""
        return Rows(fields, self._numbers, self._at_ms, self._partition)

    def text(self, name: str) -> Column:
        """Return a field of bytes as text."""
        return flat(self.fields[name]).cast(TEXT)

    def error(self, column: str = "error") -> dict[str, Any]:
        """Return the columns of an error."""
        error = flat(self.fields[column])
        return {
            f"error_{part}": pc.struct_field(error, part) for part in ("name", "message", "stack")
        }


def ulids(column: Column) -> Column:
    """Write a column of 16-byte ids as ULIDs."""
    count = len(column)
    if count == 0:
        return pa.array([], type=TEXT)
    # 128 bits are 26 digits of 5 bits, the first of which has 3: in front come two zero bits.
    data = np.zeros((count, 17), dtype=np.uint16)
    data[:, :16] = np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint8).reshape(count, 16)
    digits = np.empty((count, 26), dtype=np.uint8)
    for place in range(26):
        byte, bit = divmod(place * 5 - 2, 8)
        if place == 0:
            digits[:, 0] = data[:, 0] >> 5
        else:
            pair = (data[:, byte] << 8) | data[:, byte + 1]
            digits[:, place] = (pair >> (11 - bit)) & 31
    offsets = np.arange(0, 26 * (count + 1), 26, dtype=np.int64)
    text = _ALPHABET[digits].tobytes()
    return pa.Array.from_buffers(TEXT, count, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def maybe_ulids(column: Column) -> Column:
    """Write ids as ULIDs where there is one."""
    known = column.drop_null()
    if not len(known):
        return pa.nulls(len(column), TEXT)
    places = np.full(len(column), 0, dtype=np.int64)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    places[valid] = np.arange(len(known))
    return ulids(known).take(pa.array(places, mask=~valid))


def shaped(name: str, columns: dict[str, Any]) -> ArrowTable:
    """Make a table of a fact's shape; columns that are not given are null."""
    shape = SHAPES[name]
    count = len(columns["n"])
    arrays: list[Any] = []
    for column, kind in shape.items():
        given = columns.get(column)
        if given is None:
            arrays.append(pa.nulls(count, kind))
        elif isinstance(given, (str, bool)):
            arrays.append(pa.repeat(pa.scalar(given, kind), count))
        else:
            array = given if isinstance(given, pa.Array) else pa.array(given)
            arrays.append(array if array.type == kind else array.cast(kind))
    return pa.Table.from_arrays(arrays, names=list(shape))
