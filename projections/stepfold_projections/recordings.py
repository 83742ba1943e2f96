"""Recordings of finished runs, kept beside the rows, for when their journals are gone.

They are written with a day's files (``archive``), by who can read the journal. Once written they
never change.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stepfold_projections.arrow import pa, pq
from stepfold_projections.store import Store

NAME = "recordings"
CHUNK = 2_000
"""How many runs are asked for at once; they lie near one another in their journal."""

_SCHEMA = pa.schema(
    [
        ("run", pa.large_string()),
        ("function", pa.large_string()),
        ("ended_at", pa.timestamp("us")),
        ("recording", pa.large_binary()),
        ("run_ended_at", pa.timestamp("us")),
    ]
)


class Whereabouts(NamedTuple):
    """Where a finished run lies: its journal's number, and the offsets of its ends there."""

    run: str
    partition: int
    first_offset: int
    last_offset: int


class Recorder(Protocol):
    """Reads runs out of journals."""

    def record(self, runs: Sequence[Whereabouts]) -> Iterator[tuple[str, bytes]]:
        """Yield runs of one journal with their recordings, a run of a run file each.

        Those whose history is no longer whole in the log are left out.

        Raises:
            SourceError: the journal cannot be read.
        """
        ...


def write_day(store: Store, day: date, path: Path, recorder: Recorder) -> int:
    """Write the recordings of a day's finished runs; return how many there are.

    Nothing is written if there are none.
    """
    runs = store.db.cursor()
    runs.execute(
        "SELECT run, partition, first_offset, last_offset, function, ended_at FROM past.runs"
        " WHERE CAST(ended_at AS DATE) = ? AND NOT partial ORDER BY partition, first_offset",
        [day],
    )
    new, count = path.with_suffix(".new"), 0
    writer: Any = None
    try:
        while rows := runs.fetchmany(CHUNK):
            more = {row[0]: row[4:] for row in rows}
            found: list[tuple[object, ...]] = []
            for number in sorted({row[1] for row in rows}):
                places = [Whereabouts(*row[:4]) for row in rows if row[1] == number]
                for run, data in recorder.record(places):
                    function, ended_at = more[run]
                    found.append((run, function, ended_at, data, ended_at))
            if not found:
                continue
            if writer is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(new, _SCHEMA, compression="zstd")
            columns = [pa.array(column, kind) for column, kind in zip(
                zip(*found, strict=True), _SCHEMA.types, strict=True
            )]  # fmt: skip
            writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
            count += len(found)
    finally:
        runs.close()
        if writer is not None:
            writer.close()
    if count:
        new.replace(path)
    return count
