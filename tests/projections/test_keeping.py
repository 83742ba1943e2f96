"""Old history, trimmed logs, gaps, copies: nothing is lost, nothing is there twice."""

import struct
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from bench.projections import make_log
from stepfold_engine.sources import FolderSource
from stepfold_projections.archive import Retention, archive, expired, forget
from stepfold_projections.catalogue import ALL
from stepfold_projections.keeping import rebuild, tables_of
from stepfold_projections.projector import Projector
from stepfold_projections.publish import publish
from stepfold_projections.queries import Desk, Limits
from stepfold_projections.recordings import Whereabouts
from stepfold_projections.source import SourceError
from stepfold_projections.store import Store
from tests.projections.logs import differences, projected, shown, simulated, tables_in, write_log
from tests.projections.reference import COMPARED

RUNS = 40


def opened(folder: Path) -> Store:
    make_log(folder, RUNS)
    store = Store(tables_of(folder))
    Projector(FolderSource(folder), store).catch_up()
    return store


def sums_are_right(store: Store) -> bool:
    """Say whether the views that are made from sums say what they say when made from rows."""
    desk = Desk(store.db, Limits(seconds=60), store.older)
    later = datetime(2200, 1, 1)  # noqa: DTZ001 - UTC, as all times here
    # Which of two failures of the same millisecond is the example, nobody says.
    columns = {
        "slow_steps": "*",
        "flaky_steps": "*",
        "failures": "* EXCLUDE (example_run, example)",
    }
    for view, seen in columns.items():
        asked = f"SELECT {seen} FROM {view} ORDER BY ALL"
        if desk.ask(asked).table.to_pylist() != desk.ask(asked, later).table.to_pylist():
            return False
    found = "(SELECT count(*) FROM slow_steps) > 0 AND (SELECT count(*) FROM failures) > 0"
    return desk.ask(f"SELECT {found} AS found").table["found"][0].as_py()


def newest(store: Store) -> datetime:
    ((found,),) = store.db.execute("SELECT max(ended_at) FROM runs").fetchall()
    assert isinstance(found, datetime)
    return found


def test_finished_days_move_to_parquet_and_are_still_seen(tmp_path: Path) -> None:
    store = opened(tmp_path / "log")
    before = shown(store)
    days = archive(store, newest(store) + timedelta(days=5))
    assert len(days) == 1
    assert store.db.execute("SELECT count(*) FROM past.runs").fetchall() == [(0,)]
    assert differences(before, shown(store)) == ""
    assert sums_are_right(store)
    store.shorten_sums()
    assert sums_are_right(store)
    assert list((tmp_path / "log" / "projections" / "history").rglob("*.parquet"))
    store.close()
    assert differences(before, tables_in(tmp_path / "log")) == ""
    rebuild(tables_of(tmp_path / "log"), FolderSource(tmp_path / "log"))
    assert differences(before, tables_in(tmp_path / "log")) == ""


class Failing:
    """A journal that cannot be read."""

    def record(self, runs: Sequence[Whereabouts]) -> Iterator[tuple[str, bytes]]:
        raise SourceError(f"journal/{runs[0].partition} is damaged")


def test_a_day_whose_runs_cannot_be_recorded_stays_in_the_tables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path / "log")
    before, now = shown(store), newest(store) + timedelta(days=5)
    assert archive(store, now, Failing()) == []
    assert "stays in the tables, its runs cannot be recorded: journal/0 is damaged" in caplog.text
    assert differences(before, shown(store)) == ""
    assert len(archive(store, now)) == 1
    store.close()


def test_what_is_older_than_it_is_kept_goes_from_tables_and_parquet(tmp_path: Path) -> None:
    store = opened(tmp_path / "log")
    one = "(SELECT min(run) FROM past.runs WHERE status = 'completed')"
    store.db.execute(f"UPDATE past.runs SET status = 'failed' WHERE run = {one}")
    now = newest(store) + timedelta(days=400)
    archive(store, now)
    keep = Retention(completed=300, failed=500, cancelled=300, events=300)
    rows = {what: count for what, _, count in expired(store, keep, now)}
    assert rows["completed runs"] >= RUNS - 3
    assert rows["failed runs"] == 0
    forget(store, keep, now)
    assert {row["status"] for row in shown(store)["runs"]} == {"failed"}
    assert not shown(store)["events"]
    assert sums_are_right(store)
    assert forget(store, keep, now) == 0
    kept = {row["run"] for row in shown(store)["runs"]}
    assert {row["run"] for row in shown(store)["steps"]} <= kept
    store.close()


def test_a_rebuild_gives_the_same_and_leaves_the_old_ones_until_it_is_whole(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "log"
    write_log(folder, *simulated(4))
    before = projected(folder)
    path = tables_of(folder)
    told: list[tuple[int, int]] = []
    assert not rebuild(path, FolderSource(folder), stopping=lambda: True)
    assert differences(before, tables_in(folder)) == ""
    assert rebuild(path, FolderSource(folder), lambda *seen: told.append(seen))
    assert told[-1][0] == told[-1][1] > 0
    store = Store(path)
    assert sums_are_right(store)
    store.close()
    assert differences(before, tables_in(folder)) == ""


def test_any_client_can_open_a_published_copy(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write_log(folder, *simulated(4))
    before = projected(folder)
    store = Store(tables_of(folder))
    target = tmp_path / "shared" / "copy.duckdb"
    for _ in range(2):
        assert publish(store, target) > 0
    # After a checksum and a word comes the number of the storage format: DuckDB 1.0's.
    assert struct.unpack_from("<4sQ", target.read_bytes(), 8) == (b"DUCK", 64)
    with duckdb.connect(str(target), read_only=True) as copy:
        for table in ALL:
            found = copy.sql(f"SELECT * FROM {table.name}")
            assert found.columns == [c for c, _, _ in table.columns]
            found.fetchall()
        for name in COMPARED:
            rows = copy.execute(f"SELECT count(*) FROM {name}").fetchall()
            assert rows == [(len(before[name]),)]
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    store.close()
