"""The embedded log's SQLite file: tables, rows and checksums. Blocking; knows nothing of asyncio.

A table for each partition of each topic, so that damage in one leaves the others readable. Offsets
are dense, but for those that a copy of another log notes as holes.
"""

import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.log.base import JOURNAL, TOPICS, Headers, NewRecord, Record

FORMAT = 1
Partition = tuple[str, int]
Row = tuple[int, int, bytes, bytes, bytes, int]

_COUNT = "partitions of "
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_OFFSET_AND_TIME = struct.Struct(">qq")
_LENGTHS = struct.Struct(">HI")


CACHE_KIB = 8_192
"""What each connection keeps of the file: its tail is what is asked for. More is not faster, and
looks like a leak, since it takes hours to fill."""


def table_of(partition: Partition) -> str:
    """Return the quoted name of a partition's table."""
    return f'"{partition[0]}/{partition[1]}"'


def connect(path: Path) -> sqlite3.Connection:
    """Open the file: write-ahead log, synced at every commit, checkpoints by hand."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    return db


def prepare(db: sqlite3.Connection, partitions: int | None, folder: Path) -> int:
    """Make the tables of a new file, or check an old one's; return the number of partitions.

    Raises:
        LogError: it was made with another number of partitions, or by a newer release.
    """
    make_meta(db)
    meta = dict(db.execute("SELECT name, value FROM meta"))
    if meta.get("format", FORMAT) != FORMAT:
        text = f"{folder} has log format {meta['format']}; this release reads {FORMAT}"
        raise LogError(f"{text}. Use the release that wrote it, or a newer one.")
    stored = meta.get("partitions")
    if stored is not None and partitions not in (None, stored):
        text = f"{folder} was made with {stored} partitions, not {partitions}"
        raise LogError(f"{text}; the number is fixed. Leave it out, or use another folder.")
    count = stored or partitions or 1
    if stored is None:
        make(db, dict.fromkeys(TOPICS, count))
    return count


def make_meta(db: sqlite3.Connection) -> None:
    """Make the table that says what the file is, if it is not there."""
    db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER)")


def make(db: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    """Make the tables of a new file. A number of its own for a topic is for copies alone."""
    db.execute("BEGIN IMMEDIATE")
    count = counts[JOURNAL]
    for topic in TOPICS:
        for number in range(counts[topic]):
            name = table_of((topic, number))
            db.execute(
                f"CREATE TABLE {name} (offset INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL,"
                " key BLOB NOT NULL, value BLOB NOT NULL, headers BLOB NOT NULL,"
                " crc INTEGER NOT NULL)"
            )
    db.execute(
        "CREATE TABLE starts (topic TEXT, number INTEGER, start INTEGER, PRIMARY KEY"
        " (topic, number)) WITHOUT ROWID"
    )
    db.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("partitions", count)])
    own = [(f"{_COUNT}{topic}", n) for topic, n in counts.items() if n != count]
    db.executemany("INSERT INTO meta VALUES (?, ?)", own)
    db.execute("COMMIT")


def counts_of(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many partitions each topic has."""
    meta: dict[str, int] = dict(db.execute("SELECT name, value FROM meta"))
    return {topic: meta.get(f"{_COUNT}{topic}", meta["partitions"]) for topic in TOPICS}


def note_holes(
    db: sqlite3.Connection, partition: Partition, holes: Iterable[tuple[int, int]]
) -> None:
    """Note ranges of offsets (first, after) at which there is nothing, and never was."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS holes (topic TEXT, number INTEGER, first INTEGER,"
        " after INTEGER, PRIMARY KEY (topic, number, first)) WITHOUT ROWID"
    )
    db.executemany("INSERT INTO holes VALUES (?, ?, ?, ?)", [(*partition, *h) for h in holes])


def behind_hole(db: sqlite3.Connection, partition: Partition, offset: int) -> int:
    """Return the end of the hole that an offset lies in; the offset if it lies in none."""
    row = _hole(db, "first <= ? ORDER BY first DESC LIMIT 1", (*partition, offset))
    return max(offset, row[0]) if row is not None else offset


def _hole(
    db: sqlite3.Connection, condition: str, values: tuple[str | int, ...]
) -> tuple[int] | None:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'holes'").fetchone():
        return None
    query = f"SELECT after FROM holes WHERE topic = ? AND number = ? AND {condition}"  # noqa: S608 - our own
    row: tuple[int] | None = db.execute(query, values).fetchone()
    return row


def bounds_of(db: sqlite3.Connection, partition: Partition) -> tuple[int, int, int]:
    """Return a partition's start, its end, and the time of its last record."""
    row = db.execute(
        "SELECT start FROM starts WHERE topic = ? AND number = ?", partition
    ).fetchone()
    start: int = row[0] if row else 0
    last = db.execute(
        f"SELECT offset, at_ms FROM {table_of(partition)} ORDER BY offset DESC LIMIT 1"  # noqa: S608 - our own name
    ).fetchone()
    end, last_ms = (start, 0) if last is None else (last[0] + 1, last[1])
    hole = _hole(db, "after > ? ORDER BY first DESC LIMIT 1", (*partition, end))
    return (start, end if hole is None else hole[0], last_ms)


def row_of(offset: int, at_ms: int, record: NewRecord) -> Row:
    """Return the row that a record is kept as."""
    headers = _packed(record.headers) if record.headers else b""
    crc = _crc(offset, at_ms, record.key, record.value, headers)
    return (offset, at_ms, record.key, record.value, headers, crc)


def _crc(offset: int, at_ms: int, key: bytes, value: bytes, headers: bytes) -> int:
    crc = zlib.crc32(_OFFSET_AND_TIME.pack(offset, at_ms))
    return zlib.crc32(value, zlib.crc32(headers, zlib.crc32(key, crc)))


def _packed(headers: Headers) -> bytes:
    parts: list[bytes] = []
    for name, value in headers:
        text = name.encode()
        parts += (_LENGTHS.pack(len(text), len(value)), text, value)
    return b"".join(parts)


def _unpacked(data: bytes) -> Headers:
    found: list[tuple[str, bytes]] = []
    at = 0
    while at < len(data):
        name, value = _LENGTHS.unpack_from(data, at)
        at += _LENGTHS.size
        found.append((data[at : at + name].decode(), data[at + name : at + name + value]))
        at += name + value
    return tuple(found)


def insert(db: sqlite3.Connection, partition: Partition, rows: Iterable[Row]) -> None:
    """Add rows, inside a transaction."""
    db.executemany(f"INSERT INTO {table_of(partition)} VALUES (?, ?, ?, ?, ?, ?)", rows)  # noqa: S608 - our own name


def select(
    db: sqlite3.Connection, partition: Partition, offset: int, bytes_max: int
) -> list[Record]:
    """Read records from an offset on, stopping short of a damaged one.

    Raises:
        CorruptLogError: the first of them is damaged.
    """
    found: list[Record] = []
    size = 0
    query = f"SELECT * FROM {table_of(partition)} WHERE offset >= ? ORDER BY offset"  # noqa: S608 - our own name
    try:
        for at, at_ms, key, value, headers, crc in db.execute(query, (offset,)):
            if not _is_whole((at, at_ms, key, value, headers, crc)):
                if found:
                    break
                text = "its checksum does not match; the bytes are left as they are"
                raise CorruptLogError(*partition, at, text)
            found.append(Record(at, at_ms, value, key, _unpacked(headers) if headers else ()))
            size += len(value)
            if size >= bytes_max:
                break
    except sqlite3.DatabaseError as error:
        if not found:
            raise damaged(partition, offset, error) from error
    return found


def whole_rows(rows: Sequence[Row]) -> int:
    """Return how many rows, from the first one on, have the checksum that they say."""
    crc32, pack = zlib.crc32, _OFFSET_AND_TIME.pack
    for place, (at, at_ms, key, value, headers, crc) in enumerate(rows):
        try:
            found = crc32(pack(at, at_ms) + key + headers + value)
        except (TypeError, struct.error):
            return place
        if found != crc:
            return place
    return len(rows)


def record_of(row: Row) -> Record:
    """Return the record in a row."""
    at, at_ms, key, value, headers, _ = row
    return Record(at, at_ms, value, key, _unpacked(headers) if headers else ())


def _is_whole(row: Sequence[object]) -> bool:
    at, at_ms, key, value, headers, crc = row
    if not (isinstance(at, int) and isinstance(at_ms, int) and isinstance(key, bytes)):
        return False
    if not (isinstance(value, bytes) and isinstance(headers, bytes)):
        return False
    return _crc(at, at_ms, key, value, headers) == crc


def damaged(partition: Partition, offset: int, error: sqlite3.Error) -> CorruptLogError:
    """Return the error for a partition whose table SQLite cannot read."""
    return CorruptLogError(*partition, offset, f"the file is damaged there: {error}")


def is_damage(error: sqlite3.Error) -> bool:
    """Say whether SQLite found the file itself damaged."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def is_full(error: sqlite3.Error) -> bool:
    """Say whether there was no space."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def delete_below(db: sqlite3.Connection, partition: Partition, before: int, rows_max: int) -> int:
    """Remove up to ``rows_max`` rows below an offset, in a transaction; return the new start."""
    name = table_of(partition)
    row = db.execute(
        f"SELECT offset FROM {name} WHERE offset < ? ORDER BY offset LIMIT 1 OFFSET ?",  # noqa: S608 - our own name
        (before, rows_max),
    ).fetchone()
    start: int = row[0] if row else before
    db.execute(f"DELETE FROM {name} WHERE offset < ?", (start,))  # noqa: S608 - our own name
    note_start(db, partition, start)
    return start


def clear(db: sqlite3.Connection, partition: Partition) -> None:
    """Remove all rows of a partition."""
    db.execute(f"DELETE FROM {table_of(partition)}")  # noqa: S608 - our own name


def note_start(db: sqlite3.Connection, partition: Partition, start: int) -> None:
    """Note a partition's first offset, inside a transaction."""
    db.execute("INSERT OR REPLACE INTO starts VALUES (?, ?, ?)", (*partition, start))


def transaction(db: sqlite3.Connection, work: Callable[[], None]) -> None:
    """Do some work in one commit; nothing of it is done if it fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        work()
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
