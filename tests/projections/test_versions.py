"""Tables of another version are made anew beside the old ones, which answer meanwhile."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.projections import make_log
from stepfold_engine.sources import FolderSource
from stepfold_projections.archive import archive
from stepfold_projections.keeping import tables_of
from stepfold_projections.projector import Projector
from stepfold_projections.queries import QueryError
from stepfold_projections.service import Service
from stepfold_projections.source import Records
from stepfold_projections.store import VERSION, Store, history_of
from tests.projections.logs import differences, projected, tables_in, trim_log
from tests.projections.reference import COMPARED

RUNS = 60
COUNT = "SELECT count(*) AS n FROM runs"


class HeldSource(FolderSource):
    """A log that nothing can be read from until it is let go."""

    def __init__(self, folder: Path, let_go: threading.Event) -> None:
        super().__init__(folder)
        self._let_go = let_go

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> Records:
        assert self._let_go.wait(100)
        return super().read(topic, partition, offset, records_max)


def until(fits: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 100
    while not fits():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def count(service: Service) -> int:
    try:
        head, _ = service._answered({"sql": COUNT, "arrow": True})
        assert head["rows"] == 1
        assert service._desk is not None
        return int(service._desk.ask(COUNT).table["n"][0].as_py())
    except (QueryError, AssertionError):
        return -1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with tables of the version before; of one run they know nothing."""
    path = tmp_path / "log"
    make_log(path, RUNS)
    store = Store(tables_of(path))
    Projector(FolderSource(path), store).catch_up()
    store.db.execute("DELETE FROM past.runs WHERE run = (SELECT max(run) FROM past.runs)")
    store.db.execute("UPDATE open.facts SET value = ? WHERE name = 'version'", [str(VERSION - 1)])
    store.close()
    return path


def test_the_old_ones_answer_until_the_new_ones_are_whole(folder: Path, tmp_path: Path) -> None:
    let_go = threading.Event()
    service = Service(tables_of(folder), lambda: HeldSource(folder, let_go), None)
    keeping = threading.Thread(target=service._keep_on)
    keeping.start()
    until(lambda: count(service) == RUNS - 1)
    let_go.set()
    until(lambda: count(service) == RUNS)
    service._stop.set()
    keeping.join(100)
    store = Store(tables_of(folder))
    assert store.fact("version") == str(VERSION)
    store.close()
    make_log(tmp_path / "fresh", RUNS)
    assert differences(projected(tmp_path / "fresh"), tables_in(folder)) == ""
    assert not list(tables_of(folder).parent.glob("new.duckdb*"))


def test_a_rebuild_that_is_stopped_leaves_the_old_ones(folder: Path) -> None:
    let_go = threading.Event()
    service = Service(tables_of(folder), lambda: HeldSource(folder, let_go), None)
    keeping = threading.Thread(target=service._keep_on)
    keeping.start()
    until(lambda: count(service) == RUNS - 1)
    service._stop.set()
    let_go.set()
    keeping.join(100)
    assert not keeping.is_alive()
    again = Service(tables_of(folder), lambda: FolderSource(folder), None)
    keeping = threading.Thread(target=again._keep_on)
    keeping.start()
    until(lambda: count(again) == RUNS)
    again._stop.set()
    keeping.join(100)


def test_older_history_and_what_the_log_no_longer_holds_stay(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_log(folder, RUNS)
    store = Store(tables_of(folder))
    Projector(FolderSource(folder), store).catch_up()
    archive(store, datetime.now(UTC).replace(tzinfo=None) + timedelta(days=5))
    files = sorted(history_of(store.path).rglob("*.parquet"))
    assert files
    assert store.db.execute("SELECT count(*) FROM past.runs").fetchall() == [(0,)]
    store.db.execute("UPDATE open.facts SET value = '0' WHERE name = 'version'")
    store.close()
    make_log(tmp_path / "fresh", RUNS)
    expected = projected(tmp_path / "fresh")
    trim_log(folder, 0, 200)
    store = projector_opens(folder)
    assert store.fact("version") == str(VERSION)
    store.close()
    assert differences(expected, tables_in(folder)) == ""
    assert sorted(history_of(tables_of(folder)).rglob("*.parquet")) == files
    assert set(COMPARED) <= set(expected)


def projector_opens(folder: Path) -> Store:
    service = Service(tables_of(folder), lambda: FolderSource(folder), None)
    store = service._opened()
    assert store is not None
    return store
