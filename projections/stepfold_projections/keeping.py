"""The tables of a folder: opened, made anew beside the old ones, and swapped.

Making anew reads the whole log. What the log no longer holds is taken over from the old tables:
finished runs, and events, older than the log's start. Older history files stay as they are.
"""

# pyright: reportUnknownMemberType=false

import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from stepfold_projections.projector import Progress, Projector, Stopping
from stepfold_projections.source import EVENTS, JOURNAL, Source, SourceError
from stepfold_projections.store import OtherVersionError, Store, history_of, open_stale

FOLDER = "projections"
FILE = "tables.duckdb"
REBUILDING_MEMORY = "256MB"
"""Of DuckDB. What is read ahead comes on top of it."""

PAST = ("runs", "steps", "attempts", "waits", "signals", "invocations")


def tables_of(folder: Path) -> Path:
    """Return the file of tables that belongs to a log's folder."""
    return folder / FOLDER / FILE


def open_tables(path: Path, source: Source | None, progress: Progress | None = None) -> Store:
    """Open a file of tables; make it anew if it is of another version, or damaged.

    Raises:
        SourceError: it would have to be made anew, and there is no log to make it from.
    """
    try:
        return Store(path)
    except duckdb.IOException:
        raise  # it cannot be written
    except (OtherVersionError, duckdb.Error) as error:
        if source is None:
            raise SourceError(
                f"{path} must be made anew from its log, which is not here"
            ) from error
        rebuild(path, source, progress)
        return Store(path)


def rebuild(
    path: Path,
    source: Source,
    progress: Progress | None = None,
    stopping: Stopping = lambda: False,
    old: duckdb.DuckDBPyConnection | None = None,
) -> bool:
    """Make the tables anew from the log, beside the old ones, and swap; False if stopped before.

    Killed at any moment, the old tables stay.

    Args:
        path: the tables' file.
        source: the log.
        progress: told how far it is.
        stopping: asked, now and then, whether to stop.
        old: the old tables, if this process has them open; no other may.
    """
    _check_same(path, old, source)
    new = path.with_name("new.duckdb")
    remove(new)
    store = Store(new, memory=REBUILDING_MEMORY)
    try:
        projector = Projector(source, store)
        if not projector.catch_up(progress, stopping):
            return False
        if old is not None:
            _take_over(old, store, source)
        elif path.exists():
            with _opened(path) as (found,):
                _take_over(found, store, source)
    finally:
        store.close()
    swap(new, path)
    return True


def _check_same(path: Path, old: duckdb.DuckDBPyConnection | None, source: Source) -> None:
    """Refuse to make one log's tables in the place of another's."""
    if old is None and path.exists():
        with _opened(path) as (found,):
            _check_same(path, found, source)
    elif old is not None:
        with suppress(duckdb.Error):
            asked = "SELECT value FROM open.facts WHERE name = 'source'"
            ((known,),) = old.execute(asked).fetchall() or [(source.name,)]
            if known != source.name:
                text = f"{path} holds the tables of {known or 'the log in its folder'}, not of"
                raise SourceError(f"{text} {source.name or 'this one'}; choose another folder")


def swap(new: Path, path: Path) -> None:
    """Put a new file in the place of the old one, whose write-ahead log must not follow it."""
    with suppress(FileNotFoundError):
        path.with_name(path.name + ".wal").unlink()
    new.replace(path)


def remove(path: Path) -> None:
    """Remove a file of tables."""
    for ending in ("", ".wal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    shutil.rmtree(path.with_name(path.name + ".spill"), ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Generator[tuple[duckdb.DuckDBPyConnection]]:
    """Open the old tables; they are none if they are damaged."""
    try:
        opened = open_stale(path)
        found = opened.__enter__()
    except duckdb.IOException:
        raise
    except duckdb.Error:
        opened, found = None, duckdb.connect()
    try:
        yield (found,)
    finally:
        if opened is not None:
            opened.__exit__(None, None, None)


def _take_over(old: duckdb.DuckDBPyConnection, store: Store, source: Source) -> None:
    """Take from the old tables what the log no longer holds, and note the older history."""
    with store.transaction():
        _copy(old, store, "open.files", "")
        store.refresh_views()
        if any(source.bounds(JOURNAL, p)[0] for p in range(source.partitions(JOURNAL))):
            _take_over_runs(old, store)
        for number in range(source.partitions(EVENTS)):
            start = source.bounds(EVENTS, number)[0]
            _copy(old, store, "past.events", f'WHERE partition = {number} AND "offset" < {start}')
        _leave_out_history(store)
        store.sum_up()


def _take_over_runs(old: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Take over finished runs that the log tells nothing of, or not all."""
    known = "SELECT run FROM past.runs WHERE NOT partial UNION ALL SELECT run FROM open.runs"
    there = old.cursor()
    there.register("given_known", store.db.sql(known).to_arrow_table())
    missing = "WHERE run IN (SELECT run FROM past.runs ANTI JOIN given_known USING (run))"
    try:
        taken = there.sql(f"SELECT run FROM past.runs {missing}").to_arrow_table()
    except duckdb.Error:
        return  # there are none
    store.db.register("given_taken", taken)
    for table in PAST:
        store.db.execute(f"DELETE FROM past.{table} WHERE run IN (SELECT run FROM given_taken)")
        _copy(there, store, f"past.{table}", missing)


def _copy(old: duckdb.DuckDBPyConnection, store: Store, table: str, where: str) -> None:
    try:
        rows = old.sql(f"SELECT * FROM {table} {where}").to_arrow_table()
    except duckdb.Error:
        return  # an older version had no such table
    if rows.num_rows:
        store.db.register("given_old", rows)
        store.db.execute(f"INSERT INTO {table} BY NAME SELECT * FROM given_old")


def _leave_out_history(store: Store) -> None:
    """Remove runs that lie in older history already."""
    files = store.older()
    if "runs" not in files:
        return
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in files["runs"])
    for table in PAST:
        store.db.execute(
            f"DELETE FROM past.{table} WHERE run IN (SELECT run FROM read_parquet([{names}]))"
        )


__all__ = ["FILE", "FOLDER", "history_of", "open_tables", "rebuild", "remove", "swap", "tables_of"]
