"""SQLite's write-ahead log (WAL): looked at before SQLite opens it, and kept short while it runs.

SQLite takes the frames of the WAL up to the last commit whose checksums hold and silently ignores
the rest. That is right for the torn tail of a commit that nobody was told of, and wrong for a
damaged frame that acknowledged commits lie behind: they would be gone without a word. A commit
begins only after the one before it was synced, so at most one commit can be torn: two commits at
or behind a broken frame mean that acknowledged data is damaged.

The format: https://www.sqlite.org/fileformat2.html#walformat (section 4).
"""

import logging
import sqlite3
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stepfold_engine.errors import CorruptLogError
from stepfold_engine.log import tables

_log = logging.getLogger("stepfold")

CHECKPOINT_BYTES = 8 << 20
"""A WAL of about this size is moved into the file."""

WAL_BYTES_MAX = 64 << 20
"""The writer waits for a checkpoint that is behind by more than this."""

STALE_SALT_DISTANCE_MAX = 1 << 20
"""The first salt grows by one each time the file is used from its start again; what an earlier
use left behind has a salt a little below. Anything further away is not SQLite's."""

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_PAGE_BYTES = 4096
_ORDERS = {0x377F0682: "<", 0x377F0683: ">"}
_MASK = 0xFFFFFFFF

_Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TornTail:
    """The part of a WAL that belongs to no finished commit, in bytes. SQLite cuts it."""

    position: int
    size: int


@dataclass(frozen=True, slots=True)
class _Header:
    order: str
    page_bytes: int
    salts: _Pair
    sums: _Pair


@dataclass(frozen=True, slots=True)
class _Frame:
    number: int  # from 1
    position: int
    end: int
    commit: bool
    salts: _Pair
    sums: _Pair
    summed: bytes  # what its checksum covers, besides all frames before it
    whole: bool


def inspect(path: Path) -> TornTail | None:
    """Return what SQLite will cut from a WAL, None if there is nothing to cut, or no WAL.

    Raises:
        CorruptLogError: acknowledged commits are damaged. The file must not be given to SQLite.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    if size == 0:
        return None
    with path.open("rb") as file:
        header = _read_header(file.read(_HEADER_BYTES))
        if header is None:
            return _judge_without_header(path, file, size)
        return _judge(path, header, _frames(file, header.page_bytes))


def _judge(path: Path, header: _Header, frames: Iterator[_Frame]) -> TornTail | None:
    sums = header.sums
    good_end = tail_end = _HEADER_BYTES
    broken: _Frame | None = None
    commits = 0
    for frame in frames:
        ours = frame.salts == header.salts
        if broken is None and ours and frame.whole:
            sums = _checksum(frame.summed, header.order, sums)
            if sums == frame.sums:
                tail_end = frame.end
                good_end = frame.end if frame.commit else good_end
                continue
        # Tearing leaves blocks unwritten, so that old bytes or zeros show. A frame with any other
        # salts is damage and may have been a commit: the one behind it was acknowledged then.
        foreign = broken is None and not ours and not _is_old(frame.salts, header.salts)
        broken = broken or frame
        commits += foreign or (ours and frame.commit)
        if ours or foreign or not frame.whole:
            tail_end = frame.end
    if broken is not None and commits > 1:
        raise damaged(path, broken.number, broken.position, commits)
    return TornTail(good_end, tail_end - good_end) if tail_end > good_end else None


def _judge_without_header(path: Path, file: BinaryIO, size: int) -> TornTail:
    """Judge a WAL whose header does not hold. SQLite would take it for empty.

    It is written together with the first commit after everything before was moved away, and is
    too short to be torn itself: more than one commit behind it means damage.
    """
    counts = Counter(f.salts for f in _frames(file, _PAGE_BYTES) if f.commit and f.salts != (0, 0))
    commits = max(counts.values(), default=0)
    if commits > 1:
        raise damaged(path, 0, 0, commits)
    return TornTail(0, size)


def damaged(path: Path, frame: int, position: int, commits: int) -> CorruptLogError:
    """Return the error for a WAL that acknowledged commits were lost from."""
    text = (
        f"{path}, frame {frame} (byte {position} on) is damaged, and {commits} commits lie at or"
        " behind it. Nothing was changed; restore the folder from a copy."
    )
    error = CorruptLogError(path.name, 0, -1, text)
    error.args = (text,)  # a file, not a record: no topic and offset in the message
    return error


def _read_header(data: bytes) -> _Header | None:
    if len(data) < _HEADER_BYTES:
        return None
    magic, _, page_bytes, _, salt_1, salt_2, sum_1, sum_2 = struct.unpack(">8I", data)
    order = _ORDERS.get(magic)
    if order is None or _checksum(data[:24], order, (0, 0)) != (sum_1, sum_2):
        return None
    return _Header(order, page_bytes, (salt_1, salt_2), (sum_1, sum_2))


def _frames(file: BinaryIO, page_bytes: int) -> Iterator[_Frame]:
    size = _FRAME_HEADER_BYTES + page_bytes
    number, position = 1, _HEADER_BYTES
    file.seek(position)
    while data := file.read(size):
        head = data[:_FRAME_HEADER_BYTES].ljust(_FRAME_HEADER_BYTES, b"\0")
        _, pages, salt_1, salt_2, sum_1, sum_2 = struct.unpack(">6I", head)
        yield _Frame(
            number,
            position,
            position + len(data),
            pages != 0,
            (salt_1, salt_2),
            (sum_1, sum_2),
            data[:8] + data[_FRAME_HEADER_BYTES:],
            len(data) == size,
        )
        number, position = number + 1, position + size


def _checksum(data: bytes, order: str, sums: _Pair) -> _Pair:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        first = (first + words[i] + second) & _MASK
        second = (second + words[i + 1] + first) & _MASK
    return first, second


def _is_old(salts: _Pair, current: _Pair) -> bool:
    distance = (current[0] - salts[0]) & _MASK
    return salts == (0, 0) or 0 < distance <= STALE_SALT_DISTANCE_MAX


class Checkpointer:
    """Moves commits from the WAL into the file, off the event loop.

    SQLite uses the WAL from its start again only once all of it has been moved, and a checkpoint
    beside a busy writer never gets there: the file would grow for ever. So a thread moves the
    bulk while the writer goes on, and then the writer stops for the few frames that are left.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._db = path, tables.connect(path)
        self._bytes = 0
        self._wanted = threading.Event()
        self._moving = threading.Lock()
        self._behind = self._closed = False
        self._thread = threading.Thread(target=self._run, name="stepfold-checkpoint", daemon=True)
        self._thread.start()

    def written(self, size: int) -> None:
        """Note a commit; ask for a checkpoint if it is time."""
        self._bytes += size
        if self._bytes > CHECKPOINT_BYTES and not self._wanted.is_set():
            self._wanted.set()

    @property
    def waits(self) -> bool:
        """The writer should call ``finish`` before its next commit."""
        return self._behind or self._bytes > WAL_BYTES_MAX

    def finish(self, db: sqlite3.Connection) -> None:
        """Move what is left, on the writer's connection, while it writes nothing."""
        with self._moving:
            self._move(db)
            self._behind = False

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            # Cleared first: a close, or a commit, during the checkpoint is not forgotten.
            self._wanted.clear()
            if self._closed:
                return
            with self._moving:
                self._move(self._db)
                # What was committed meanwhile is not in SQLite's own count of what is left.
                self._behind = self._bytes > 0

    def _move(self, db: sqlite3.Connection) -> None:
        # Counted anew from here, also after a failure: it is tried again at the next threshold.
        self._bytes = 0
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            _log.warning("%s: a checkpoint failed: %s", self._path, error)
