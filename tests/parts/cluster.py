"""Several processes of one app on a real broker, and what their journals say."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from stepfold_engine.answers import Tail
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS
from stepfold_engine.readers import event_record
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of
from tests.parts.broker import Broker
from tests.parts.topics import client_properties, fresh_topics

PROGRAM = Path(__file__).resolve().parents[1] / "kafka" / "program.py"
PARTITIONS = 4


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(200):
            await main()

    asyncio.run(bounded())


class Cluster:
    """Processes of one namespace, and what their journals say."""

    app = "k"

    def __init__(self, broker: Broker, names: TopicNames, log: KafkaLog, folder: Path) -> None:
        self.broker, self.names, self.log, self.folder = broker, names, log, folder
        self.session_s = 2 if broker.folder else 6
        self.processes: list[asyncio.subprocess.Process] = []
        self.starts: Counter[str] = Counter()
        self.ends: dict[bytes, Entry] = {}
        self.outcomes: Counter[tuple[bytes, bytes]] = Counter()
        self.runs: dict[bytes, str] = {}
        self._tails = [Tail(log, number) for number in range(PARTITIONS)]

    async def start(self, name: str = "", *more: str) -> asyncio.subprocess.Process:
        """Start a process; return it when its functions are in force."""
        names, command = self.names, [sys.executable, "-m", "stepfold.command", "run", str(PROGRAM)]
        command += ["--kafka", self.broker.servers, "--namespace", names.namespace]
        command += ["--events-prefix", names.events_prefix, "--node", name]
        command += ["-X", f"session.timeout.ms={1000 * self.session_s}"]
        command += ["-X", "heartbeat.interval.ms=300", *more]
        return await self.spawn(command)

    async def spawn(
        self, command: Sequence[str], folder: Path | None = None
    ) -> asyncio.subprocess.Process:
        """Start a process by its whole command; return it when its functions are in force."""
        with (self.folder / f"log{len(self.processes)}").open("wb") as err:
            environment = os.environ | {"BODIES": str(self.folder / "bodies")}
            process = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.PIPE, stderr=err, env=environment, cwd=folder
            )
        self.processes.append(process)
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line.startswith(f"{self.app} runs on Kafka".encode()), self.said(-1)
        return process

    async def url(self, process: asyncio.subprocess.Process) -> str:
        """Return where a process that was started with a port serves its API."""
        assert process.stdout is not None
        while not (line := (await process.stdout.readline()).decode()).startswith("http://"):
            assert line, "it ended"
        return line.strip()

    def said(self, index: int) -> str:
        return (self.folder / f"log{range(len(self.processes))[index]}").read_text()

    async def publish(self, numbers: Sequence[int]) -> None:
        """Append events as any producer may; all are acknowledged when this returns."""
        for n in numbers:
            event = Event("k/order", json.dumps({"n": n}).encode(), f"order-{n}")
            where = partition_of(event.id, PARTITIONS)
            await self.log.append(EVENTS, where, [event_record(event)])

    async def until(self, fits: Callable[[], bool]) -> None:
        """Follow the journals until something is so."""
        while not fits():
            news = 0
            for tail in self._tails:
                for decision in await tail.read(50):
                    news += 1
                    for entry in decision.entries:
                        self._note(entry)
            if not news:
                await asyncio.sleep(0.05)

    def _note(self, entry: Entry) -> None:
        match entry:
            case RunStarted():
                self.runs[entry.run] = entry.function
                event = codec.decode_event(entry.events[0])
                self.starts[
                    f"{entry.function} {event.id or event.internal or entry.run.hex()}"
                ] += 1
            case RunCompleted() | RunFailed() | RunCancelled():
                assert entry.run not in self.ends, "a run ended twice"
                self.ends[entry.run] = entry
            case StepCompleted():
                self.outcomes[entry.run, entry.step] += 1
            case _:
                pass

    def ended(self, count: int) -> Callable[[], bool]:
        """Say whether so many orders ended, and everything that they began."""
        return lambda: len(self.orders()) == count and self.runs.keys() == self.ends.keys()

    def orders(self) -> list[bytes]:
        return [run for run in self.ends if self.runs[run] == "k-order"]

    def check(self, numbers: Sequence[int]) -> None:
        """Every event started one run, and every run ended once, with the right result."""
        results: list[int] = []
        for run_id in self.orders():
            entry = self.ends[run_id]
            assert isinstance(entry, RunCompleted), entry
            results.append(json.loads(entry.data))
        assert sorted(results) == sorted(numbers)
        assert set(self.starts.values()) == {1}
        assert set(self.outcomes.values()) == {1}


@asynccontextmanager
async def cluster(kafka: Broker, folder: Path, app: str = "k") -> AsyncGenerator[Cluster]:
    names = await fresh_topics(kafka, PARTITIONS)
    now_ms = lambda: time.time_ns() // 1_000_000  # noqa: E731 - the clock
    log = await KafkaLog.connect(client_properties(kafka), names, now_ms)
    made = Cluster(kafka, names, log, folder)
    made.app = app
    try:
        yield made
    finally:
        for process in made.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                await process.wait()
        await log.close()
