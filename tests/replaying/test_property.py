"""Random functions under random faults: what is exported replays to the same end, and does nothing.

The simulation makes the histories: processes that die, journals with void records, copies of old
history, attempts that fail, races, timers, signals, invocations.
"""

import json
import logging
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepfold_engine.exporting.gathering import Gatherer
from stepfold_engine.log.base import JOURNAL
from stepfold_engine.recordings import facts_in
from stepfold_engine.replaying.machine import Machine, story_of
from stepfold_engine.replaying.verdicts import BAD, judge
from stepfold_schemas import codec
from stepfold_schemas.entries import RunCompleted, RunFailed
from stepfold_schemas.reports import RunReturned
from stepfold_schemas.runfile import ExportedRun
from tests.simulation.programs import app_of
from tests.simulation.statements import Plan
from tests.simulation.world import World

CHUNK = 8
CHUNKS = 5


class NoBodies:
    """Hooks of a process in which no body may run (``tests.simulation.bodies.Hooks``)."""

    def __init__(self) -> None:
        self.bodies: list[str] = []

    def seen(self, run: str, what: str, step: str = "", attempt: int = 0, value: str = "") -> None:
        if what.startswith("body"):
            self.bodies.append(f"{run} {step}")

    async def die(self) -> None:
        self.bodies.append("died")

    async def block(self, seconds: float) -> None:
        """Code that blocked its loop for a while does not when it is replayed."""

    def flaky(self, run: str, step: str, attempt: int) -> random.Random:
        self.bodies.append(f"{run} {step}")
        return random.Random(0)


def simulated(seed: int) -> tuple[Plan, list[ExportedRun]]:
    """Run a seed; return its plan, and all runs as they are exported."""
    world = World(seed)
    logging.disable(logging.CRITICAL)
    try:
        outcome = world.run()
    finally:
        logging.disable(logging.NOTSET)
    runs: list[ExportedRun] = []
    for number in range(outcome.shape.partitions):
        partition = world.store.topics[JOURNAL][number]
        gatherer = Gatherer(at_start=partition.start == 0, accept=lambda _run, _function: True)
        gatherer.take(record.value for record in partition.records)
        runs += gatherer.runs()
    return outcome.plan, runs


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Take network and files away: a socket may not be made, nothing may be opened for writing."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a replay uses the network: {args} {kwargs}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "send", refuse)
    folder = tmp_path / "read-only"
    folder.mkdir()
    (folder / "there").write_text("before")
    folder.chmod(0o555)
    monkeypatch.chdir(folder)
    yield folder
    assert [p.name for p in folder.iterdir()] == ["there"]
    folder.chmod(0o755)


@pytest.mark.parametrize("first", range(0, CHUNK * CHUNKS, CHUNK))
def test_what_is_exported_replays_to_the_same_end_and_does_nothing(
    first: int, cut_off: Path
) -> None:
    ended = 0
    for seed in range(first, first + CHUNK):
        plan, runs = simulated(seed)
        hooks = NoBodies()
        app = app_of(plan, hooks)
        machine = Machine(app.functions)
        try:
            for run in runs:
                ended += check(machine, run, seed)
        finally:
            machine.close()
        assert hooks.bodies == [], f"seed {seed}: a body ran"
    assert ended > CHUNK, "the seeds have runs that ended"


def check(machine: Machine, run: ExportedRun, seed: int) -> int:
    """Replay a run; return 1 if its end could be compared."""
    where = f"seed {seed}, run {run.run.hex()} of {run.function}, {run.status}"
    assert codec.decode_run(codec.encode(run)) == run
    story = story_of(run)
    verdict = judge(machine, story)
    assert verdict.verdict not in BAD, f"{where}: {verdict}"
    told = machine.replay(story)
    assert told.report is None, where
    then = facts_in(run)[-1].entry
    if isinstance(then, RunCompleted):
        assert isinstance(told.end, RunReturned), where
        assert json.loads(told.end.data) == json.loads(then.data), where
        return 1
    if isinstance(then, RunFailed) and then.error.name == "PlannedError":
        assert told.end is not None, where
        assert not isinstance(told.end, RunReturned), where
        assert told.end.error.message == then.error.message, where
        return 1
    return 0
