"""The tables are a straightforward fold of the log, however it is cut into transactions."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, lists

from stepfold_engine.sources import FolderSource
from stepfold_projections.keeping import rebuild, tables_of
from stepfold_projections.projector import Projector
from stepfold_projections.store import Store
from tests.projections.logs import differences, projected, simulated, tables_in, write_log
from tests.projections.reference import Fold

SEEDS = range(8)
HISTORIES = int(os.environ.get("STEPFOLD_FUZZ_EXAMPLES", "3"))


@pytest.mark.parametrize("seed", SEEDS)
def test_tables_equal_a_straightforward_fold(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    write_log(tmp_path, happenings, partitions)
    fold = Fold()
    fold.take(happenings)
    found = projected(tmp_path)
    assert differences(fold.tables(), found) == ""
    places = {row["run"]: (row["first_offset"], row["last_offset"]) for row in found["runs"]}
    assert places == {
        run.row["run"]: (run.offsets[0], run.offsets[-1]) for run in fold.runs.values()
    }


@pytest.mark.parametrize("seed", [1, 3])
def test_the_size_of_transactions_makes_no_difference(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    half = happenings[: len(happenings) // 2]
    write_log(tmp_path, half, partitions)
    fold = Fold()
    fold.take(half)
    assert differences(fold.tables(), projected(tmp_path, 7, reopen=True)) == ""


@given(
    seed=integers(1_000, 9_999),
    cuts=lists(integers(1, 400), min_size=1, max_size=6),
    end=floats(0.05, 1.0),
)
@settings(max_examples=HISTORIES, deadline=None)
def test_any_history_cut_anywhere_is_folded_right(
    seed: int, cuts: list[int], end: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In transactions of any sizes, by one projector after the other, and by a rebuild."""
    folder = tmp_path_factory.mktemp("history")
    happenings, partitions = simulated(seed)
    part = happenings[: int(len(happenings) * end)]
    write_log(folder, part, partitions)
    fold = Fold()
    fold.take(part)
    for size in cuts:
        store = Store(tables_of(folder))
        source = FolderSource(folder)
        Projector(source, store).step(size)
        store.close()
        source.close()
    assert differences(fold.tables(), projected(folder)) == ""
    source = FolderSource(folder)
    assert rebuild(tables_of(folder), source)
    source.close()
    assert differences(fold.tables(), tables_in(folder)) == ""
