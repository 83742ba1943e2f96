"""Figures on Kafka: ``python -m bench.kafka [w1] [latency] [takeover] [blocked] [recovery] [million]``.

All of them if none is named; JSON lines, each with the machine's load. Looks for a broker as the
tests do: STEPFOLD_TEST_KAFKA, Docker, ``compose/kafka-local``.

* w1: runs of 10 trivial steps, 64 clients, 1, 2 and 4 processes on 8 partitions. On a machine of
  few cores broker, clients and processes share them: the ratio says more than the figure.
* latency: one client, one process. A step's share of a run, beside single acknowledged appends that
  are measured in turn with the runs; and from publishing an event to its first step's body.
* takeover: from SIGTERM, and from SIGKILL, until the last partition of the process is claimed by
  another. Five times each.
* blocked: a function blocks its loop for a minute; how many partitions its process loses.
* recovery: of a partition with 100,000 decisions.
* million: a million small events while no process runs, half of them Avro and half JSON, of which
  one in a thousand starts a run; from the start of a process until its functions are declared, and
  until all those runs have ended. How much memory it took, and how many events started no run or
  two.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

import stepfold
from bench.engine import load1, now_s, percentile
from stepfold_engine.answers import Tail
from stepfold_engine.core.fold import claim_in
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import properties_of
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, JOURNAL, NewRecord
from stepfold_engine.ownership import recover
from stepfold_engine.readers import event_record
from stepfold_engine.shared import sharing_app
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    PartitionClaimed,
    RunCompleted,
    RunStarted,
    StepCompleted,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import key_of, partition_of, run_id, run_key, step_key
from tests.parts.broker import Broker, start
from tests.parts.topics import client_properties, fresh_topics

STEPS, PARTITIONS, CLIENTS = 10, 8, 64
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
WARM_S = 2.0
SESSION_S = 6.0
ENTRIES = 100_000
EVENTS_COUNT = int(os.environ.get("BENCH_EVENTS", "1000000"))
BLOCK_S = float(os.environ.get("BENCH_BLOCK_S", "60"))
TIMES = int(os.environ.get("BENCH_TIMES", "5"))

app = stepfold.App("bench")


async def trivial(i: int) -> dict[str, int]:
    return {"i": i}


@app.function("ten", on="bench/ten")
async def ten(ctx: stepfold.Context) -> int:
    for i in range(STEPS):
        await ctx.step.run("step", trivial, i)
    return STEPS


@app.function("first", on="bench/first")
async def first(ctx: stepfold.Context) -> None:
    await ctx.step.run("mark", time.time_ns)


async def block() -> None:
    time.sleep(BLOCK_S)


@app.function("block", on="bench/block")
async def blocking(ctx: stepfold.Context) -> None:
    await ctx.step.run("block", block)


async def work(servers: str, word: str) -> None:
    """Be one of the processes."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    session = {"session.timeout.ms": str(round(SESSION_S * 1000)), "heartbeat.interval.ms": "500"}
    properties = properties_of({"bootstrap.servers": servers}, session)
    async with sharing_app(app, properties, TopicNames(word, word)):
        print("ready", flush=True)
        await stop.wait()


class Crew:
    """Processes of one namespace, a producer, and a reader of what they decide."""

    def __init__(self, broker: Broker, names: TopicNames, log: KafkaLog) -> None:
        self.broker, self.names, self.log = broker, names, log
        self.processes: list[asyncio.subprocess.Process] = []
        self.waiting: dict[bytes, asyncio.Future[None]] = {}
        self.marks: dict[bytes, int] = {}
        self.claims: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self.claimed = asyncio.Event()
        self.started: Counter[bytes] = Counter()
        self.read: dict[tuple[int, int], int] = {}

    async def hire(self) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "bench.kafka", "--work", self.broker.servers]
        process = await asyncio.create_subprocess_exec(
            *command, self.names.namespace, stdout=subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def shared_out(self) -> None:
        """Wait until every process has claimed something last."""
        while len({of[-1][0] for of in self.claims.values() if of}) < len(self.living()):
            self.claimed.clear()
            await self.claimed.wait()
        await asyncio.sleep(1.0)

    def living(self) -> list[asyncio.subprocess.Process]:
        return [p for p in self.processes if p.returncode is None]

    def owned_by(self, process: asyncio.subprocess.Process) -> set[int]:
        ending = f"-{process.pid}"
        return {n for n, of in self.claims.items() if of and of[-1][0].endswith(ending)}

    async def follow(self, number: int) -> None:
        """Read what is decided in a partition, for ever."""
        tail = Tail(self.log, number)
        while True:
            for decision in await tail.read(1_000):
                if (claim := claim_in(decision)) is not None:
                    self.claims[number].append((claim.node, decision.at_ms))
                    self.claimed.set()
                for position in decision.positions:
                    if position.topic == EVENTS:
                        self.read[number, position.partition] = position.offset
                for entry in decision.entries:
                    self._note(entry)

    def _note(self, entry: Entry) -> None:
        if isinstance(entry, RunStarted):
            self.started[key_of(entry.run)] += 1
        if isinstance(entry, StepCompleted) and entry.name == "mark":
            self.marks[key_of(entry.run)] = int(entry.data)
        if isinstance(entry, RunCompleted):
            done = self.waiting.pop(key_of(entry.run), None)
            if done is not None:
                done.set_result(None)

    async def run(self, function: str, event_id: str) -> bytes:
        """Publish an event, wait for the end of its run; return the run's key."""
        home = partition_of(event_id, PARTITIONS)
        key = run_key(home, f"bench-{function}", f"event {event_id}")
        done = self.waiting.setdefault(key, asyncio.get_running_loop().create_future())
        record = event_record(Event(f"bench/{function}", b"{}", event_id))
        await self.log.append(EVENTS, home, [record])
        await done
        return key


@asynccontextmanager
async def crew(broker: Broker, processes: int) -> AsyncGenerator[Crew]:
    names = await fresh_topics(broker, PARTITIONS)
    log = await KafkaLog.connect(client_properties(broker), names, now_ms)
    made = Crew(broker, names, log)
    readers = [asyncio.create_task(made.follow(n)) for n in range(PARTITIONS)]
    try:
        for _ in range(processes):
            await made.hire()
        await made.shared_out()
        yield made
    finally:
        for process in made.living():
            process.terminate()
            await process.wait()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await log.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def emit(**figures: Any) -> None:
    print(json.dumps(figures | {"load1": load1()}), flush=True)


async def w1(broker: Broker) -> None:
    for processes in (1, 2, 4):
        async with crew(broker, processes) as c:
            stop, took = now_s() + WARM_S + SECONDS, list[float]()
            tasks = [asyncio.create_task(client(c, n, stop, took)) for n in range(CLIENTS)]
            await asyncio.gather(*tasks)
            emit(
                work="W1 on Kafka",
                processes=processes,
                clients=CLIENTS,
                steps_per_s=round(len(took) * STEPS / SECONDS),
                run_ms_p50=round(percentile(took, 50), 1),
                run_ms_p99=round(percentile(took, 99), 1),
            )


async def client(c: Crew, number: int, stop: float, took: list[float]) -> None:
    count = 0
    while (begun := now_s()) < stop:
        await c.run("ten", f"w1-{number}-{count}")
        count += 1
        if begun > stop - SECONDS and now_s() <= stop:
            took.append((now_s() - begun) * 1000)


async def latency(broker: Broker) -> None:
    async with crew(broker, 1) as c:
        runs, produces, firsts = list[float](), list[float](), list[float]()
        stop, count = now_s() + WARM_S + SECONDS, 0
        while (begun := now_s()) < stop:
            await c.run("ten", f"one-{count}")
            between = now_s()
            for _ in range(STEPS):
                await c.log.append(DEAD_LETTERS, 0, [NewRecord(b"x" * 200)])
            if begun > stop - SECONDS:
                runs.append((between - begun) * 1000 / STEPS)
                produces.append((now_s() - between) * 1000 / STEPS)
            count += 1
        for n in range(100):
            sent_ns = time.time_ns()
            key = await c.run("first", f"first-{n}")
            firsts.append((c.marks[key] - sent_ns) / 1e6)
            await asyncio.sleep(0.01)
    step, produce = percentile(runs, 50), percentile(produces, 50)
    emit(
        work="latency",
        step_ms_p50=round(step, 2),
        produce_ms_p50=round(produce, 2),
        ratio=round(step / produce, 2),
        event_to_step_ms_p50=round(percentile(firsts, 50), 2),
        event_to_step_ms_p99=round(percentile(firsts, 99), 2),
    )


async def takeover(broker: Broker) -> None:
    for how, number in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
        took = list[float]()
        async with crew(broker, 2) as c:
            for _ in range(TIMES):
                leaving = c.living()[0]
                moving = c.owned_by(leaving)
                before = {n: len(c.claims[n]) for n in moving}
                assert moving, "it owns something"
                begun_ms = now_ms()
                leaving.send_signal(number)
                while any(len(c.claims[n]) == before[n] for n in moving):
                    c.claimed.clear()
                    await c.claimed.wait()
                took.append(max(c.claims[n][before[n]][1] for n in moving) - begun_ms)
                await leaving.wait()
                await c.hire()
                await c.shared_out()
        beyond = {"beyond_session_ms_max": max(took) - SESSION_S * 1000} if how == "SIGKILL" else {}
        emit(work="takeover", how=how, ms_p50=percentile(took, 50), ms_max=max(took), **beyond)


async def blocked(broker: Broker) -> None:
    async with crew(broker, 2) as c:
        before = {n: len(of) for n, of in c.claims.items()}
        await c.run("block", "block-1")
        await c.run("ten", "after")
        lost = sum(len(of) - before[n] for n, of in c.claims.items())
    emit(work="blocked", seconds=BLOCK_S, session_s=SESSION_S, partitions_lost=lost)


async def recovery(broker: Broker) -> None:
    names = await fresh_topics(broker, 1)
    log = await KafkaLog.connect(client_properties(broker), names, now_ms)
    claim = Decision(1, 0, 1, 0, [], [PartitionClaimed(1, b"n" * 16, "bench", "life")])
    await log.append(JOURNAL, 0, [NewRecord(codec.encode(claim))])
    run = run_id(1_800_000_000_000, run_key(0, "bench-ten", "0"))
    ended = StepCompleted(run, step_key("step"), "step", 1, 1, b'{"i": 7}')
    for begin in range(1, ENTRIES + 1, 1_000):
        numbers = range(begin, min(begin + 1_000, ENTRIES + 1))
        decisions = [Decision(1, seq, seq, 0, [], [ended]) for seq in numbers]
        await log.append(JOURNAL, 0, [NewRecord(codec.encode(d)) for d in decisions])
    await log.close()
    log = await KafkaLog.connect(client_properties(broker), names, now_ms)
    begun, cpu = now_s(), time.process_time()
    reading = await recover(log, 0, 1)
    took, cpu = now_s() - begun, time.process_time() - cpu
    await log.close()
    assert reading.state.seq == ENTRIES
    emit(work="recovery", entries=ENTRIES, seconds=round(took, 2), cpu_s=round(cpu, 2))


async def million(broker: Broker) -> None:
    async with crew(broker, 1) as c:
        (only,) = c.living()
        only.terminate()
        await only.wait()
        begun = now_s()
        for begin in range(0, EVENTS_COUNT, 8_000):
            numbers = range(begin, min(begin + 8_000, EVENTS_COUNT))
            parts = [numbers[n::PARTITIONS] for n in range(PARTITIONS)]
            appends = [c.log.append(EVENTS, n, list(map(small, p))) for n, p in enumerate(parts)]
            await asyncio.gather(*appends)
        published = now_s() - begun
        keys = [f"small-{n}" for n in range(0, EVENTS_COUNT, 1_000)]
        runs = [run_key(partition_of(k, PARTITIONS), "bench-ten", f"event {k}") for k in keys]
        loop = asyncio.get_running_loop()
        ends = [c.waiting.setdefault(run, loop.create_future()) for run in runs]
        begun, peak = now_s(), list[int]()
        process = await c.hire()
        ready = now_s() - begun
        watching = asyncio.create_task(watch(process.pid, peak))
        await asyncio.gather(*ends)
        caught_up = now_s() - begun
        # A copy would start its run late: all must be read before it is certain that none does.
        bounds = [await c.log.bounds(EVENTS, n) for n in range(PARTITIONS)]
        ended = {(p, n): bounds[n].end for p in range(PARTITIONS) for n in range(PARTITIONS)}
        while c.read != ended:
            await asyncio.sleep(0.1)
        watching.cancel()
        emit(
            work="million",
            events=EVENTS_COUNT,
            runs=len(runs),
            publish_s=round(published, 1),
            ready_s=round(ready, 1),
            caught_up_s=round(caught_up, 1),
            events_per_s=round(EVENTS_COUNT / caught_up),
            peak_mb=round(max(peak) / 2**20),
            lost=sum(c.started[run] == 0 for run in runs),
            doubled=sum(c.started[run] > 1 for run in runs),
        )


async def watch(pid: int, peak: list[int]) -> None:
    process = psutil.Process(pid)
    while True:
        peak.append(process.memory_info().rss)
        await asyncio.sleep(0.1)


def small(n: int) -> NewRecord:
    begins, plain = n % 1_000 == 0, n // (1 if n % 1_000 else 1_000) % 2
    name, event_id = "bench/ten" if begins else "bench/noise", f"small-{n}"
    if plain:
        return NewRecord(json.dumps({"name": name, "data": {}, "id": event_id}).encode())
    return event_record(Event(name, b"{}", event_id))


WORKS = {
    "w1": w1,
    "latency": latency,
    "takeover": takeover,
    "blocked": blocked,
    "recovery": recovery,
    "million": million,
}


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(*sys.argv[2:4]))
        return
    with tempfile.TemporaryDirectory(prefix="stepfold-bench-") as folder:
        broker, stop = start(Path(folder))
        try:
            for name in sys.argv[1:] or WORKS:
                asyncio.run(WORKS[name](broker))
        finally:
            stop()


if __name__ == "__main__":
    main()
