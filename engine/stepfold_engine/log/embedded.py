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
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

from stepfold_engine.errors import (
    AppendRefusedError,
    AppendUnknownError,
    CorruptLogError,
    LogError,
    LogFullError,
)
from stepfold_engine.log import moved, tables, wal
from stepfold_engine.log.base import (
    EVENTS,
    INBOX,
    JOURNAL,
    TOPICS,
    Batch,
    Bounds,
    NewRecord,
    Record,
    check_sizes,
)
from stepfold_engine.log.lock import FolderLock
from stepfold_engine.log.space import Space
from stepfold_engine.log.tables import Partition, Row

_T = TypeVar("_T")
_log = logging.getLogger("stepfold")

SLOW_COMMIT_S = 0.005
TAIL_RECORDS_MAX = 1_000
TAIL_BYTES_MAX = 4 << 20
READ_BYTES = 128 << 10
"""How much is read at once; the event loop gets its turn before more is read."""
TRIM_ROWS = 2_000
WAL_KEPT_BYTES = 32 << 20
BUSY_MS = 1_000
"""How long a commit waits for somebody with the sqlite3 command; the event loop waits with it."""
_PAGE_BYTES = 4096
_TAILED = (EVENTS, INBOX)
_VITAL = (JOURNAL, INBOX)
"""What may use the reserve: finished outcomes, and what partitions owe each other."""


@dataclass(slots=True)
class _Ends:
    """What is known of one partition."""

    start: int
    end: int
    last_ms: int
    tail: deque[Record] = field(default_factory=deque[Record])
    tail_bytes: int = 0
    appended: asyncio.Event = field(default_factory=asyncio.Event)
    damage: str = ""

    def wake(self) -> None:
        """Let waiting reads look again."""
        self.appended.set()
        self.appended = asyncio.Event()


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
        self._busy = self._closed = False
        self._idle = asyncio.Event()
        self._counts: dict[str, int] = {}
        self._ends: dict[Partition, _Ends] = {}
        self._db: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._space: Space
        self._checkpointer: wal.Checkpointer

    @classmethod
    def open(
        cls,
        folder: Path,
        partitions: int | None,
        now_ms: Callable[[], int],
        *,
        bytes_max: int | None = None,
        reserve_bytes: int = 32 << 20,
        although_moved: bool = False,
    ) -> Self:
        """Open the log in a folder, making it if need be.

        Args:
            folder: where it lies.
            partitions: of each topic; fixed when it is made, None takes what it has.
            now_ms: the time of appends, in milliseconds since 1970.
            bytes_max: the limit on the file, None for the disk's.
            reserve_bytes: kept free for the journal when space runs out.
            although_moved: open it although what is alive in it was moved to another log.

        Raises:
            LogLockedError: another process has it open.
            CorruptLogError: acknowledged records are damaged; nothing is changed.
            LogError: it has another number of partitions, or a newer format, or was moved.
        """
        folder.mkdir(parents=True, exist_ok=True)
        log = cls(folder, now_ms, FolderLock(folder))
        try:
            log._look_at_tail()
            with contextlib.ExitStack() as opened:
                log._open(opened, partitions, bytes_max, reserve_bytes)
                if not although_moved:
                    moved.refuse(log._db, folder)
                opened.pop_all()
        except BaseException:
            log._lock.close()
            raise
        return log

    def _open(
        self,
        opened: contextlib.ExitStack,
        partitions: int | None,
        bytes_max: int | None,
        reserve_bytes: int,
    ) -> None:
        path = self.folder / "log.db"
        try:
            try:
                self._db = tables.connect(path)
            except sqlite3.OperationalError:
                # SQLite needs some space to open a file. If the disk is full, take the reserve.
                with contextlib.suppress(OSError):
                    os.truncate(self.folder / "reserve", 0)
                self._db = tables.connect(path)
            opened.callback(self._db.close)
            self._db.execute("PRAGMA secure_delete=OFF")
            self._db.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
            self._db.execute(f"PRAGMA busy_timeout={BUSY_MS}")
            tables.prepare(self._db, partitions, self.folder)
            self._counts = tables.counts_of(self._db)
            pairs = [(topic, number) for topic in TOPICS for number in range(self._counts[topic])]
            self._ends = {pair: self._ends_of(pair) for pair in pairs}
            self._reader = tables.connect(path)
            opened.callback(self._reader.close)
            self._reader.execute("PRAGMA query_only=ON")
            self._space = Space(self.folder, self._db, bytes_max, reserve_bytes)
            self._checkpointer = wal.Checkpointer(path)
            opened.callback(self._checkpointer.close)
        except sqlite3.Error as error:
            if tables.is_damage(error):
                raise CorruptLogError("log.db", 0, -1, f"{path} is damaged: {error}") from error
            raise LogError(f"{path} cannot be opened: {error}") from error
        _sync_folder(self.folder)

    def _ends_of(self, partition: Partition) -> _Ends:
        try:
            return _Ends(*tables.bounds_of(self._db, partition))
        except sqlite3.Error as error:
            if not tables.is_damage(error):
                raise
            # Only this partition stops.
            _log.error("%s", tables.damaged(partition, -1, error))
            return _Ends(0, 0, 0, damage=f"{self.folder} is damaged there: {error}")

    def _look_at_tail(self) -> None:
        path = self.folder / "log.db-wal"
        torn = wal.inspect(path)
        if torn is None:
            return
        text = (
            f"{path}: {torn.size} bytes of a commit that was not acknowledged were cut off"
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
        self._known((topic, 0))
        return self._counts[topic]

    def _known(self, partition: Partition) -> _Ends:
        """Return what is known of a partition.

        Raises:
            CorruptLogError: its table is damaged.
            LogError: there is no such partition, or the log is closed.
        """
        known = self._ends.get(partition)
        if known is None:
            raise LogError(f"{self.folder} has no partition {partition[1]} of {partition[0]!r}")
        if known.damage:
            raise CorruptLogError(*partition, -1, known.damage)
        if self._closed:
            raise LogError(f"the log in {self.folder} is closed")
        return known

    # Appending.

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port."""
        try:
            self._known((topic, partition))
        except LogError as error:
            raise AppendRefusedError(str(error)) from error
        check_sizes(topic, partition, records)
        if self._space.full:
            if not self._busy:
                self._space.look()
            if self._space.full and topic not in _VITAL:
                raise LogFullError(self._space.describe())
        done = asyncio.get_running_loop().create_future()
        self._put(_Append((topic, partition), records, done))
        found: int = await done
        return found

    def _put(self, item: _Append | _Trim) -> None:
        self._queue.append(item)
        if not self._scheduled:
            self._scheduled = True
            self._idle.clear()
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        """Commit everything that is queued, here or in a thread."""
        if self._checkpointer.waits:
            moving = self._in_thread(lambda: self._checkpointer.finish(self._db))
            moving.add_done_callback(lambda _: self._commit())
            return
        batch, self._queue = self._queue, []
        if self._slow_s < SLOW_COMMIT_S:
            self._finish(batch, *self._write(batch))
            return
        writing = self._in_thread(lambda: self._write(batch))
        writing.add_done_callback(lambda f: self._finish(batch, *f.result()))

    def _in_thread(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "stepfold-commit")
        self._busy = True
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(self._out_of_thread)
        return future

    def _out_of_thread(self, _: object) -> None:
        self._busy = False

    def _write(
        self, batch: list[_Append | _Trim]
    ) -> tuple[dict[int, LogError], dict[Partition, tuple[int, int]]]:
        """Write a batch; return what failed, by place in it, and the new starts and ends."""
        begun_s = time.perf_counter()
        failed: dict[int, LogError] = {}
        try:
            ends = self._transaction(batch)
        except Exception as error:  # noqa: BLE001 - else all who wait would wait for ever
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
        self._checkpointer.written(size + _PAGE_BYTES * (1 + len(rows)))
        return {p: (starts[p], ends[p]) for p in bounds}

    def _write_apart(
        self, batch: list[_Append | _Trim], failed: dict[int, LogError], error: Exception
    ) -> dict[Partition, tuple[int, int]]:
        """A commit failed and was rolled back: find out for each append what can be done."""
        if _is_unclear(error):
            for index in range(len(batch)):
                failed[index] = self._explained(batch[index], error)
            return {}
        if _is_full(error):
            self._space.full = True
        ends: dict[Partition, tuple[int, int]] = {}
        for index, item in enumerate(batch):
            try:
                found = self._write_alone(item, error)
            except Exception as again:  # noqa: BLE001 - goes to who waits for it
                failed[index] = self._explained(item, again)
                continue
            ends |= found
            for partition, (start, end) in found.items():
                known = self._ends[partition]
                known.start, known.end = start, end
                if isinstance(item, _Append) and item.rows:
                    known.last_ms = item.rows[-1][1]
        return ends

    def _write_alone(
        self, item: _Append | _Trim, before: Exception
    ) -> dict[Partition, tuple[int, int]]:
        """Write one item, with the reserve's space if there is no other and it may have it."""
        vital = isinstance(item, _Trim) or item.partition[0] in _VITAL
        if not vital and _is_full(before):
            raise before
        try:
            return self._transaction([item])
        except sqlite3.Error as error:
            if not (vital and tables.is_full(error)):
                raise
        self._space.run_out()
        return self._transaction([item])

    def _explained(self, item: _Append | _Trim, error: Exception) -> LogError:
        if not isinstance(error, sqlite3.Error):
            return AppendRefusedError(f"{item.partition[0]}/{item.partition[1]}: {error!r}")
        if tables.is_full(error):
            return LogFullError(self._space.describe())
        if tables.is_damage(error):
            damage = tables.damaged(item.partition, -1, error)
            return damage if isinstance(item, _Trim) else AppendRefusedError(str(damage))
        if _is_unclear(error):
            return AppendUnknownError(f"{self.folder}: {error}")
        return AppendRefusedError(f"{self.folder}: {error}")

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
                end = self._ends[item.partition].end
                item.done.set_result(item.rows[0][0] if item.rows else end)
            else:
                item.done.set_result(self._ends[item.partition].start)
        self._scheduled = bool(self._queue)
        if self._queue:
            asyncio.get_running_loop().call_soon(self._commit)
        else:
            self._idle.set()

    def _publish(self, item: _Append) -> None:
        known = self._ends[item.partition]
        if item.rows:
            known.last_ms = item.rows[-1][1]
        if item.partition[0] in _TAILED:
            for row, r in zip(item.rows, item.records, strict=True):
                known.tail.append(Record(row[0], row[1], r.value, r.key, r.headers))
                known.tail_bytes += len(r.value)
            while len(known.tail) > TAIL_RECORDS_MAX or known.tail_bytes > TAIL_BYTES_MAX:
                known.tail_bytes -= len(known.tail.popleft().value)
        known.wake()

    # Reading.

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; see the port."""
        known = self._known((topic, partition))
        if offset >= known.end and wait_ms:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    while offset >= known.end and not self._closed:
                        await known.appended.wait()
        if offset >= known.end or self._closed:
            return Batch([], max(offset, known.start), known.start)
        tail = known.tail
        if tail and tail[0].offset <= max(offset, known.start) <= tail[-1].offset:
            found = _from_tail(tail, max(offset, known.start), bytes_max)
            return Batch(found, found[-1].offset + 1, known.start)
        return await self._read_on((topic, partition), offset, bytes_max)

    async def _read_on(self, partition: Partition, offset: int, bytes_max: int) -> Batch:
        """Read from the file, a little at a time: the event loop gets its turns."""
        batch = self._select(partition, offset, min(bytes_max, READ_BYTES))
        left = bytes_max - _size(batch)
        while left > 0 and batch.next_offset < self._ends[partition].end:
            await asyncio.sleep(0)
            try:
                more = self._select(partition, batch.next_offset, min(left, READ_BYTES))
            except LogError:
                break  # the next read begins there, and raises
            if more.start > batch.next_offset:
                break
            left -= _size(more)
            batch = Batch(batch.records + more.records, more.next_offset, batch.start)
        return batch

    def _select(self, partition: Partition, offset: int, bytes_max: int) -> Batch:
        """Read from the file. Offsets are dense here: one that is missing was lost, or is a hole.

        Raises:
            CorruptLogError: the first record is damaged or missing.
        """
        known = self._known(partition)
        start, end = known.start, known.end
        first = max(offset, start)
        while first < end:
            found = tables.select(self._reader, partition, first, bytes_max)
            if found and found[0].offset == first:
                # Behind ``end`` lies what a thread has just committed and nobody was told of.
                whole = [r for i, r in enumerate(found, first) if r.offset == i < end]
                return Batch(whole, first + len(whole), start)
            # Or trimmed by a thread just now.
            start = max(start, tables.bounds_of(self._reader, partition)[0])
            behind = max(start, tables.behind_hole(self._reader, partition, first))
            if behind <= first:
                raise CorruptLogError(*partition, first, "the record is missing from the file")
            first = behind
        return Batch([], first, start)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        known = self._known((topic, partition))
        return Bounds(known.start, known.end)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        known = self._known((topic, partition))
        low, high = known.start, known.end
        while low < high:
            middle = (low + high) // 2
            batch = self._select((topic, partition), middle, 1)
            if not batch.records or batch.records[0].at_ms < at_ms:
                low = batch.next_offset
            else:
                high = middle
        return low

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset, a few with every commit."""
        known = self._known((topic, partition))
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
        if self._scheduled:
            await self._idle.wait()
        for known in self._ends.values():
            known.wake()
        if self._thread is not None:
            self._thread.shutdown()
        self._checkpointer.close()
        self._reader.close()
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        self._lock.close()


def _is_full(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and tables.is_full(error)


def _is_unclear(error: Exception) -> bool:
    """Say whether a commit that failed so may still have been written."""
    if not isinstance(error, sqlite3.Error) or tables.is_full(error) or tables.is_damage(error):
        return False
    return getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY


def _size(batch: Batch) -> int:
    return sum(len(record.value) for record in batch.records)


def _from_tail(tail: deque[Record], first: int, bytes_max: int) -> list[Record]:
    """Return records from memory. Offsets of a tail are dense."""
    found: list[Record] = []
    size = 0
    for record in islice(tail, first - tail[0].offset, None):
        found.append(record)
        size += len(record.value)
        if size >= bytes_max:
            break
    return found


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
