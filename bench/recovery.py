"""How long a partition takes to recover behind a long history, and what a parked run costs.

``python -m bench.recovery [RECORDS]``: fills a journal as an owner would, with a round of restating
250,000 records before its end (the next one would begin soon), and opens it. Then it folds 100,000
sleeping and 100,000 waiting runs and prints the memory of each.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.engine import load1, now_s
from stepfold_engine.core.apply import apply
from stepfold_engine.core.decide.restate import begin_round, finish_round
from stepfold_engine.core.partition import Partition
from stepfold_engine.log.base import JOURNAL, NewRecord
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.ownership import recover
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Condition,
    Decision,
    Entry,
    PartitionClaimed,
    Position,
    RetryPolicy,
    RunParked,
    RunStarted,
    SleepBegan,
    StepCompleted,
    Term,
    WaitBegan,
)
from stepfold_schemas.ids import run_id, run_key, step_key

BEHIND_ROUND = 250_000
BATCH = 5_000
RUNS = 100_000


def run_of(n: int) -> bytes:
    return run_id(1_800_000_000_000 + n, run_key(0, "app-f", str(n)))


async def fill(log: EmbeddedLog, count: int) -> None:
    state = Partition(0, 1)
    claim = Decision(1, 0, 1, 0, [], [PartitionClaimed(1, b"n" * 16, "bench", "life")])
    apply(state, claim)
    await log.append(JOURNAL, 0, [NewRecord(codec.encode(claim))])
    ended = StepCompleted(run_of(0), step_key("s"), "s", 1, 1, b'{"i": 7}')
    seq, fold_from = 0, 0
    batch: list[NewRecord] = []

    def add(entries: list[Entry]) -> None:
        nonlocal seq
        seq += 1
        at = Position("events", 0, seq, 0)
        batch.append(NewRecord(codec.encode(Decision(1, seq, 1, fold_from, [at], entries))))

    while seq < count:
        add([ended])
        if seq == count - BEHIND_ROUND:
            state.epoch, state.seq = 1, seq
            fold_from = seq + 1
            add(begin_round(state, []))
            add(finish_round(state))
        if len(batch) >= BATCH:
            await log.append(JOURNAL, 0, batch)
            batch.clear()
    await log.append(JOURNAL, 0, batch)


async def recovery(folder: Path, count: int) -> None:
    log = EmbeddedLog.open(folder, 1, lambda: time.time_ns() // 1_000_000)
    begun = now_s()
    await fill(log, count)
    filled = now_s() - begun
    await log.close()
    begun = now_s()
    log = EmbeddedLog.open(folder, None, lambda: time.time_ns() // 1_000_000)
    reading = await recover(log, 0, 1)
    took = now_s() - begun
    size = (folder / "log.db").stat().st_size
    figures = {
        "work": "recovery",
        "records": count,
        "read": reading.read,
        "seconds": round(took, 2),
        "fill_s": round(filled, 1),
        "log_mb": round(size / 1e6),
        "load1": load1(),
    }
    print(json.dumps(figures), flush=True)
    await log.close()


def parked(kind: str) -> None:
    process = psutil.Process(os.getpid())
    state = Partition(0, 1)
    apply(state, Decision(1, 0, 1, 0, [], [PartitionClaimed(1, b"n" * 16, "bench", "life")]))
    before = process.memory_info().rss
    for n in range(RUNS):
        run, step = run_of(n), step_key("wait")
        begun: Entry = SleepBegan(run, step, "wait", 1_900_000_000_000 + n)
        if kind == "waiting":
            condition = Condition("app/go", "", b"{}", [Term("data.order_id", str(n))])
            begun = WaitBegan(run, step, "wait", condition, 1_900_000_000_000 + n, 0)
        policy = RetryPolicy()
        start = RunStarted(
            run, "app-f", "1", "x", [b"event"], [f"event-{n}"], True, 0, 0, 0, policy, []
        )
        entries: list[Entry] = [start, begun, RunParked(run)]
        apply(state, Decision(1, n + 1, 1, 0, [], entries))
    used = process.memory_info().rss - before
    figures = {"work": "parked", "kind": kind, "runs": RUNS, "bytes_a_run": used // RUNS}
    print(json.dumps(figures), flush=True)


def main() -> None:
    """Measure both."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    parked("sleeping")
    parked("waiting")
    with tempfile.TemporaryDirectory(prefix="stepfold-bench-", dir=Path.cwd()) as name:
        asyncio.run(recovery(Path(name), count))


if __name__ == "__main__":
    main()
