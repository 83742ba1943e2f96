"""Reads at any place: a few consumers, each of which goes on where it stopped if it can.

Only offsets that are known to be readable are read here, so nothing has to wait for an append.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.kafka.client import (
    KafkaError,
    TopicPartition,
    is_corrupt,
)
from stepfold_engine.kafka.consumers import Consumer, Fetched, start_consumer, stop_consumer
from stepfold_engine.log.base import Record

POINTS_MAX = 4
FETCH_BYTES = 1 << 20
FETCH_WAIT_MS = 5
READ_S = 30.0
_TURN_MS = 200


@dataclass(slots=True)
class _Point:
    """A consumer, and where it stands.

    Attributes:
        ready: records that were fetched and not asked for.
    """

    consumer: Consumer
    where: TopicPartition | None = None
    next: int = -1
    ready: deque[Record] = field(default_factory=deque[Record])


class Points:
    """Reads records at offsets.

    Args:
        arguments: what consumers are made with.
        fetch_bytes: how much is fetched at once.
    """

    def __init__(self, arguments: Mapping[str, object], fetch_bytes: int = FETCH_BYTES) -> None:
        self._arguments, self._fetch_bytes = arguments, fetch_bytes
        self._idle: list[_Point] = []
        self._free = asyncio.Semaphore(POINTS_MAX)

    async def read(
        self, where: TopicPartition, first: int, end: int, bytes_max: int
    ) -> tuple[list[Record], int]:
        """Return records at or after an offset below ``end``, and where to read on.

        There may be none before a later offset, if what lies between holds no data.

        Raises:
            KafkaError: the offset is out of range, among other things.
            CorruptLogError: the first record is damaged.
            LogError: no broker answers.
        """
        async with self._free:
            point = await self._pick(where, first)
            try:
                async with asyncio.timeout(READ_S):
                    found = await _read(point, where, first, end, bytes_max)
            except BaseException as error:
                point.where = None
                self._idle.append(point)
                if isinstance(error, TimeoutError):
                    text = f"no broker answers a read at offset {first} within {READ_S:.0f} s"
                    raise LogError(f"{where.topic}/{where.partition}: {text}") from error
                if is_corrupt(error):
                    text = "its checksum is wrong"
                    raise CorruptLogError(where.topic, where.partition, first, text) from error
                raise
            self._idle.append(point)
            return found

    async def _pick(self, where: TopicPartition, first: int) -> _Point:
        """Take the consumer that stands nearest to what is to be read, or a new one."""
        near = sorted(
            range(len(self._idle)),
            key=lambda i: (self._idle[i].where == where, self._idle[i].next == first),
        )
        if near and (self._idle[near[-1]].where == where or len(near) >= POINTS_MAX):
            return self._idle.pop(near[-1])
        try:
            consumer = await start_consumer(
                self._arguments,
                fetch_max_wait_ms=FETCH_WAIT_MS,
                max_partition_fetch_bytes=self._fetch_bytes,
            )
        except (KafkaError, OSError) as error:
            if near:
                return self._idle.pop(near[-1])
            text = f"{where.topic}/{where.partition}: no broker answers"
            raise LogError(f"{text} ({error})") from error
        return _Point(consumer)

    async def close(self) -> None:
        """Close all consumers. Nothing may be under way."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(stop_consumer(point.consumer) for point in idle))


async def _read(
    point: _Point, where: TopicPartition, first: int, end: int, bytes_max: int
) -> tuple[list[Record], int]:
    consumer = point.consumer
    if point.where != where:
        consumer.assign([where])
        point.where, point.next = where, -1
    if point.next != first:
        point.ready.clear()
        consumer.seek(where, first)
    after = first
    if not point.ready:
        consumer.resume(where)
        while not point.ready and after < end:
            fetched = await consumer.getmany(where, timeout_ms=_TURN_MS)
            point.ready.extend(record_of(f) for f in fetched.get(where, ()))
            after = await consumer.position(where)
        if after >= end:
            # Else it would fetch for ever at the end, although nobody waits there.
            consumer.pause(where)
    taken: list[Record] = []
    size = 0
    while point.ready and size < bytes_max:
        taken.append(point.ready.popleft())
        size += len(taken[-1].value)
    point.next = point.ready[0].offset if point.ready else await consumer.position(where)
    return taken, point.next


def record_of(fetched: Fetched) -> Record:
    """Return a record as the log gives it. A missing value is an empty one."""
    headers = tuple((name, value or b"") for name, value in fetched.headers)
    value, key = fetched.value or b"", fetched.key or b""
    return Record(fetched.offset, fetched.timestamp, value, key, headers)
