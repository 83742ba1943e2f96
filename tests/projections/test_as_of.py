"""As of a time, tables say what those said that were made from the log as it was then."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stepfold_engine.sources import FolderSource
from stepfold_projections.asking import opened
from stepfold_schemas import codec
from tests.projections.logs import differences, projected, simulated, write_log
from tests.projections.reference import COMPARED, Tables
from tests.simulation.ledger import Happening, Written

SEEDS = (0, 1, 2, 3, 4)
LATE = {
    "runs": ("status", "attempts"),
    "steps": ("status", "attempts", "attempt_started_at", "error_name", "error_message",
              "error_stack"),
}  # fmt: skip
"""What is known of unfinished rows only as it is last: the page says so."""


def decided_at(h: Written) -> int:
    return codec.decode_decision(h.value).at_ms if h.topic == "journal" else h.at_ms


def cut(happenings: list[Happening]) -> tuple[list[Happening], int]:
    """Return the records of the first half of the time, and its end; clocks went on all along."""
    written = [h for h in happenings if isinstance(h, Written) and h.topic != "inbox"]
    times = sorted(decided_at(h) for h in written)
    at_ms = times[len(times) // 2]
    for partition in {h.partition for h in written if h.topic == "journal"}:
        mine = [decided_at(h) for h in written if (h.topic, h.partition) == ("journal", partition)]
        later = [at > at_ms for at in mine]
        assert later == sorted(later), "an owner's clock went back over this time: another seed"
    return [h for h in written if decided_at(h) <= at_ms], at_ms


def settled(tables: Tables) -> Tables:
    """Leave out what is said of unfinished rows only as it is last."""
    found: Tables = {}
    for name, rows in tables.items():
        late = LATE.get(name, ())
        found[name] = [
            row if row.get("ended_at") else {c: v for c, v in row.items() if c not in late}
            for row in rows
        ]
    # An attempt that had not failed yet is known by its outcome only.
    found["attempts"] = [row for row in found["attempts"] if row["ended_at"]]
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_as_of_a_time_it_is_as_it_was(seed: int, tmp_path: Path) -> None:
    happenings, partitions = simulated(seed)
    before, at_ms = cut(happenings)
    write_log(tmp_path / "whole", happenings, partitions)
    write_log(tmp_path / "before", before, partitions)
    then = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
    with opened(tmp_path / "whole", lambda: FolderSource(tmp_path / "whole")) as tables:
        told = {name: tables.ask(f"SELECT * FROM {name}", then).rows() for name in COMPARED}
    expected = projected(tmp_path / "before")
    # A step that was under way is noted after a second; later it is known that it was.
    known = {(row["run"], row["step"]) for row in expected["steps"]}
    told["steps"] = [
        row for row in told["steps"] if row["ended_at"] or (row["run"], row["step"]) in known
    ]
    assert differences(settled(expected), settled(told)) == ""
