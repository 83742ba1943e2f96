"""A log in memory: for tests, examples and the simulator. Nothing survives the process."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence

from stepfold_engine.errors import AppendRefusedError, RecordTooLargeError
from stepfold_engine.log.base import (
    RECORD_BYTES_MAX,
    TOPICS,
    Batch,
    Bounds,
    NewRecord,
    Record,
)


class _Partition:
    def __init__(self) -> None:
        self.start = 0
        self.records: list[Record] = []
        self.appended = asyncio.Event()

    @property
    def end(self) -> int:
        return self.start + len(self.records)


class MemoryLog:
    """All topics, each with ``partitions`` partitions, in lists (``log.base.Log``)."""

    def __init__(self, partitions: int, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._topics = {t: [_Partition() for _ in range(partitions)] for t in TOPICS}
        self._closed = False

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return len(self._topics[topic])

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port."""
        if self._closed:
            raise AppendRefusedError("the log is closed")
        for record in records:
            if len(record.value) > RECORD_BYTES_MAX:
                size = len(record.value)
                text = f"{topic}/{partition}: a record of {size} bytes, the limit is"
                raise RecordTooLargeError(f"{text} {RECORD_BYTES_MAX}")
        found = self._topics[topic][partition]
        base, at_ms = found.end, self._now_ms()
        if found.records:
            at_ms = max(at_ms, found.records[-1].at_ms)
        for i, r in enumerate(records):
            found.records.append(Record(base + i, at_ms, r.value, r.key, r.headers))
        found.appended.set()
        found.appended = asyncio.Event()
        await asyncio.sleep(0)
        return base

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; see the port."""
        found = self._topics[topic][partition]
        if offset >= found.end and wait_ms:
            appended = found.appended
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await appended.wait()
            except TimeoutError:
                pass
        first = max(offset, found.start)
        taken: list[Record] = []
        size = 0
        for record in found.records[first - found.start :]:
            taken.append(record)
            size += len(record.value)
            if size >= bytes_max:
                break
        after = taken[-1].offset + 1 if taken else first
        return Batch(taken, after, found.start)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        found = self._topics[topic][partition]
        return Bounds(found.start, found.end)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        found = self._topics[topic][partition]
        return found.start + bisect_left(found.records, at_ms, key=lambda r: r.at_ms)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset."""
        found = self._topics[topic][partition]
        cut = min(max(before, found.start), found.end)
        del found.records[: cut - found.start]
        found.start = cut

    async def close(self) -> None:
        """Refuse further appends."""
        self._closed = True
