"""Orders of events that only a real broker and real clients show; the names say which schedule.

S1, S3, S4 and S8 of the log itself are in ``test_appends``, S5 and S21 with processes in
``test_processes`` and ``test_group``.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Message, Producer  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.answers import Tail
from stepfold_engine.core.partition import Partition
from stepfold_engine.log.base import EVENTS, JOURNAL, Log, NewRecord
from stepfold_engine.ownership import Claimant, Reading, claim, headers_of, recover
from stepfold_engine.readers import event_record
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Counter,
    Decision,
    Entry,
    MessageTaken,
    PartitionRestated,
    RoundFinished,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, cluster, run
from tests.parts.cluster import run as run_long
from tests.parts.opened import log_names, opened

pytestmark = pytest.mark.timeout(240)
ORDERS = 24
TOLD = 2 * (ORDERS // 11)
"""How many events the runs send themselves."""


def test_s2_of_two_processes_of_one_name_that_claim_one_epoch_exactly_one_owns(
    kafka: Broker,
) -> None:
    async def main() -> None:
        async with opened(kafka) as x1, opened(kafka, log_names(x1)) as x2:
            for _ in range(10):
                readings = [await recover(x1, 0, 1), await recover(x2, 0, 1)]
                # Both send a claim of the same epoch before either has seen the other's.
                owns = await asyncio.gather(
                    claim(x1, readings[0], Claimant("a", "life"), 1_000),
                    claim(x2, readings[1], Claimant("a", "life"), 1_000),
                )
                assert sorted(owns) == [False, True]

    run(main)


async def write(log: Log, epoch: int, seq: int, *entries: Entry, fold_from: int = 0) -> None:
    decision = Decision(epoch, seq, 1_000 + seq, fold_from, [], list(entries))
    record = NewRecord(codec.encode(decision), headers=headers_of(decision))
    await log.append(JOURNAL, 0, [record])


def taken(number: int) -> Entry:
    return MessageTaken(0, number)


def restated(number: int, taken: int) -> Entry:
    return PartitionRestated(number, [], [], [Counter(0, taken)], [], [], "b", "2", 0, 1)


def folded(state: Partition) -> object:
    return (state.epoch, state.seq, state.fold_from, state.taken, state.round, state.incarnation)


async def followed(log: Log) -> list[int]:
    tail, found = Tail(log, 0), list[int]()
    while decisions := await tail.read(0):
        found += [decision.seq for decision in decisions]
    return found


def test_s5_nothing_that_a_zombie_appends_changes_what_a_reader_folds(kafka: Broker) -> None:
    async def main() -> None:
        async with opened(kafka) as zombie, opened(kafka, log_names(zombie)) as owner:
            assert await claim(zombie, await recover(zombie, 0, 1), Claimant("a", "1"), 1_000)
            await write(zombie, 1, 1, taken(1))
            assert await claim(owner, await recover(owner, 0, 1), Claimant("b", "2"), 1_000)
            await write(owner, 2, 2, taken(2))
            before, seen = await recover(owner, 0, 1), await followed(owner)
            # It wakes: what it had decided, a round of its own, and a claim for its next epoch.
            await write(zombie, 1, 2, taken(77))
            await write(zombie, 1, 3, restated(1, 77))
            await write(zombie, 1, 4, taken(78))
            stale = Reading(Partition(0, 1))
            stale.state.epoch = 1
            assert not await claim(zombie, stale, Claimant("a", "1"), 1_000)
            after = await recover(owner, 0, 1)
            assert folded(after.state) == folded(before.state)
            assert after.void == before.void + 4
            assert await followed(owner) == seen
            await write(owner, 2, 3, taken(3))
            assert (await recover(owner, 0, 1)).state.seq == 3

    run(main)


def test_s13_one_id_that_clients_send_to_different_partitions_starts_one_run(
    kafka: Broker, tmp_path: Path
) -> None:
    """A Java client's partitioner, librdkafka's own, and the customer as the key."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            topic, landed = c.names.of(EVENTS), defaultdict[int, set[int]](set)
            await c.start()
            await asyncio.to_thread(publish_three_times, kafka.servers, topic, landed)
            assert any(len(places) > 1 for places in landed.values()), "copies lie apart"
            java = [n for n in landed if partition_of(f"order-{n}", PARTITIONS) in landed[n]]
            assert len(java) == ORDERS
            await c.until(c.ended(ORDERS))
            assert await read_by(c.log) == 3 * ORDERS + TOLD, "all copies were read"
            # A copy that was read late would start its run late: only now it is certain.
            await c.until(c.ended(ORDERS))
            c.check(range(1, ORDERS + 1))

    run_long(main)


async def read_by(log: Log) -> int:
    """Wait until partition 0 has noted that all events were read; return how many there are."""
    ends = [(await log.bounds(EVENTS, number)).end for number in range(PARTITIONS)]
    while True:
        positions = (await recover(log, 0, PARTITIONS)).state.positions
        if [positions.get((EVENTS, n), (0, 0))[0] for n in range(PARTITIONS)] == ends:
            return sum(ends)
        await asyncio.sleep(0.2)


def publish_three_times(servers: str, topic: str, landed: dict[int, set[int]]) -> None:
    common = {"bootstrap.servers": servers, "enable.idempotence": True}
    java = Producer({**common, "partitioner": "murmur2_random"})
    plain = Producer({**common, "partitioner": "consistent_random"})

    def note(n: int) -> Callable[[KafkaError | None, Message], None]:
        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            partition = message.partition()
            assert partition is not None
            landed[n].add(partition)

        return delivered

    for n in range(1, ORDERS + 1):
        event = Event("k/order", json.dumps({"n": n}).encode(), f"order-{n}")
        record, said = event_record(event), note(n)
        headers: list[tuple[str, str | bytes | None]] = list(record.headers)
        text = json.dumps({"name": "k/order", "data": {"n": n}, "id": event.id})
        java.produce(topic, record.value, event.id, headers=headers, on_delivery=said)
        plain.produce(topic, text, event.id, on_delivery=said)
        java.produce(topic, text, f"customer-{n % 5}", on_delivery=said)
    for producer in (java, plain):
        assert producer.flush(30) == 0


def test_s27_a_reader_that_begins_right_after_a_trim_ignores_a_zombie(kafka: Broker) -> None:
    async def main() -> None:
        async with opened(kafka) as zombie, opened(kafka, log_names(zombie)) as owner:
            assert await claim(zombie, await recover(zombie, 0, 1), Claimant("a", "1"), 1_000)
            await write(zombie, 1, 1, taken(1))
            assert await claim(owner, await recover(owner, 0, 1), Claimant("b", "2"), 1_000)
            start = (await owner.bounds(JOURNAL, 0)).end
            await write(owner, 2, 2, restated(1, 1))
            # Directly behind the start of the round, and as the last record: a zombie's.
            await write(zombie, 1, 2, taken(77))
            await write(owner, 2, 3, RoundFinished(1), fold_from=start)
            await write(owner, 2, 4, taken(2), fold_from=start)
            await write(zombie, 1, 3, taken(78))
            before = await recover(owner, 0, 1)
            await owner.trim(JOURNAL, 0, start)
            async with opened(kafka, log_names(owner)) as reader:
                assert (await reader.bounds(JOURNAL, 0)).start == start
                after = await recover(reader, 0, 1)
                assert folded(after.state) == folded(before.state)
                assert (after.state.epoch, after.state.seq, after.void) == (2, 4, 2)
                assert await followed(reader) == [2, 3, 4]

    run(main)
