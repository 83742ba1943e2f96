"""Chunks: what was read lately of topics that every partition of a process reads.

Behind a great many events all of them come to the same place, one soon after the other.
"""

import asyncio
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from dataclasses import dataclass

from stepfold_engine.kafka.client import TopicPartition
from stepfold_engine.kafka.points import Points
from stepfold_engine.log.base import Record

KEPT_BYTES = 24 << 20
CHUNKS_MAX = 256
"""How many are looked through to find one; small ones, and those that hold no data, count, too."""

RECORD_BYTES = 500
"""What a record takes beside its value, roughly."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Records from ``first`` up to ``after``; offsets between that are missing hold no data."""

    first: int
    after: int
    records: list[Record]
    size: int


class Chunks:
    """Reads records at offsets, as ``Points`` does, and keeps them for others.

    Args:
        points: where they are read.
    """

    def __init__(self, points: Points) -> None:
        self._points = points
        self._kept: OrderedDict[tuple[TopicPartition, int], _Chunk] = OrderedDict()
        self._size = 0
        self._reading: dict[TopicPartition, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(
        self, where: TopicPartition, first: int, end: int, bytes_max: int
    ) -> tuple[list[Record], int]:
        """Return records at or after an offset below ``end``, and where to read on; see ``Points``.

        Raises:
            KafkaError: the offset is out of range, among other things.
            CorruptLogError: the first record is damaged.
            LogError: no broker answers.
        """
        async with self._reading[where]:
            chunk = self._find(where, first)
            if chunk is None:
                records, after = await self._points.read(where, first, end, bytes_max)
                chunk = self._keep(where, first, after, records)
        return _part(chunk, first, bytes_max)

    def _find(self, where: TopicPartition, offset: int) -> _Chunk | None:
        for key, chunk in self._kept.items():
            if key[0] == where and chunk.first <= offset < chunk.after:
                self._kept.move_to_end(key)
                return chunk
        return None

    def _keep(self, where: TopicPartition, first: int, after: int, records: list[Record]) -> _Chunk:
        size = sum(len(r.value) + RECORD_BYTES for r in records)
        size = max(size, KEPT_BYTES // CHUNKS_MAX)
        chunk = _Chunk(first, after, records, size)
        self._forget(where, first)
        self._kept[where, first] = chunk
        self._size += size
        while self._size > KEPT_BYTES and len(self._kept) > 1:
            self._forget(*next(iter(self._kept)))
        return chunk

    def _forget(self, where: TopicPartition, first: int) -> None:
        chunk = self._kept.pop((where, first), None)
        self._size -= chunk.size if chunk is not None else 0

    async def close(self) -> None:
        """Close what it reads with. Nothing may be under way."""
        self._kept.clear()
        await self._points.close()


def _part(chunk: _Chunk, first: int, bytes_max: int) -> tuple[list[Record], int]:
    """Return a chunk's records from an offset on, as many as fit, at least one."""
    begin = bisect_left(chunk.records, first, key=lambda r: r.offset)
    size = 0
    for number in range(begin, len(chunk.records)):
        size += len(chunk.records[number].value)
        if size >= bytes_max and number + 1 < len(chunk.records):
            return chunk.records[begin : number + 1], chunk.records[number + 1].offset
    return chunk.records[begin:], chunk.after
