"""The index's file: one SQLite table of runs, and how far each journal has been taken in.

A batch of decisions and the position behind it are one transaction, so nothing is counted twice
and nothing is left out, whenever the process dies. A crash of the machine may take the last
transactions, whole: they are taken in again. So SQLite syncs only when it empties its WAL.
"""

import sqlite3
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    EventMatched,
    HistoryRestated,
    LookbackFinished,
    RunAttemptFailed,
    RunCancelled,
    RunCompleted,
    RunEntry,
    RunFailed,
    RunParked,
    RunRestated,
    RunStarted,
    StepAttemptFailed,
    StepFailed,
)

VERSION = 1
"""Of the tables; a file of another version is made again."""

RUNNING, COMPLETED, FAILED, CANCELLED = "running", "completed", "failed", "cancelled"

_ENDS: dict[type[Entry], str] = {
    RunCompleted: COMPLETED,
    RunFailed: FAILED,
    RunCancelled: CANCELLED,
}
_FAILURES = (StepAttemptFailed, StepFailed, RunAttemptFailed)
_COUNTED: frozenset[type] = frozenset(get_args(RunEntry)) - {RunParked, LookbackFinished}

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs(
  id BLOB PRIMARY KEY, function TEXT NOT NULL, partition INTEGER NOT NULL, status TEXT NOT NULL,
  started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, failures INTEGER NOT NULL,
  event TEXT NOT NULL, events TEXT NOT NULL, seqs BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unfinished ON runs(id) WHERE ended_ms = 0;
CREATE TABLE IF NOT EXISTS causes(event TEXT, run BLOB, PRIMARY KEY(event, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places(
  partition INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  at_ms INTEGER NOT NULL);
PRAGMA user_version = {VERSION};
"""

_COLUMNS = "id, function, partition, status, started_ms, ended_ms, failures, event, events, seqs"


class GapError(Exception):
    """Decisions are missing between what was taken in and what comes now."""


@dataclass(frozen=True, slots=True)
class Row:
    """A run as it lies in the table; ``ended_ms`` is 0 while it is unfinished."""

    id: bytes
    function: str
    partition: int
    status: str
    started_ms: int
    ended_ms: int
    failures: int
    event: str
    events: list[str]
    seqs: list[int]


@dataclass(frozen=True, slots=True)
class Place:
    """The last decision of a journal that was taken in."""

    epoch: int
    seq: int
    at_ms: int


@dataclass(slots=True)
class _Change:
    """What a batch says of one run."""

    started: RunStarted | None = None
    started_ms: int = 0
    status: str = RUNNING
    ended_ms: int = 0
    failures: int = 0
    seqs: "array[int]" = field(default_factory=lambda: array("q"))


class Store:
    """Writes and reads the file. Every method blocks; one thread at a time may call."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path, self._read_only = path, read_only
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            if self._read_only:
                db.execute("PRAGMA query_only = ON")
                return db
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"version {version}")  # noqa: TRY301 - closes the file
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # Writing.

    def place(self, partition: int) -> Place | None:
        """Return how far a partition's journal was taken in."""
        row = self._db.execute(
            "SELECT epoch, seq, at_ms FROM places WHERE partition = ?", (partition,)
        ).fetchone()
        return None if row is None else Place(*row)

    def forget(self, partition: int) -> None:
        """Remove what is known of a partition; it is taken in again from its start."""
        with self._transaction():
            self._db.execute("DELETE FROM places WHERE partition = ?", (partition,))
            self._db.execute(
                "DELETE FROM causes WHERE run IN (SELECT id FROM runs WHERE partition = ?)",
                (partition,),
            )
            self._db.execute("DELETE FROM runs WHERE partition = ?", (partition,))

    def prune(self, before: bytes) -> None:
        """Remove ended runs that started before the one with this id."""
        with self._transaction():
            self._db.execute("DELETE FROM runs WHERE id < ? AND ended_ms > 0", (before,))
            self._db.execute("DELETE FROM causes WHERE run NOT IN (SELECT id FROM runs)")

    def write(self, decisions: Sequence[tuple[int, Decision]]) -> None:
        """Take in confirmed decisions, in order; what was taken in before is passed over.

        Raises:
            GapError: some are missing before these; nothing was written.
        """
        with self._transaction():
            for partition in {p for p, _ in decisions}:
                self._write(partition, [d for p, d in decisions if p == partition])

    def _write(self, partition: int, decisions: list[Decision]) -> None:
        place = self.place(partition)
        seen = place.seq if place is not None else -1
        changes: dict[bytes, _Change] = {}
        for decision in decisions:
            if decision.seq <= seen:
                continue
            if place is not None and decision.seq != seen + 1:
                raise GapError(f"partition {partition}: {decision.seq} follows {seen}")
            self._gather(partition, decision, changes)
            seen = decision.seq
        self._save(partition, changes)
        last = decisions[-1]
        if last.seq == seen:
            self._db.execute(
                "INSERT OR REPLACE INTO places VALUES(?, ?, ?, ?)",
                (partition, last.epoch, last.seq, last.at_ms),
            )

    def _gather(self, partition: int, decision: Decision, changes: dict[bytes, _Change]) -> None:
        for entry in decision.entries:
            match entry:
                case EventMatched(waits=waits):
                    for ref in waits:
                        _touch(changes, ref.run, decision.seq)
                case RunStarted(run=run):
                    change = _touch(changes, run, decision.seq)
                    change.started, change.started_ms = entry, decision.at_ms
                case RunRestated():
                    self._restate(partition, entry)
                case HistoryRestated():
                    self._save(partition, changes)
                    changes.clear()
                    self._splice(entry, decision.seq)
                case _ if type(entry) in _COUNTED:
                    run = cast("RunEntry", entry).run  # just checked
                    change = _touch(changes, run, decision.seq)
                    change.failures += isinstance(entry, _FAILURES)
                    if (status := _ENDS.get(type(entry))) is not None:
                        change.status, change.ended_ms = status, decision.at_ms
                case _:
                    pass

    def _save(self, partition: int, changes: dict[bytes, _Change]) -> None:
        started: list[tuple[object, ...]] = []
        causes: list[tuple[str, bytes]] = []
        changed: list[tuple[object, ...]] = []
        for run, change in changes.items():
            numbers = change.seqs.tobytes()
            if (first := change.started) is None:
                changed.append((change.status, change.ended_ms, change.failures, numbers, run))
                continue
            events = [codec.decode_event(e) for e in first.events]
            ids = [e.internal or i for e, i in zip(events, _padded(first), strict=False)]
            causes.extend((i, run) for i in ids if i)
            started.append(
                (
                    run,
                    first.function,
                    partition,
                    change.status,
                    change.started_ms,
                    change.ended_ms,
                    change.failures,
                    events[0].name if events else "",
                    "\n".join(ids),
                    numbers,
                )
            )
        self._db.executemany("INSERT OR REPLACE INTO causes VALUES(?, ?)", causes)
        self._db.executemany("INSERT OR REPLACE INTO runs VALUES(?,?,?,?,?,?,?,?,?,?)", started)
        self._db.executemany(
            "UPDATE runs SET status = ?, ended_ms = ?, failures = failures + ?,"
            " seqs = CAST(seqs || ? AS BLOB) WHERE id = ?",
            changed,
        )

    def _restate(self, partition: int, head: RunRestated) -> None:
        """Add a run whose beginning was trimmed away before it was taken in."""
        self._db.execute(
            "INSERT OR IGNORE INTO runs VALUES(?, ?, ?, ?, ?, 0, 0, '', '', ?)",
            (
                head.run,
                head.function,
                partition,
                RUNNING,
                head.started_ms,
                array("q", head.seqs).tobytes(),
            ),
        )

    def _splice(self, entry: HistoryRestated, seq: int) -> None:
        """Let a copy take the place of the decisions it copies, which may be trimmed now."""
        row = self._db.execute("SELECT seqs FROM runs WHERE id = ?", (entry.run,)).fetchone()
        if row is None:
            return
        old = _numbers(row[0])
        new = [*old[: entry.skips], seq, *old[entry.skips + entry.replaces :]]
        self._db.execute(
            "UPDATE runs SET seqs = ? WHERE id = ?", (array("q", new).tobytes(), entry.run)
        )

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)

    # Reading.

    def run(self, run: bytes) -> Row | None:
        """Return one run."""
        rows = self._rows("WHERE id = ?", (run,))
        return rows[0] if rows else None

    def between(self, first: bytes, last: bytes, limit: int) -> list[Row]:
        """Return runs whose ids lie between two, both included."""
        return self._rows("WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?", (first, last, limit))

    def ending_in(self, tail: bytes, limit: int) -> list[Row]:
        """Return runs whose ids end in these bytes, newest first."""
        condition = "WHERE substr(id, ?) = ? ORDER BY id DESC LIMIT ?"
        return self._rows(condition, (-len(tail), tail, limit))

    def newest(
        self, before: bytes, since: bytes, status: str, function: str, limit: int
    ) -> list[Row]:
        """Return runs, newest first, with ids from ``since`` up to, but without, ``before``.

        ``status`` "" is any; RUNNING is every unfinished one.
        """
        where, values = "WHERE id < ? AND id >= ?", [before, since]
        conditions: list[object] = [*values]
        if status == RUNNING:
            where += " AND ended_ms = 0"
        elif status:
            where += " AND status = ?"
            conditions.append(status)
        if function:
            where += " AND function = ?"
            conditions.append(function)
        return self._rows(f"{where} ORDER BY id DESC LIMIT ?", (*conditions, limit))

    def caused_by(self, event: str, limit: int) -> list[Row]:
        """Return the runs that an event started."""
        condition = "WHERE id IN (SELECT run FROM causes WHERE event = ?) ORDER BY id LIMIT ?"
        return self._rows(condition, (event, limit))

    def _rows(self, rest: str, values: Iterable[object]) -> list[Row]:
        found = self._db.execute(f"SELECT {_COLUMNS} FROM runs {rest}", tuple(values))  # noqa: S608 - `rest` is ours
        return [_row(values) for values in found]


class _Transaction:
    """BEGIN … COMMIT around a block; ROLLBACK if it raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _touch(changes: dict[bytes, _Change], run: bytes, seq: int) -> _Change:
    change = changes.get(run)
    if change is None:
        change = changes[run] = _Change()
    if not change.seqs or change.seqs[-1] != seq:
        change.seqs.append(seq)
    return change


def _row(values: Sequence[Any]) -> Row:
    *first, events, seqs = values
    run, function, partition, status, started_ms, ended_ms, failures, event = first
    ids: list[str] = str(events).split("\n") if events else []
    numbers = _numbers(seqs)
    return Row(
        run, function, partition, status, started_ms, ended_ms, failures, event, ids, numbers
    )


def _padded(entry: RunStarted) -> list[str]:
    """Return an id for each event that started a run, "" where none was recorded."""
    return [*entry.event_ids, *[""] * len(entry.events)]


def _numbers(data: bytes) -> list[int]:
    found = array("q")
    found.frombytes(data)
    return found.tolist()
