"""A copy of a log has its records, offsets and holes, or is not there."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from stepfold_engine.errors import LogError
from stepfold_engine.log.base import (
    EVENTS,
    JOURNAL,
    TOPICS,
    Batch,
    Bounds,
    Log,
    NewRecord,
    Record,
)
from stepfold_engine.log.copying import copy_log
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.sources import FolderSource


def now_ms() -> int:
    return 1_000


class Holed(MemoryLog):
    """A log of which every third offset is a hole, the last one of each partition among them."""

    async def bounds(self, topic: str, partition: int) -> Bounds:
        inner = await super().bounds(topic, partition)
        return Bounds(_out(inner.start), _out(inner.end))

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        start = (await self.bounds(topic, partition)).start
        inner = await super().read(topic, partition, -(-offset * 2 // 3), bytes_max=1)
        records = [Record(_out(r.offset), r.at_ms, r.value, r.key) for r in inner.records]
        end = (await self.bounds(topic, partition)).end
        return Batch(records, records[-1].offset + 1 if records else max(offset, end), start)


def _out(offset: int) -> int:
    return offset + offset // 2


async def filled(log: MemoryLog) -> None:
    for topic in TOPICS:
        for number in range(await log.partitions(topic)):
            for i in range(10 + number):
                await log.append(topic, number, [NewRecord(b"%d" % i, b"k")])


async def everything(log: Log, topic: str, number: int) -> list[Record]:
    bounds = await log.bounds(topic, number)
    found: list[Record] = []
    offset = bounds.start
    while offset < bounds.end:
        batch = await log.read(topic, number, offset)
        found += batch.records
        assert batch.next_offset > offset
        offset = batch.next_offset
    return found


def silent(*_: object) -> None:
    pass


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("kind", [MemoryLog, Holed])
def test_a_copy_has_the_same_records_offsets_and_holes(
    tmp_path: Path, kind: type[MemoryLog]
) -> None:
    async def main() -> None:
        log = kind(3, now_ms)
        log.topics[EVENTS].extend(MemoryLog(2, now_ms).topics[EVENTS])
        await filled(log)
        await log.trim(JOURNAL, 1, 4)
        await copy_log(log, tmp_path, silent)
        copy = EmbeddedLog.open(tmp_path, None, now_ms)
        source = FolderSource(tmp_path)
        for topic in TOPICS:
            assert await copy.partitions(topic) == await log.partitions(topic)
            for number in range(await log.partitions(topic)):
                bounds = await log.bounds(topic, number)
                assert await copy.bounds(topic, number) == bounds
                records = await everything(log, topic, number)
                assert await everything(copy, topic, number) == records
                assert source.partitions(topic) == await log.partitions(topic)
                assert source.bounds(topic, number) == (bounds.start, bounds.end)
                offset, seen = bounds.start, list[int]()
                while offset < bounds.end:
                    found = source.read(topic, number, offset, 4)
                    seen += found.offsets
                    assert found.next_offset > offset
                    offset = found.next_offset
                assert seen == [record.offset for record in records]
                assert await copy.append(topic, number, [NewRecord(b"new")]) == bounds.end
        source.close()
        await copy.close()

    run(main())


def test_a_trim_while_it_is_copied_leaves_no_gap(tmp_path: Path) -> None:
    class Trimming(MemoryLog):
        reads = 0

        async def read(
            self,
            topic: str,
            partition: int,
            offset: int,
            *,
            bytes_max: int = 1 << 20,
            wait_ms: int = 0,
        ) -> Batch:
            self.reads += 1
            if self.reads == 3:
                await self.trim(JOURNAL, 0, 5)
            return await super().read(topic, partition, offset, bytes_max=1)

    async def main() -> None:
        log = Trimming(1, now_ms)
        await filled(log)
        done = await copy_log(log, tmp_path, silent)
        assert (done[JOURNAL][0].bounds, done[JOURNAL][0].missing) == (Bounds(5, 10), 0)
        copy = EmbeddedLog.open(tmp_path, None, now_ms)
        assert [r.offset for r in await everything(copy, JOURNAL, 0)] == [5, 6, 7, 8, 9]
        await copy.close()

    run(main())


def test_a_copy_that_fails_leaves_no_log_and_can_be_made_again(tmp_path: Path) -> None:
    class Failing(MemoryLog):
        fails = True

        async def read(
            self,
            topic: str,
            partition: int,
            offset: int,
            *,
            bytes_max: int = 1 << 20,
            wait_ms: int = 0,
        ) -> Batch:
            if self.fails and topic == EVENTS:
                raise LogError("no broker answers")
            return await super().read(topic, partition, offset, bytes_max=bytes_max)

    async def main() -> None:
        log = Failing(2, now_ms)
        await filled(log)
        with pytest.raises(LogError, match="no broker answers"):
            await copy_log(log, tmp_path, silent)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        log.fails = False
        await copy_log(log, tmp_path, silent)
        assert not list(tmp_path.glob("*copying*"))
        with pytest.raises(LogError, match="holds a log already"):
            await copy_log(log, tmp_path, silent)

    run(main())


def test_a_record_that_is_missing_is_no_hole(tmp_path: Path) -> None:
    async def main() -> None:
        log = Holed(1, now_ms)
        await filled(log)
        await copy_log(log, tmp_path, silent)
        copy = EmbeddedLog.open(tmp_path, None, now_ms)
        copy._db.execute('DELETE FROM "journal/0" WHERE offset = 3')
        with pytest.raises(LogError, match="offset 3"):
            await everything(copy, JOURNAL, 0)
        await copy.close()

    run(main())
