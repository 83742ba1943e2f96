"""A copy of a whole log, as an embedded log in a folder: same records, same offsets, same holes.

It is for looking at and for debugging: positions and places that journals hold stay true. The
journals are read first, so the inputs that they have read are there, too. Each journal is copied
as it was at one moment; those of a log that is being written are of different moments.
"""

import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stepfold_engine.errors import LogError
from stepfold_engine.log import tables
from stepfold_engine.log.base import (
    DEAD_LETTERS,
    EVENTS,
    INBOX,
    JOURNAL,
    TOPICS,
    Batch,
    Bounds,
    Log,
    NewRecord,
    Record,
)
from stepfold_engine.log.lock import FolderLock
from stepfold_engine.log.tables import Partition

ORDER = (JOURNAL, INBOX, EVENTS, DEAD_LETTERS)
READ_BYTES = 4 << 20
UNFINISHED = "log.db.copying"
_FILES = ("", "-wal", "-shm")


@dataclass(slots=True)
class Copied:
    """What was copied of a partition.

    Attributes:
        bounds: its first offset and its end.
        records: how many records lie between.
        missing: how many offsets between are holes.
    """

    bounds: Bounds
    records: int = 0
    missing: int = 0


async def copy_log(
    log: Log, folder: Path, tell: Callable[[str, Sequence[Copied]], None]
) -> dict[str, list[Copied]]:
    """Copy a log into a folder that holds none; a copy that fails leaves none behind.

    Args:
        log: is only read.
        folder: is made if need be.
        tell: hears of each topic that is copied, a partition after the other.

    Raises:
        LogLockedError: another process uses the folder.
        LogError: there is a log in the folder, or one of the two cannot be read or written.
    """
    done: dict[str, list[Copied]] = {}
    try:
        with _new_file(folder) as db:
            counts = {topic: await log.partitions(topic) for topic in TOPICS}
            tables.make_meta(db)
            tables.make(db, counts)
            for topic in ORDER:
                copied = done[topic] = [
                    await _copy(log, db, (topic, n)) for n in range(counts[topic])
                ]
                tell(topic, copied)
    except (sqlite3.Error, OSError) as error:
        raise LogError(f"the copy in {folder} cannot be written: {error}") from error
    return done


@contextmanager
def _new_file(folder: Path) -> Generator[sqlite3.Connection]:
    """Give a file that becomes the folder's log when the block is done, and is gone if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(FolderLock(folder)):
        path, unfinished = folder / "log.db", folder / UNFINISHED
        if path.exists():
            raise LogError(f"{folder} holds a log already; a copy needs a folder of its own")
        _remove(unfinished)
        try:
            with closing(tables.connect(unfinished)) as db:
                db.execute("PRAGMA synchronous=OFF")  # it is synced as a whole
                db.execute("PRAGMA wal_autocheckpoint=1000")
                yield db
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            _remove(unfinished)


def _remove(unfinished: Path) -> None:
    for end in _FILES:
        unfinished.with_name(unfinished.name + end).unlink(missing_ok=True)


async def _copy(log: Log, db: sqlite3.Connection, partition: Partition) -> Copied:
    while True:
        copied = Copied(await log.bounds(*partition))
        if await _copy_between(log, db, partition, copied):
            return copied
        tables.clear(db, partition)  # trimmed while it was read: again, from its new start


async def _copy_between(
    log: Log, db: sqlite3.Connection, partition: Partition, copied: Copied
) -> bool:
    """Copy what lies between two offsets; return False if some of it was trimmed meanwhile."""
    start, end = copied.bounds.start, copied.bounds.end
    holes: list[tuple[int, int]] = []
    expected = start
    async for batch in _batches(log, partition, start, end):
        if batch.start > start:
            return False
        records = [record for record in batch.records if record.offset < end]
        for record in records:
            if record.offset > expected:
                holes.append((expected, record.offset))
            expected = record.offset + 1
        rows = [tables.row_of(r.offset, r.at_ms, _again(r)) for r in records]
        tables.transaction(db, partial(tables.insert, db, partition, rows))
        copied.records += len(records)
    if expected < end:
        holes.append((expected, end))
    copied.missing = sum(after - first for first, after in holes)
    tables.note_holes(db, partition, holes)
    tables.note_start(db, partition, start)
    return True


async def _batches(log: Log, partition: Partition, start: int, end: int) -> AsyncGenerator[Batch]:
    offset = start
    while offset < end:
        batch = await log.read(*partition, offset, bytes_max=READ_BYTES)
        if batch.next_offset <= offset:
            raise LogError(f"{partition[0]}/{partition[1]}: nothing can be read at {offset}")
        offset = batch.next_offset
        yield batch


def _again(record: Record) -> NewRecord:
    return NewRecord(record.value, record.key, record.headers)
