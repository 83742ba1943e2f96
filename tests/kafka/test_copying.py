"""``stepfold log copy`` from a real broker: the copy folds to the same state, and can go on."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.cli.loading import load, parse_target
from stepfold_engine.clock import SystemClock
from stepfold_engine.core.decide import restate
from stepfold_engine.core.partition import Partition
from stepfold_engine.history import History
from stepfold_engine.local import running_app
from stepfold_engine.log.base import EVENTS, TOPICS, Log, NewRecord
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.ownership import recover
from stepfold_engine.readers import event_record
from stepfold_schemas.entries import Entry
from stepfold_schemas.events import Event
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, PROGRAM, Cluster, cluster, run
from tests.unit.test_copying import everything

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


async def send_in_transactions(c: Cluster) -> None:
    """Append events whose transactions leave marks, behind the last record, too."""
    producer = AIOKafkaProducer(
        bootstrap_servers=c.broker.servers, transactional_id=c.names.namespace
    )
    await producer.start()
    topic = c.names.of(EVENTS)
    for number in range(PARTITIONS):
        async with producer.transaction():
            data = json.dumps({"signal": f"s{number}"}).encode()
            record: NewRecord = event_record(Event("k/asked", data, f"asked-{number}"))
            headers = list(record.headers)
            await producer.send_and_wait(topic, record.value, record.key, number, headers=headers)
    await producer.stop()


def told(state: Partition) -> list[Entry]:
    """Return everything that is alive in a partition, as a round would state it."""
    entries = restate.begin_round(state, [], state.seq)
    for piece in restate.pieces(state):
        entries += restate.restate(state, piece)
    return entries


async def same(one: Log, other: Log) -> None:
    for topic in TOPICS:
        for number in range(PARTITIONS):
            assert await one.bounds(topic, number) == await other.bounds(topic, number)
            found = await everything(other, topic, number)
            assert found == await everything(one, topic, number)
    for number in range(PARTITIONS):
        a = await recover(one, number, PARTITIONS)
        b = await recover(other, number, PARTITIONS)
        assert (a.end, a.read, a.void, a.facts) == (b.end, b.read, b.void, b.facts)
        assert (a.state.epoch, a.state.seq) == (b.state.epoch, b.state.seq)
        assert told(a.state) == told(b.state)


def test_the_copy_folds_to_the_same_state_and_goes_on(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            processes = [await c.start(), await c.start()]
            await c.publish(range(1, 41))
            await send_in_transactions(c)
            await c.until(lambda: len(c.orders()) == 40)
            await c.until(lambda: list(c.runs.values()).count("k-approve") == PARTITIONS)
            folder = tmp_path / "copy"
            command = [sys.executable, "-m", "stepfold.command", "log", "copy", str(folder)]
            command += ["--kafka", kafka.servers, "--namespace", c.names.namespace]
            command += ["--events-prefix", c.names.events_prefix]
            for process in processes:
                process.terminate()
                assert await process.wait() == 0
            copying = await asyncio.create_subprocess_exec(*command)
            assert await copying.wait() == 0
            copy = EmbeddedLog.open(folder, None, SystemClock().now_ms)
            assert sum([(await copy.bounds(EVENTS, n)).end for n in range(PARTITIONS)]) > 40
            await same(c.log, copy)
            await copy.close()
            await go_on(folder, c)

    async def go_on(folder: Path, c: Cluster) -> None:
        waiting = sorted(c.runs.keys() - c.ends.keys())
        assert len(waiting) == PARTITIONS
        app = load(parse_target(str(PROGRAM)))
        async with running_app(app, folder) as node:
            history = History(node, folder / "history.db")
            async with history.running():
                for number in range(PARTITIONS):
                    assert await node.signal(f"s{number}", b"1") in waiting
                ids = await app.send(name="k/order", id="order-x", data={"n": 1})
                while not all([await history.result(of) for of in waiting]):
                    await asyncio.sleep(0.05)
                while not (found := await history.runs_of_event(ids[0])):
                    await asyncio.sleep(0.05)
                while await history.result(found[0].id) is None:
                    await asyncio.sleep(0.05)

    monkeypatch.setenv("BODIES", str(tmp_path / "bodies"))
    run(main)
