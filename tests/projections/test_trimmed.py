"""Logs whose beginning is trimmed: what is left is told right, and a rebuild loses nothing."""

from pathlib import Path

import pytest

from stepfold_engine.sources import FolderSource
from stepfold_projections.keeping import rebuild, tables_of
from tests.projections.logs import (
    differences,
    projected,
    simulated,
    tables_in,
    trim_log,
    write_log,
)
from tests.projections.reference import COMPARED, Fold, Row
from tests.simulation.ledger import Happening, Trimmed, Written

SEEDS = (1, 3, 8, 11, 23)


def cuts(happenings: list[Happening]) -> dict[int, int]:
    """Return where each journal begins after its last trimming, counted in records."""
    found: dict[int, int] = {}
    for h in happenings:
        if isinstance(h, Trimmed) and h.topic == "journal":
            found[h.partition] = sum(
                1
                for w in happenings
                if isinstance(w, Written)
                and (w.topic, w.partition) == ("journal", h.partition)
                and w.offset < h.before
            )
    return found


def trim(folder: Path, happenings: list[Happening]) -> None:
    for partition, before in cuts(happenings).items():
        trim_log(folder, partition, before)


@pytest.mark.parametrize("seed", SEEDS)
def test_runs_that_began_behind_the_cut_are_told_whole(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    write_log(tmp_path, happenings, partitions)
    trim(tmp_path, happenings)
    found = projected(tmp_path)
    fold = Fold()
    fold.take(happenings)
    whole = {row["run"] for row in found["runs"] if not row["partial"]}
    ended = {row["run"] for row in fold.tables()["runs"] if row["status"]}

    def only(rows: list[Row]) -> list[Row]:
        return [row for row in rows if row.get("run") in whole]

    expected = {name: only(rows) for name, rows in fold.tables().items()}
    assert differences(expected, {name: only(rows) for name, rows in found.items()}) == ""
    for row in found["runs"]:
        # What began before it: known by what a round says of it, and ended as it did.
        assert row["function"] or row["run"] in ended
        assert (row["ended_at"] is not None) == (row["run"] in ended)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rebuild_behind_the_cut_takes_over_what_is_gone(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    write_log(tmp_path, happenings, partitions)
    before = projected(tmp_path)
    trim(tmp_path, happenings)
    rebuild(tables_of(tmp_path), FolderSource(tmp_path))
    after = tables_in(tmp_path)
    assert differences(before, after) == ""
    assert set(after) == set(COMPARED)
