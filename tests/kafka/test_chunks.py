"""What every partition reads is fetched once for all, as long as they read side by side."""

import asyncio
from collections import Counter

import pytest

from stepfold_engine.kafka import chunks, log
from stepfold_engine.kafka.client import TopicPartition
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.points import Points
from stepfold_engine.log.base import EVENTS, Log, NewRecord, Record
from tests.parts.broker import Broker
from tests.parts.cluster import run
from tests.parts.topics import client_properties, fresh_topics, now_ms

COUNT = 6_000


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count the fetches by the offset that they begin at."""
    counted: Counter[int] = Counter()
    read = Points.read

    async def counting(
        points: Points, where: TopicPartition, first: int, end: int, bytes_max: int
    ) -> tuple[list[Record], int]:
        counted[first] += 1
        return await read(points, where, first, end, bytes_max)

    monkeypatch.setattr(Points, "read", counting)
    monkeypatch.setattr(log, "SHARED_BYTES", 64 << 10)
    return counted


async def opened_with_events(broker: Broker) -> KafkaLog:
    names = await fresh_topics(broker)
    log = await KafkaLog.connect(client_properties(broker), names, now_ms)
    for first in range(0, COUNT, 300):
        records = [NewRecord(b"%06d" % n + b"x" * 100) for n in range(first, first + 300)]
        await log.append(EVENTS, 0, records)
    return log


async def read_all(log: Log, begin: int, bytes_max: int = 1 << 20) -> list[int]:
    found: list[int] = []
    offset = begin
    while (batch := await log.read(EVENTS, 0, offset, bytes_max=bytes_max)).records:
        found += [int(r.value[:6]) for r in batch.records]
        offset = batch.next_offset
        await asyncio.sleep(0)
    return found


def test_readers_side_by_side_share_what_is_fetched(kafka: Broker, fetches: Counter[int]) -> None:
    async def main() -> None:
        log = await opened_with_events(kafka)
        try:
            alone = await read_all(log, 0)
            assert alone == list(range(COUNT))
            once = fetches.total()
            assert once > 3, "all of it came at once, so nothing is shown"
            log._chunks._kept.clear()
            fetches.clear()
            found = await asyncio.gather(*(read_all(log, 10 * n) for n in range(8)))
            assert found == [list(range(10 * n, COUNT)) for n in range(8)]
            # Those that begin at other places are in step from the end of the first chunk on.
            assert fetches.total() <= once + 8
        finally:
            await log.close()

    run(main)


def test_one_that_is_far_behind_reads_everything_although_little_is_kept(
    kafka: Broker, fetches: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "KEPT_BYTES", 1)

    async def main() -> None:
        log = await opened_with_events(kafka)
        try:
            begins = [0, COUNT // 2, COUNT - 1, 1]
            sizes = [1 << 20, 1, 10_000, 350]
            found = await asyncio.gather(*map(read_all, [log] * 4, begins, sizes))
            assert found == [list(range(begin, COUNT)) for begin in begins]
            assert len(log._chunks._kept) == 1
        finally:
            await log.close()

    run(main)


def test_small_chunks_are_not_kept_without_end(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who searches near the end, each time from another offset, leaves little ones behind."""
    monkeypatch.setattr(chunks, "CHUNKS_MAX", 3)

    async def main() -> None:
        log = await opened_with_events(kafka)
        try:
            for begin in range(COUNT - 1, COUNT - 21, -1):
                assert await read_all(log, begin) == list(range(begin, COUNT))
            assert len(log._chunks._kept) == 3
        finally:
            await log.close()

    run(main)
