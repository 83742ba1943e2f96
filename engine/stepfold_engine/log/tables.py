"""The embedded log's SQLite file: tables, rows and checksums. Blocking; knows nothing of asyncio.

A table for each partition of each topic, so that damage in one leaves the others readable.
"""

import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.log.base import TOPICS, Headers, NewRecord, Record

FORMAT = 1
Partition = tuple[str, int]
Row = tuple[int, int, bytes, bytes, bytes, int]

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_OFFSET_AND_TIME = struct.Struct(">qq")
_LENGTHS = struct.Struct(">HI")


def table_of(partition: Partition) -> str:
    """Return the quoted name of a partition's table."""
    return f'"{partition[0]}/{partition[1]}"'


def connect(path: Path) -> sqlite3.Connection:
    """Open the file: write-ahead log, synced at every commit, checkpoints by hand."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("PRAGMA cache_size=-65536")
    return db


def prepare(db: sqlite3.Connection, partitions: int | None, folder: Path) -> int:
    """Make the tables of a new file, or check an old one's; return the number of partitions.

    Raises:
        LogError: it was made with another number of partitions, or by a newer release.
    """
    db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER)")
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
        _make(db, count)
    return count


def _make(db: sqlite3.Connection, count: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    for topic in TOPICS:
        for number in range(count):
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
    db.execute("COMMIT")


def bounds_of(db: sqlite3.Connection, partition: Partition) -> tuple[int, int, int]:
    """Return a partition's start, its end, and the time of its last record."""
    row = db.execute(
        "SELECT start FROM starts WHERE topic = ? AND number = ?", partition
    ).fetchone()
    start: int = row[0] if row else 0
    last = db.execute(
        f"SELECT offset, at_ms FROM {table_of(partition)} ORDER BY offset DESC LIMIT 1"  # noqa: S608 - our own name
    ).fetchone()
    return (start, start, 0) if last is None else (start, last[0] + 1, last[1])


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
    db.execute("INSERT OR REPLACE INTO starts VALUES (?, ?, ?)", (*partition, start))
    return start


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
