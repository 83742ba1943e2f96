"""Run files of every release replay as they did: to the same end, without a body that runs."""

from pathlib import Path

import pytest

from stepfold_engine.cli.loading import Target, load
from stepfold_engine.replaying.machine import Machine, story_of
from stepfold_engine.replaying.verdicts import SAME, judge
from stepfold_schemas import codec

RUNS = Path(__file__).with_name("runs")
FILES = sorted(RUNS.glob("*.avro"))


def test_there_are_golden_run_files() -> None:
    assert {path.name.partition("-")[0] for path in FILES} >= {"go", "plain", "fails"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_run_replays_for_ever(path: Path) -> None:
    with path.open("rb") as source:
        file = codec.read_runs(source)
    machine = Machine(load(Target(RUNS / "app.py")).functions)
    try:
        for run in file.runs:
            verdict = judge(machine, story_of(run))
            assert verdict.verdict == SAME, verdict
    finally:
        machine.close()
