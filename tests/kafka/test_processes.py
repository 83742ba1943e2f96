"""Several processes on one broker: events are published, processes die, every run ends once."""

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

import pytest
from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.answers import Tail
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
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

PROGRAM = Path(__file__).with_name("program.py")
PARTITIONS = 4

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(200):
            await main()

    asyncio.run(bounded())


class Cluster:
    """Processes of one namespace, and what their journals say."""

    def __init__(self, broker: Broker, names: TopicNames, log: KafkaLog, folder: Path) -> None:
        self.broker, self.names, self.log, self.folder = broker, names, log, folder
        self.session_s = 2 if broker.folder else 6
        self.processes: list[asyncio.subprocess.Process] = []
        self.starts: Counter[str] = Counter()
        self.ends: dict[bytes, Entry] = {}
        self.outcomes: Counter[tuple[bytes, bytes]] = Counter()
        self.runs: dict[bytes, str] = {}
        self._tails = [Tail(log, number) for number in range(PARTITIONS)]

    async def start(self, name: str = "") -> asyncio.subprocess.Process:
        """Start a process; return it when its functions are in force."""
        names, command = self.names, [sys.executable, "-m", "stepfold.command", "run", str(PROGRAM)]
        command += ["--kafka", self.broker.servers, "--namespace", names.namespace]
        command += ["--events-prefix", names.events_prefix, "--node", name]
        command += ["-X", f"session.timeout.ms={1000 * self.session_s}"]
        command += ["-X", "heartbeat.interval.ms=300"]
        with (self.folder / f"log{len(self.processes)}").open("wb") as err:
            environment = os.environ | {"BODIES": str(self.folder / "bodies")}
            process = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.PIPE, stderr=err, env=environment
            )
        self.processes.append(process)
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line.startswith(b"k runs on Kafka"), self.said(len(self.processes) - 1)
        return process

    def said(self, index: int) -> str:
        return (self.folder / f"log{index}").read_text()

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
async def cluster(kafka: Broker, folder: Path) -> AsyncGenerator[Cluster]:
    names = await fresh_topics(kafka, PARTITIONS)
    now_ms = lambda: time.time_ns() // 1_000_000  # noqa: E731 - the clock
    log = await KafkaLog.connect(client_properties(kafka), names, now_ms)
    made = Cluster(kafka, names, log, folder)
    try:
        yield made
    finally:
        for process in made.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                await process.wait()
        await log.close()


def test_a_process_is_killed_and_every_run_ends_once(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start("first")
            second = await c.start()
            await c.publish(range(1, 101))
            await c.until(lambda: len(c.orders()) > 20)
            first.kill()
            await first.wait()
            await c.publish(range(101, 201))
            await c.until(c.ended(200))
            third = await c.start("third")
            await c.publish(range(201, 251))
            await c.until(c.ended(250))
            c.check(range(1, 251))
            workers = {line.split()[3] for line in (tmp_path / "bodies").read_text().splitlines()}
            assert workers >= {str(first.pid), str(second.pid)}
            for process in (second, third):
                process.terminate()
                assert await process.wait() == 0
            assert "Traceback" not in c.said(1) + c.said(2)

    run(main)


def test_a_process_that_was_stopped_wakes_and_does_not_duel(kafka: Broker, tmp_path: Path) -> None:
    """S5, S21: it is fenced, asks the group, and what it had under way counts once."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            zombie = await c.start()
            await c.start()
            await c.publish(range(1, 51))
            await c.until(lambda: len(c.orders()) > 10)
            zombie.send_signal(signal.SIGSTOP)
            await c.publish(range(51, 101))
            await c.until(c.ended(100))
            zombie.send_signal(signal.SIGCONT)
            await c.publish(range(101, 151))
            await c.until(c.ended(150))
            c.check(range(1, 151))

    run(main)


def test_the_older_of_two_processes_of_one_name_ends(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            older = await c.start("same")
            await c.publish(range(1, 11))
            await c.until(c.ended(10))
            await c.start("same")
            assert await older.wait() == 1
            assert "another process has joined the group" in c.said(0)
            assert "this process's name 'same'" in c.said(0)
            await c.publish(range(11, 21))
            await c.until(c.ended(20))
            c.check(range(1, 21))

    run(main)


def test_a_timeout_is_decided_behind_the_marks_of_transactions(
    kafka: Broker, tmp_path: Path
) -> None:
    """The last offsets of the events hold no data; all inputs have been read all the same."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            await c.start()
            producer = AIOKafkaProducer(
                bootstrap_servers=kafka.servers, transactional_id=c.names.namespace
            )
            await producer.start()
            record = event_record(Event("k/patient", b"{}", "patient-1"))
            for where in range(PARTITIONS):
                async with producer.transaction():
                    await send(producer, c.names.of(EVENTS), where, record)
            await producer.stop()
            await c.until(lambda: len(c.ends) == 1)
            (end,) = c.ends.values()
            assert isinstance(end, RunCompleted)
            assert json.loads(end.data) == "nothing came"

    run(main)


async def send(producer: AIOKafkaProducer, topic: str, where: int, record: NewRecord) -> None:
    headers = list(record.headers)
    await producer.send_and_wait(topic, record.value, record.key, where, headers=headers)


def test_topics_that_are_missing_end_the_command_with_a_hint(kafka: Broker) -> None:
    command = [sys.executable, "-m", "stepfold.command", "run", str(PROGRAM)]
    done = subprocess.run(
        [*command, "--kafka", kafka.servers, "--namespace", "nobody"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"BODIES": os.devnull},
        timeout=60,
    )
    assert done.returncode == 1
    assert "stepfold topics create --namespace nobody makes what is missing" in done.stderr
    assert JOURNAL in done.stderr
