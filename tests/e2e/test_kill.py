"""Real processes, SIGKILL at random moments: the promises hold over thousands of runs."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from stepfold_engine.core.fold import begin, fold
from stepfold_engine.core.partition import Partition
from stepfold_engine.log.base import JOURNAL
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
    StepFailed,
)
from stepfold_schemas.ids import ulid_text

ROUNDS = 50
SEED = 4_711
CHILD = Path(__file__).with_name("killed.py")


def child(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(CHILD), str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def accepted(folder: Path) -> list[list[Decision]]:
    """Read the decisions that count, of every partition."""
    log = EmbeddedLog.open(folder, None, lambda: 0)
    found: list[list[Decision]] = []
    for number in range(await log.partitions(JOURNAL)):
        bounds = await log.bounds(JOURNAL, number)
        state, decisions, offset = Partition(number, 2), list[Decision](), bounds.start
        while offset < bounds.end:
            batch = await log.read(JOURNAL, number, offset)
            for record in batch.records:
                decision = codec.decode_decision(record.value)
                if record.offset == bounds.start and bounds.start:
                    begin(state, decision)
                if fold(state, decision, record.offset):
                    decisions.append(decision)
            offset = batch.next_offset
        found.append(decisions)
    await log.close()
    return found


@pytest.mark.process
@pytest.mark.timeout(400)
def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print("seed", SEED)
    for number in range(ROUNDS):
        with child(tmp_path, str(number)) as process:
            assert process.stdout is not None
            if chance.random() < 0.8:
                assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 1.0))  # the moment of the kill
            process.kill()
    with child(tmp_path, str(ROUNDS), "finish") as process:
        out, _ = process.communicate(timeout=200)
        assert "finished" in out
    check(tmp_path)


def check(folder: Path) -> None:
    acked = {int(line) for line in (folder / "acked").read_text().split()}
    started: Counter[int] = Counter()
    ends: Counter[bytes] = Counter()
    outcomes: Counter[tuple[bytes, bytes]] = Counter()
    recorded_ms: dict[tuple[str, str], int] = {}
    results: dict[bytes, int] = {}
    numbers: dict[bytes, int] = {}
    for decisions in asyncio.run(accepted(folder / "log")):
        for decision in decisions:
            for entry in decision.entries:
                if isinstance(entry, RunStarted) and entry.function == "k-order":
                    n = json.loads(codec.decode_event(entry.events[0]).data)["n"]
                    started[n] += 1
                    numbers[entry.run] = n
                elif isinstance(entry, RunCompleted | RunFailed | RunCancelled):
                    ends[entry.run] += 1
                    assert isinstance(entry, RunCompleted), entry
                    results[entry.run] = json.loads(entry.data)
                elif isinstance(entry, StepCompleted | StepFailed):
                    outcomes[entry.run, entry.step] += 1
                    key = (ulid_text(entry.run), entry.name)
                    recorded_ms[key] = decision.at_ms
    assert len(acked) > 300  # usually 3,000; a slow machine is no failure
    assert acked <= set(started), "an acknowledged event was lost"
    assert set(started.values()) == {1}, "an event started its function twice"
    assert set(ends.values()) == {1}, "a run ended twice"
    assert set(numbers) <= set(ends), "a run did not end"
    assert all(results[run] == n for run, n in numbers.items())
    assert set(outcomes.values()) == {1}, "a step has two outcomes"
    ran: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in (folder / "bodies").read_text().splitlines():
        run, step, _, at_ms = line.split()
        ran[run, step].append(int(at_ms))
    late = [key for key, times in ran.items() if max(times) > recorded_ms[key] + 1]
    assert not late, "a body ran after its outcome was recorded"
    again = sum(len(times) - 1 for times in ran.values())
    print(f"{len(started)} runs, {len(ran)} steps; {again} bodies ran again after a kill")
