"""Three brokers, of which one dies, hangs and comes back after the other, while work goes on.

Not collected with the other tests, because three brokers take a gigabyte: ``make
test-kafka-failover``.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest

from stepfold_engine.errors import AppendUnknownError, LogError
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.log.base import JOURNAL, NewRecord
from tests.parts.broker import SCRIPT, Broker, free_port
from tests.parts.cluster import Cluster, cluster
from tests.parts.topics import client_properties, fresh_topics

BROKERS = 3
DOWN_S = 6.0
"""Longer than it takes the others to notice."""

ENDED_S = 180.0
ACKNOWLEDGED_S = 120.0
"""What takes longer is stuck, however busy the machine is: the test says what."""


class Brokers:
    """Three brokers, started with the script that users have."""

    def __init__(self, home: Path, port: int) -> None:
        self._command = [sys.executable, str(SCRIPT), "--dir", str(home)]
        options = [f"--brokers={BROKERS}", f"--port={port}"]
        self.broker = Broker(self.act("start", *options).strip())

    def act(self, *args: str) -> str:
        done = subprocess.run(
            [*self._command, *args], stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    async def take_away(self, node: int, how: str) -> None:
        """Let a broker be away for a while."""
        await asyncio.to_thread(self.act, how, str(node))
        await asyncio.sleep(DOWN_S)
        back = ["continue", str(node)] if how == "pause" else ["start"]
        await asyncio.to_thread(self.act, *back)
        await asyncio.sleep(DOWN_S / 2)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Generator[Brokers]:
    made = Brokers(tmp_path_factory.mktemp("brokers"), free_port())
    yield made
    made.act("stop", "--wipe")


class Load:
    """Appends one record after the other, and reads them from the end."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self.acknowledged: list[int] = []
        self.unknown: list[int] = []
        self.seen: list[int] = []
        self.stopped = False

    async def write(self) -> None:
        number = 0
        while not self.stopped:
            try:
                await self._log.append(JOURNAL, 0, [NewRecord(b"%d" % number)])
                self.acknowledged.append(number)
            except AppendUnknownError:
                self.unknown.append(number)
            except LogError:
                await asyncio.sleep(0.1)
            number += 1

    async def read(self) -> None:
        offset = 0
        while True:
            batch = await self._log.read(JOURNAL, 0, offset, wait_ms=60_000)
            self.seen += [int(record.value) for record in batch.records]
            offset = batch.next_offset


@pytest.mark.kafka
@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_every_broker_goes_away_once_and_nothing_is_lost(brokers: Brokers, how: str) -> None:
    async def main() -> None:
        names = await fresh_topics(brokers.broker)
        properties = client_properties(brokers.broker)
        log = await KafkaLog.connect(properties, names, lambda: time.time_ns() // 1_000_000)
        load = Load(log)
        writing, reading = asyncio.create_task(load.write()), asyncio.create_task(load.read())
        for node in range(1, BROKERS + 1):
            await brokers.take_away(node, how)
        load.stopped = True
        await writing
        end = (await log.bounds(JOURNAL, 0)).end
        async with asyncio.timeout(60):
            while len(load.seen) < end:
                await asyncio.sleep(0.05)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await log.close()
        assert load.acknowledged, "something was written"
        assert set(load.acknowledged) <= set(load.seen)
        assert set(load.seen) <= {*load.acknowledged, *load.unknown}
        assert len(load.seen) == len(set(load.seen)), "a record was written twice"
        # One that nobody knew of may land late; all others lie in the order of their calls.
        known = set(load.acknowledged)
        assert [n for n in load.seen if n in known] == load.acknowledged

    asyncio.run(main())


@pytest.mark.kafka
@pytest.mark.process
@pytest.mark.timeout(600)
def test_no_acknowledged_event_is_lost_with_a_broker(brokers: Brokers, tmp_path: Path) -> None:
    """Each broker dies once under the load of two processes: every event's run ends once."""

    async def main() -> None:
        async with cluster(brokers.broker, tmp_path) as c:
            await c.start()
            await c.start()
            for node in range(1, BROKERS + 1):
                away = asyncio.create_task(brokers.take_away(node, "kill"))
                for n in range(40 * node - 39, 40 * node + 1):
                    await publish_until_acknowledged(c, n)
                    await asyncio.sleep(DOWN_S / 40)
                await away
            try:
                async with asyncio.timeout(ENDED_S):
                    await c.until(c.ended(40 * BROKERS))
            except TimeoutError:
                pytest.fail(state_of(c))
            c.check(range(1, 40 * BROKERS + 1))

    asyncio.run(main())


async def publish_until_acknowledged(c: Cluster, n: int) -> None:
    """Append an event as a careful producer does: again, with its id, until it is acknowledged."""
    errors: list[str] = []
    try:
        async with asyncio.timeout(ACKNOWLEDGED_S):
            while True:
                try:
                    return await c.publish([n])
                except LogError as error:
                    errors.append(str(error))
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"event {n} is not acknowledged: {errors[-3:]}")


def state_of(c: Cluster) -> str:
    """Say what is not done, and what the processes said last."""
    open_runs = [f"{name} {run.hex()}" for run, name in c.runs.items() if run not in c.ends]
    said = [f"process {n}: {c.said(n)[-2_000:]}" for n in range(len(c.processes))]
    return "\n".join([f"{len(c.orders())} orders have ended; open: {open_runs}", *said])
