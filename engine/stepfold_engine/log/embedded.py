"""The embedded log: one folder on this machine, durable (``log.base.Log``).

SQLite in WAL mode, synced at every commit. Appends that come together become one commit. A commit
runs on the event loop itself while the disk is quick (a hand-over to a thread costs about as much
as the commit), and in a thread while it is slow.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from stepfold_engine.errors import (
    AppendRefusedError,
    AppendUnknownError,
    CorruptLogError,
    LogError,
    LogFullError,
    RecordTooLargeError,
)
from stepfold_engine.log import tables, wal
from stepfold_engine.log.base import (
    EVENTS,
    INBOX,
    JOURNAL,
    RECORD_BYTES_MAX,
    TOPICS,
    Batch,
    Bounds,
    NewRecord,
    Record,
)
from stepfold_engine.log.lock import FolderLock
from stepfold_engine.log.space import Space
from stepfold_engine.log.tables import Partition, Row

_log = logging.getLogger("stepfold")

SLOW_COMMIT_S = 0.005
CHECKPOINT_BYTES = 8 << 20
TAIL_RECORDS_MAX = 1_000
TRIM_ROWS = 2_000
_TAILED = (EVENTS, INBOX)


@dataclass(slots=True)
class _Ends:
    """What is known of one partition."""

    start: int
    end: int
    last_ms: int
    tail: deque[Record]
    appended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Append:
    """An append that waits for its commit."""

    partition: Partition
    records: Sequence[NewRecord]
    done: asyncio.Future[int]
    rows: list[Row] = field(default_factory=list[Row])


@dataclass(slots=True)
class _Trim:
    """A piece of trimming that waits for its commit."""

    partition: Partition
    before: int
    done: asyncio.Future[int]


class EmbeddedLog:
    """A log in one folder. Open it with ``open``; one process at a time.

    Attributes:
        warnings: what was found and mended when it was opened.
    """

    def __init__(self, folder: Path, now_ms: Callable[[], int], lock: FolderLock) -> None:
        self.folder, self._now_ms, self._lock = folder, now_ms, lock
        self.warnings: list[str] = []
        self._queue: list[_Append | _Trim] = []
        self._scheduled = False
        self._slow_s = 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False
        self._wal_bytes = 0
        self._checkpoint = threading.Event()
        self._db: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._space: Space
        self._ends: dict[Partition, _Ends] = {}
        self._checkpointer: threading.Thread

    @classmethod
    def open(
        cls,
        folder: Path,
        partitions: int | None,
        now_ms: Callable[[], int],
        *,
        bytes_max: int | None = None,
        reserve_bytes: int = 32 << 20,
    ) -> Self:
        """Open the log in a folder, making it if need be.

        Args:
            folder: where it lies.
            partitions: of each topic; fixed when it is made, None takes what it has.
            now_ms: the time of appends, in milliseconds since 1970.
            bytes_max: the limit on the file, None for the disk's.
            reserve_bytes: kept free for the journal when space runs out.

        Raises:
            LogLockedError: another process has it open.
            CorruptLogError: acknowledged records are damaged; nothing is changed.
            LogError: it has another number of partitions, or a newer format.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log = cls(folder, now_ms, FolderLock(folder))
        try:
            log._open(partitions, bytes_max, reserve_bytes)
        except BaseException:
            log._lock.close()
            raise
        return log

    def _open(self, partitions: int | None, bytes_max: int | None, reserve_bytes: int) -> None:
        path = self.folder / "log.db"
        self._look_at_tail(self.folder / "log.db-wal")
        try:
            self._db = tables.connect(path)
            count = tables.prepare(self._db, partitions, self.folder)
            for topic in TOPICS:
                for number in range(count):
                    start, end, last_ms = tables.bounds_of(self._db, (topic, number))
                    tail = deque[Record](maxlen=TAIL_RECORDS_MAX)
                    self._ends[topic, number] = _Ends(start, end, last_ms, tail)
            self._reader = tables.connect(path)
            self._reader.execute("PRAGMA query_only=ON")
        except sqlite3.DatabaseError as error:
            raise CorruptLogError("log.db", 0, -1, f"{path} cannot be read: {error}") from error
        self._space = Space(self.folder, self._db, bytes_max, reserve_bytes)
        _sync_folder(self.folder)
        self._checkpointer = threading.Thread(
            target=self._checkpoint_often, args=(path,), name="stepfold-checkpoint", daemon=True
        )
        self._checkpointer.start()

    def _look_at_tail(self, path: Path) -> None:
        tail = wal.inspect(path)
        if tail is None:
            return
        if tail.commits > 1:
            text = (
                f"{path}, frame {tail.frame} (byte {tail.position} on) is damaged, and"
                f" {tail.commits} commits lie behind it. Nothing was changed; restore the folder"
                " from a copy."
            )
            raise CorruptLogError("log.db-wal", 0, tail.frame, text)
        text = (
            f"{path}: {tail.torn_bytes} bytes of a commit that was not acknowledged were cut off"
            " (the process or the machine stopped in the middle of it)"
        )
        self.warnings.append(text)
        _log.warning("%s", text)

    @property
    def full(self) -> bool:
        """Space has run out: events are refused, the journal uses the reserve."""
        return self._space.full

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return sum(1 for found, _ in self._ends if found == topic)

    # Appending.

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port."""
        if self._closed:
            raise AppendRefusedError(f"the log in {self.folder} is closed")
        for record in records:
            if len(record.value) > RECORD_BYTES_MAX:
                text = f"{topic}/{partition}: a record of {len(record.value)} bytes"
                raise RecordTooLargeError(f"{text}; the limit is {RECORD_BYTES_MAX}")
        self._space.look()
        if self._space.full and topic not in (JOURNAL, INBOX):
            raise LogFullError(self._space.describe())
        done = asyncio.get_running_loop().create_future()
        self._put(_Append((topic, partition), records, done))
        found: int = await done
        return found

    def _put(self, item: _Append | _Trim) -> None:
        self._queue.append(item)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        """Commit everything that is queued, here or in a thread."""
        batch, self._queue = self._queue, []
        if self._slow_s < SLOW_COMMIT_S:
            self._finish(batch, *self._write(batch))
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "stepfold-commit")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, self._write, batch)
        future.add_done_callback(lambda f: self._finish(batch, *f.result()))

    def _write(
        self, batch: list[_Append | _Trim]
    ) -> tuple[dict[int, LogError], dict[Partition, tuple[int, int]]]:
        """Write a batch; return what failed, by place in it, and the new starts and ends."""
        begun_s = time.perf_counter()
        failed: dict[int, LogError] = {}
        try:
            ends = self._transaction(batch)
        except sqlite3.Error as error:
            ends = self._write_apart(batch, failed, error)
        took_s = time.perf_counter() - begun_s
        self._slow_s += 0.2 * (took_s - self._slow_s)
        return failed, ends

    def _transaction(self, batch: list[_Append | _Trim]) -> dict[Partition, tuple[int, int]]:
        bounds = {i.partition: self._ends[i.partition] for i in batch}
        ends = {p: e.end for p, e in bounds.items()}
        starts = {p: e.start for p, e in bounds.items()}
        rows: dict[Partition, list[Row]] = {}
        now_ms = self._now_ms()
        size = 0

        for item in batch:
            if isinstance(item, _Trim):
                continue
            at_ms = max(now_ms, bounds[item.partition].last_ms)
            end = ends[item.partition]
            item.rows = [tables.row_of(end + i, at_ms, r) for i, r in enumerate(item.records)]
            size += sum(len(row[3]) for row in item.rows)
            rows.setdefault(item.partition, []).extend(item.rows)
            ends[item.partition] = end + len(item.rows)

        def work() -> None:
            for partition, some in rows.items():
                tables.insert(self._db, partition, some)
            for item in batch:
                if isinstance(item, _Trim):
                    starts[item.partition] = tables.delete_below(
                        self._db, item.partition, item.before, TRIM_ROWS
                    )

        tables.transaction(self._db, work)
        self._wal_bytes += size + 4096 * (1 + len(rows))
        if self._wal_bytes > CHECKPOINT_BYTES:
            self._wal_bytes = 0
            self._checkpoint.set()
        return {p: (starts[p], ends[p]) for p in bounds}

    def _write_apart(
        self, batch: list[_Append | _Trim], failed: dict[int, LogError], error: sqlite3.Error
    ) -> dict[Partition, tuple[int, int]]:
        """A commit failed and was rolled back: find out for each append what can be done."""
        if tables.is_full(error):
            self._space.run_out()
            for index, item in enumerate(batch):
                if item.partition[0] not in (JOURNAL, INBOX):
                    failed[index] = LogFullError(self._space.describe())
        elif not tables.is_damage(error):
            for index in range(len(batch)):
                failed[index] = AppendUnknownError(f"{self.folder}: {error}")
            return {}
        ends: dict[Partition, tuple[int, int]] = {}
        for index, item in enumerate(batch):
            if index in failed:
                continue
            try:
                found = self._transaction([item])
            except sqlite3.Error as again:
                failed[index] = self._explained(item, again)
                continue
            for partition, (start, end) in found.items():
                ends[partition] = (start, end)
                self._ends[partition].end = end
        return ends

    def _explained(self, item: _Append | _Trim, error: sqlite3.Error) -> LogError:
        if tables.is_full(error):
            return LogFullError(self._space.describe())
        if tables.is_damage(error):
            return tables.damaged(item.partition, -1, error)
        return AppendUnknownError(f"{self.folder}: {error}")

    def _finish(
        self,
        batch: list[_Append | _Trim],
        failed: dict[int, LogError],
        ends: dict[Partition, tuple[int, int]],
    ) -> None:
        """Tell everyone who waits for a batch, on the event loop."""
        for partition, (start, end) in ends.items():
            known = self._ends[partition]
            known.start, known.end = start, end
        for index, item in enumerate(batch):
            error = failed.get(index)
            if error is None and isinstance(item, _Append):
                self._publish(item)
            if item.done.done():
                continue
            if error is not None:
                item.done.set_exception(error)
            elif isinstance(item, _Append):
                item.done.set_result(item.rows[0][0] if item.rows else 0)
            else:
                item.done.set_result(self._ends[item.partition].start)
        self._scheduled = bool(self._queue)
        if self._queue:
            asyncio.get_running_loop().call_soon(self._commit)

    def _publish(self, item: _Append) -> None:
        known = self._ends[item.partition]
        if item.rows:
            known.last_ms = item.rows[-1][1]
        if item.partition[0] in _TAILED:
            known.tail.extend(
                Record(row[0], row[1], row[3], row[2], r.headers)
                for row, r in zip(item.rows, item.records, strict=True)
            )
        known.appended.set()
        known.appended = asyncio.Event()

    # Reading.

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; see the port."""
        known = self._ends[topic, partition]
        if offset >= known.end and wait_ms:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await known.appended.wait()
        first = max(offset, known.start)
        if first >= known.end:
            return Batch([], first, known.start)
        if known.tail and known.tail[0].offset <= first:
            found = _from_tail(known.tail, first, bytes_max)
        else:
            found = tables.select(self._reader, (topic, partition), first, bytes_max)
        after = found[-1].offset + 1 if found else first
        return Batch(found, after, known.start)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        known = self._ends[topic, partition]
        return Bounds(known.start, known.end)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        known = self._ends[topic, partition]
        low, high = known.start, known.end
        while low < high:
            middle = (low + high) // 2
            (record,) = tables.select(self._reader, (topic, partition), middle, 1)
            if record.at_ms < at_ms:
                low = middle + 1
            else:
                high = middle
        return low

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset, a few with every commit."""
        known = self._ends[topic, partition]
        before = min(before, known.end)
        while known.start < before and not self._closed:
            done = asyncio.get_running_loop().create_future()
            self._put(_Trim((topic, partition), before, done))
            await done

    async def close(self) -> None:
        """Finish appends under way, tidy up, and let the folder go."""
        if self._closed:
            return
        self._closed = True
        while self._scheduled:
            await asyncio.sleep(0)
        if self._thread is not None:
            self._thread.shutdown()
        self._checkpoint.set()
        self._checkpointer.join()
        self._reader.close()
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        self._lock.close()

    def _checkpoint_often(self, path: Path) -> None:
        """Move what is committed from the write-ahead log into the file, off the event loop."""
        db = tables.connect(path)
        try:
            while True:
                self._checkpoint.wait()
                self._checkpoint.clear()
                if self._closed:
                    return
                with contextlib.suppress(sqlite3.Error):
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            db.close()


def _from_tail(tail: deque[Record], first: int, bytes_max: int) -> list[Record]:
    """Return records from memory. Offsets of a tail are dense."""
    found: list[Record] = []
    size = 0
    for index in range(first - tail[0].offset, len(tail)):
        found.append(tail[index])
        size += len(tail[index].value)
        if size >= bytes_max:
            break
    return found


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
