"""Random programs whose log is moved in the middle: nothing is lost, and nothing done twice."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import stepfold
from stepfold_engine.core.decide import restate
from stepfold_engine.log.base import JOURNAL, Log, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.moving import Moving
from stepfold_engine.moving.draining import drained, recovered
from stepfold_engine.ownership import Claimant
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    EventMatched,
    FunctionsHeld,
    HistoryRestated,
    PartitionClaimed,
    PartitionReleased,
    RunRestated,
    RunStarted,
    SignalHeld,
    StepCompleted,
)
from tests.behaviour.scenario import RunRecord, Scenario, Variant, scenario
from tests.parts.moving import Killer, MemoryMarks, Target, move_though_killed
from tests.simulation.programs import app_of, plan_of
from tests.simulation.test_programs import Recording, check, pass_time, stimulate

MATCHING = CelMatching()


class Moved:
    """A scenario's logs, one after the other, and what their journals say."""

    def __init__(self, s: Scenario, hooks: Recording) -> None:
        self.s, self.hooks = s, hooks
        self.runs: dict[bytes, RunRecord] = {}
        self.done: list[tuple[int, set[tuple[str, str]]]] = []

    def move(self, rng: random.Random) -> None:
        s = self.s
        if rng.random() < 0.5:
            s.crash()
        else:
            s.stop()
        count = s.variant.partitions + rng.choice([0, 0, 1, 3])
        killer = Killer(fails=rng.choice([0.0, 0.1]))
        target = Target(count, s.clock.now_ms)
        target.killer = killer
        entropy = random.Random(rng.random()).randbytes
        marks = MemoryMarks(killer)
        moving = Moving(s.log, target, marks, "t", s.clock, MATCHING, s.settings, entropy)
        s.do(move_though_killed(moving, killer, rng.choice([1, 2, 3])))
        if count == s.variant.partitions:
            assert s.do(alive(target)) == s.do(alive(s.log))
        self.read()
        self.done.append((len(self.hooks.seen_), self.outcomes()))
        s.log = MemoryLog(count, s.clock.now_ms, like=target)
        s.variant = Variant("memory", s.variant.replay, count)
        s.start()

    def outcomes(self) -> set[tuple[str, str]]:
        return {
            (run.text, entry.name)
            for run in self.runs.values()
            for entry in run.entries
            if isinstance(entry, StepCompleted)
        }

    def read(self) -> None:
        """Read the journals of the log as it is; a run that was moved has its history there."""
        for partition in range(self.s.variant.partitions):
            seq = 0
            for decision in self.s.journal(partition):
                if isinstance(decision.entries[:1] and decision.entries[0], PartitionClaimed):
                    continue
                if decision.seq == seq + 1:
                    seq += 1
                    self._note(decision)

    def _note(self, decision: Decision) -> None:
        for entry in decision.entries:
            if not isinstance(entry, HistoryRestated):
                self._of_run(decision.at_ms, entry)
                continue
            if entry.skips == 0:
                self.runs.pop(entry.run, None)
            for item in entry.items:
                self._of_run(item.at_ms, codec.decode_entry(item.entry), entry.run)

    def _of_run(self, at_ms: int, entry: Entry, only: bytes = b"") -> None:
        if isinstance(entry, RunStarted):
            self.runs[entry.run] = RunRecord(entry.run, entry.function)
        if isinstance(entry, SignalHeld):
            return
        refs = entry.waits if isinstance(entry, EventMatched) else [entry]
        for run in dict.fromkeys(getattr(ref, "run", b"") for ref in refs):
            if run in self.runs and (not only or run == only):
                self.runs[run].entries.append(entry)
                self.runs[run].at_ms.append(at_ms)


@pytest.mark.parametrize("replay", [False, True], ids=["hot", "replay"])
@pytest.mark.parametrize("seed", range(15))
def test_a_log_is_moved_and_the_oracle_does_not_notice(
    seed: int, replay: bool, tmp_path: Path
) -> None:
    rng = random.Random(f"{seed}/move")
    plan = plan_of(seed)
    hooks = Recording()
    variant = Variant("memory", replay, rng.choice([1, 1, 2, 3]))
    moments = set(rng.sample(range(len(plan.stimuli)), min(len(plan.stimuli), rng.choice([1, 2]))))
    with scenario(variant, app_of(plan, hooks), tmp_path) as s:
        moved = Moved(s, hooks)
        start_s = s.loop.real_time()
        for index, stimulus in enumerate(plan.stimuli):
            pass_time(s, hooks, start_s + stimulus.at_s)
            if index in moments:
                moved.read()
                moved.move(rng)
            stimulate(s, stimulus)
        moved.read()
        while any(run.end is None for run in moved.runs.values()):
            assert not [run for run in moved.runs.values() if run.status == "stopped"]
            assert s.loop.real_time() < start_s + 5_000, "a run does not end"
            pass_time(s, hooks, s.loop.real_time() + 30)
            read_again(moved)
    verify(moved)
    for run in moved.runs.values():
        check(plan, run)


async def alive(log: Log) -> list[list[Entry]]:
    """Return what a round would restate of each partition, but where in the journal it lies."""
    found: list[list[Entry]] = []
    for reading in await recovered(log):
        state = reading.state
        entries = [e for piece in restate.pieces(state) for e in restate.restate(state, piece)]
        bare = [replace(e, seqs=[]) if isinstance(e, RunRestated) else e for e in entries]
        found.append([e for e in bare if not isinstance(e, FunctionsHeld)])
    return found


def read_again(moved: Moved) -> None:
    """Runs that lie in the log of now are read anew."""
    before = {k: r for k, r in moved.runs.items() if r.end is not None}
    moved.runs = {}
    moved.read()
    moved.runs = before | moved.runs


def verify(moved: Moved) -> None:
    """No event with an id started a function twice; no step with an outcome ran again."""
    starts: Counter[tuple[str, str]] = Counter()
    for run in moved.runs.values():
        first = run.entries[0]
        assert isinstance(first, RunStarted)
        event = codec.decode_event(first.events[0])
        if event.id and first.invoker is None:
            starts[run.function, event.id] += 1
    assert [which for which, count in starts.items() if count > 1] == []
    for at, known in moved.done:
        later = {
            (run, step) for run, what, step, *_ in moved.hooks.seen_[at:] if what == "body-began"
        }
        assert not later & known


def test_what_the_engine_wrote_late_does_not_count(tmp_path: Path) -> None:
    """Else a move that is run again would find other runs than it had begun to write."""
    app = stepfold.App("late")
    with scenario(Variant("memory", replay=False, partitions=2), app, tmp_path) as s:
        s.stop()
        claimant = Claimant("stepfold log move", "m")
        readings = s.do(drained(s.log, s.clock, MATCHING, s.settings, claimant))
        for reading in readings:
            state = reading.state
            late = Decision(state.epoch - 1, state.seq + 1, 0, 0, [], [PartitionReleased()])
            s.do(s.log.append(JOURNAL, state.number, [NewRecord(codec.encode(late))]))
        again = s.do(recovered(s.log))
        assert [r.state.seq for r in again] == [r.state.seq for r in readings]
        assert [r.void for r in again] == [1, 1]
        s.start()
