"""Finished history as Parquet, by day, sorted by function; and what is kept how long.

A day is written once it is over for a while: files first, then, in one transaction, the rows go
from the file of tables and the files are noted. Killed between, the files are written again over
themselves. Files that are not noted are nobody's.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import logging
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from stepfold_projections import recordings
from stepfold_projections.arrow import ArrowTable, pq
from stepfold_projections.recordings import Recorder
from stepfold_projections.source import SourceError, UnreachableError
from stepfold_projections.store import Store, history_of

_log = logging.getLogger("stepfold")

DAYS_OPEN = 2
"""A day is written when it has been over for this long: until then it may still be asked often."""

ROW_GROUP = 100_000
TABLES = {
    "runs": "ended_at",
    "steps": "run_ended_at",
    "attempts": "run_ended_at",
    "waits": "run_ended_at",
    "signals": "run_ended_at",
    "invocations": "run_ended_at",
}


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days finished runs are kept, by how they ended, and events; 0 means for ever."""

    completed: int = 365
    failed: int = 730
    cancelled: int = 365
    events: int = 365


def archive(store: Store, now: datetime, recorder: Recorder | None = None) -> list[date]:
    """Write the days that are over; return them. With a recorder, recordings of their runs, too.

    A day whose runs the recorder cannot read stays in the tables, with a warning: they are as good
    there, and are written when it can.

    Raises:
        UnreachableError: the log cannot be reached at the moment; days before are written.
    """
    before = (now - timedelta(days=DAYS_OPEN)).date()
    days = store.db.execute(
        "SELECT DISTINCT CAST(ended_at AS DATE) AS day FROM past.runs WHERE ended_at < ?"
        " ORDER BY day",
        [before],
    ).fetchall()
    written: list[date] = []
    for (day,) in days:
        try:
            _archive_day(store, day, recorder)
        except UnreachableError:
            raise
        except SourceError as error:
            _log.warning("%s stays in the tables, its runs cannot be recorded: %s", day, error)
        else:
            written.append(day)
    return written


def _archive_day(store: Store, day: date, recorder: Recorder | None) -> None:
    folder = history_of(store.path)
    number = store.db.execute("SELECT count(*) FROM open.files WHERE day = ?", [day]).fetchall()
    noted: list[list[object]] = []
    for name, column in TABLES.items():
        where = f"CAST({column} AS DATE) = DATE '{day}'"
        rows = store.db.sql(f"SELECT * FROM past.{name} WHERE {where} ORDER BY function, run")
        table = rows.to_arrow_table()
        if not table.num_rows:
            continue
        # Runs of a day may come late (a partition was behind): another file then.
        file = Path(name) / f"day={day}" / f"{number[0][0]}.parquet"
        _write(folder / file, table)
        noted.append([name, str(file), day, table.num_rows])
    if recorder is not None:
        file = Path(recordings.NAME) / f"day={day}" / f"{number[0][0]}.parquet"
        if count := recordings.write_day(store, day, folder / file, recorder):
            noted.append([recordings.NAME, str(file), day, count])
    with store.transaction():
        store.db.executemany("INSERT INTO open.files VALUES (?, ?, ?, ?)", noted)
        for name, column in TABLES.items():
            store.db.execute(f"DELETE FROM past.{name} WHERE CAST({column} AS DATE) = DATE '{day}'")
        store.refresh_views()


def _write(path: Path, table: ArrowTable) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    pq.write_table(table, new, compression="zstd", row_group_size=ROW_GROUP)
    new.replace(path)


def expired(store: Store, keep: Retention, now: datetime) -> list[tuple[str, str, int]]:
    """Return what is older than it is kept: (what, older than which day, how many)."""
    found: list[tuple[str, str, int]] = []
    for status in ("completed", "failed", "cancelled"):
        if days := getattr(keep, status):
            before = now - timedelta(days=days)
            row = store.db.execute(
                "SELECT count(*) FROM runs WHERE status = ? AND ended_at < ?", [status, before]
            ).fetchall()
            found.append((f"{status} runs", f"{before:%Y-%m-%d}", int(row[0][0])))
    if keep.events:
        before = now - timedelta(days=keep.events)
        row = store.db.execute(
            "SELECT count(*) FROM events WHERE received_at < ?", [before]
        ).fetchall()
        found.append(("events", f"{before:%Y-%m-%d}", int(row[0][0])))
    return found


def forget(store: Store, keep: Retention, now: datetime) -> int:
    """Remove what is older than it is kept; return how many runs and events that was."""
    conditions = [
        f"(status = '{status}' AND ended_at < TIMESTAMP '{now - timedelta(days=days)}')"
        for status in ("completed", "failed", "cancelled")
        if (days := getattr(keep, status))
    ]
    gone = sum(count for _, _, count in expired(store, keep, now))
    if not gone:
        return 0
    where = " OR ".join(conditions) or "false"
    store.db.execute(
        f"CREATE OR REPLACE TEMP TABLE gone AS SELECT run FROM main.runs WHERE {where}"
    )
    old = store.db.execute("SELECT name, file, day FROM open.files").fetchall()
    with store.transaction():
        for name, file, day in old:
            _thin(store, name, file, day)
        for name in TABLES:
            store.db.execute(f"DELETE FROM past.{name} WHERE run IN (SELECT run FROM gone)")
        if keep.events:
            before = now - timedelta(days=keep.events)
            store.db.execute("DELETE FROM past.events WHERE received_at < ?", [before])
        store.refresh_views()
        store.sum_up()
    _sweep(store)
    return gone


def _thin(store: Store, name: str, file: str, day: date) -> None:
    """Write a file of history again without what is gone; part of a transaction."""
    path = history_of(store.path) / file
    quoted = str(path).replace("'", "''")
    source = f"read_parquet('{quoted}', hive_partitioning = false)"
    left = store.db.sql(f"SELECT * FROM {source} WHERE run NOT IN (SELECT run FROM gone)")
    table = left.to_arrow_table()
    whole = pq.read_metadata(path).num_rows
    if table.num_rows == whole:
        return
    store.db.execute("DELETE FROM open.files WHERE file = ?", [file])
    if table.num_rows:
        base, _, turn = path.stem.partition("-")
        thinner = path.with_name(f"{base}-{int(turn or 0) + 1}.parquet")
        _write(thinner, table)
        new = str(Path(file).with_name(thinner.name))
        store.db.execute(
            "INSERT INTO open.files VALUES (?, ?, ?, ?)", [name, new, day, table.num_rows]
        )


def _sweep(store: Store) -> None:
    """Remove files that the tables do not note."""
    folder = history_of(store.path)
    noted = {
        folder / file for (file,) in store.db.execute("SELECT file FROM open.files").fetchall()
    }
    for path in folder.rglob("*.parquet"):
        if path not in noted:
            path.unlink()
