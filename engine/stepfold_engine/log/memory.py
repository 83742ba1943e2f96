"""A log in memory: for tests, examples and the simulator. Nothing survives the process."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress

from stepfold_engine.errors import AppendRefusedError, LogError
from stepfold_engine.log.base import (
    TOPICS,
    Batch,
    Bounds,
    NewRecord,
    Record,
    check_sizes,
)


class _Partition:
    def __init__(self) -> None:
        self.start = 0
        self.last_ms = 0
        self.records: list[Record] = []
        self.appended = asyncio.Event()

    @property
    def end(self) -> int:
        return self.start + len(self.records)

    def copied(self) -> "_Partition":
        copy = _Partition()
        copy.start, copy.last_ms, copy.records = self.start, self.last_ms, list(self.records)
        return copy


class MemoryLog:
    """All topics, each with ``partitions`` partitions, in lists (``log.base.Log``).

    Args:
        partitions: how many partitions each topic has.
        now_ms: says the time of appends.
        like: a log whose records are taken over: what a process finds that starts again. It may be
            of another event loop.
    """

    def __init__(
        self, partitions: int, now_ms: Callable[[], int], like: "MemoryLog | None" = None
    ) -> None:
        self._now_ms = now_ms
        self._topics = {t: [_Partition() for _ in range(partitions)] for t in TOPICS}
        if like is not None:
            self._topics = {t: [p.copied() for p in found] for t, found in like.topics.items()}
        self._closed = False

    @property
    def topics(self) -> dict[str, list[_Partition]]:
        """What it holds."""
        return self._topics

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return len(self._topics[topic])

    def _known(self, topic: str, partition: int) -> _Partition:
        found = self._topics.get(topic, [])
        if not 0 <= partition < len(found):
            raise LogError(f"there is no partition {partition} of {topic!r}")
        return found[partition]

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port."""
        base = self.put(topic, partition, records)
        await asyncio.sleep(0)
        return base

    def put(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        """Append records at once; return the offset of the first.

        Raises:
            AppendRefusedError: one is too large, or the log is closed.
        """
        if self._closed:
            raise AppendRefusedError("the log is closed")
        try:
            found = self._known(topic, partition)
        except LogError as error:
            raise AppendRefusedError(str(error)) from error
        check_sizes(topic, partition, records)
        base, at_ms = found.end, max(self._now_ms(), found.last_ms)
        found.last_ms = at_ms
        for i, r in enumerate(records):
            found.records.append(Record(base + i, at_ms, r.value, r.key, r.headers))
        found.appended.set()
        found.appended = asyncio.Event()
        return base

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; see the port."""
        found = self._known(topic, partition)
        if offset >= found.end and wait_ms:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    while offset >= found.end:
                        await found.appended.wait()
        first = max(offset, found.start)
        taken: list[Record] = []
        size = 0
        for index in range(first - found.start, len(found.records)):
            taken.append(found.records[index])
            size += len(taken[-1].value)
            if size >= bytes_max:
                break
        after = taken[-1].offset + 1 if taken else first
        return Batch(taken, after, found.start)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        found = self._known(topic, partition)
        return Bounds(found.start, found.end)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        found = self._known(topic, partition)
        return found.start + bisect_left(found.records, at_ms, key=lambda r: r.at_ms)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset."""
        found = self._known(topic, partition)
        cut = min(max(before, found.start), found.end)
        del found.records[: cut - found.start]
        found.start = cut

    async def close(self) -> None:
        """Refuse further appends."""
        self._closed = True
