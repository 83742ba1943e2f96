"""The embedded log in a folder, as projections read it.

Its file may be read while its engine runs, or from a copy of its folder. Reads are
short, so that they never keep the engine from tidying its write-ahead log.
"""

import sqlite3
import time
from pathlib import Path

from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.intake import EVENTS_ONLY
from stepfold_engine.log import tables
from stepfold_engine.log.base import EVENTS, Record
from stepfold_projections.source import DEAD_LETTERS, Records, SourceError
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError

LOOK_EVERY_S = 0.05
READ_BYTES = 16 << 20
"""How much is read at once, at most."""

BUSY_S = 5.0
_COLUMNS = "offset, at_ms, key, value, headers, crc"


class FolderSource:
    """The embedded log in a folder, read only."""

    name = ""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            SourceError: there is no log, or it cannot be opened.
        """
        self._path = folder / "log.db"
        if not self._path.exists():
            raise SourceError(f"{folder} holds no log ({self._path.name} is missing)")
        try:
            self._db = self._open("mode=ro")
        except sqlite3.Error:
            try:
                self._db = self._open("immutable=1")  # a folder that may not be written to
            except sqlite3.Error as error:
                raise SourceError(f"{self._path} cannot be read: {error}") from error
        self._version = -1

    def _open(self, how: str) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?{how}"
        db = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_S
        )
        try:
            self._counts = tables.counts_of(db)
        except BaseException:
            db.close()
            raise
        return db

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return self._counts[topic]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return a partition's start and end."""
        try:
            return tables.bounds_of(self._db, (topic, partition))[:2]
        except sqlite3.Error as error:
            raise SourceError(f"{self._path}: {topic}/{partition}: {error}") from error

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> Records:
        """Read records; see the port."""
        place = (topic, partition)
        try:
            rows = self._rows(place, offset, records_max)
        except sqlite3.Error as error:
            raise SourceError(f"{self._path}: {topic}/{partition}: {error}") from error
        found = Records(offset, 0)
        if not rows or rows[0][0] != offset:
            found.start = self.bounds(*place)[0]
            first = tables.behind_hole(self._db, place, max(offset, found.start))
            if rows and rows[0][0] > first:
                text = f"the record at {first} is missing from the file"
                raise SourceError(f"{topic}/{partition}: {text}")
            found.next_offset = first
        whole = tables.whole_rows(rows)
        if rows and not whole:
            raise SourceError(str(CorruptLogError(*place, rows[0][0], "its checksum is wrong")))
        _add(place, found, rows[:whole])
        return found

    def _rows(self, place: tuple[str, int], offset: int, records_max: int) -> list[tables.Row]:
        """Read rows in one go; the bytes of the first ones say how many may follow."""
        query = f"SELECT {_COLUMNS} FROM {tables.table_of(place)} WHERE offset >= ? ORDER BY offset"  # noqa: S608 - our own name
        cursor = self._db.execute(f"{query} LIMIT ?", (offset, records_max))
        rows: list[tables.Row] = []
        size = 0
        while size < READ_BYTES and (some := cursor.fetchmany(1_000)):
            rows += some
            size += sum(len(row[3]) for row in some)
        cursor.close()
        return rows

    def wait(self, seconds: float) -> bool:
        """Wait until something was committed, for some seconds at most."""
        until = time.monotonic() + seconds
        while True:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _add(place: tuple[str, int], found: Records, rows: list[tables.Row]) -> None:
    """Add rows to what was found, column by column."""
    if not rows:
        return
    found.offsets = [row[0] for row in rows]
    found.times_ms = [row[1] for row in rows]
    if place[0] == EVENTS:
        found.values = [event_bytes(tables.record_of(row), place[1]) for row in rows]
    else:
        found.values = [row[3] for row in rows]
    if place[0] == DEAD_LETTERS:
        found.headers = [tables.record_of(row).headers for row in rows]
    found.next_offset = rows[-1][0] + 1


def event_bytes(record: Record, partition: int) -> bytes:
    """Return an event's record in our Avro, whatever its producer wrote; b"" if it is none."""
    if codec.is_ours(record.value):
        return record.value
    try:
        return codec.encode(EVENTS_ONLY.event(EVENTS, partition, record))
    except (UndecodableError, LogError):
        return b""
