"""The tables are a straightforward fold of the log, however it is cut into transactions."""

from pathlib import Path

import pytest

from tests.projections.logs import differences, projected, simulated, write_log
from tests.projections.reference import Fold

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_tables_equal_a_straightforward_fold(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    write_log(tmp_path, happenings, partitions)
    fold = Fold()
    fold.take(happenings)
    assert differences(fold.tables(), projected(tmp_path)) == ""


@pytest.mark.parametrize("seed", [1, 3])
def test_the_size_of_transactions_makes_no_difference(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    half = happenings[: len(happenings) // 2]
    write_log(tmp_path, half, partitions)
    fold = Fold()
    fold.take(half)
    assert differences(fold.tables(), projected(tmp_path, 7, reopen=True)) == ""
