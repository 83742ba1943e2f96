"""Appends: a lane for each partition, where they wait, are put together, and go one at a time.

* One batch of a partition is under way; everything that comes meanwhile is in the next one.
* When a batch fails, or takes too long, it may have been written or may still be. What waits
  behind it was not handed over and is refused, so nothing overtakes.
* What waits is bounded over all lanes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepfold_engine.errors import (
    AppendRefusedError,
    AppendUnknownError,
    LogError,
    RecordTooLargeError,
)
from stepfold_engine.kafka.client import KafkaError, Written, is_too_large
from stepfold_engine.kafka.producers import Live, Producers
from stepfold_engine.log.base import NewRecord

_log = logging.getLogger("stepfold")

GROUP_BYTES = 1 << 20
"""About how much is sent as one batch, if it is several records."""

WAITING_BYTES_MAX = 64 << 20
RECORD_OVERHEAD = 61 + 40
"""The head of a batch, and numbers around a record; an upper bound."""

START_AGAIN_S = 0.2


@dataclass(slots=True)
class _Append:
    records: Sequence[NewRecord]
    size: int
    done: asyncio.Future[int | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A partition to append to.

    Attributes:
        topic: what the engine calls it.
        name: its topic's name in Kafka.
        batch_bytes_max: its topic's ``max.message.bytes``.
    """

    topic: str
    name: str
    partition: int
    batch_bytes_max: int

    def __str__(self) -> str:
        return f"{self.name}/{self.partition}"


def size_of(record: NewRecord) -> int:
    """Return at most how many bytes a record takes as a batch of its own."""
    headers = sum(len(name.encode()) + len(value) + 10 for name, value in record.headers)
    return len(record.value) + len(record.key) + headers + RECORD_OVERHEAD


class Lanes:
    """Appends to all partitions.

    Args:
        producers: what they go through.
        now_ms: the time that records are stamped with; topics may set the broker's instead.
        delivery_s: how long a batch may take.
    """

    def __init__(self, producers: Producers, now_ms: Callable[[], int], delivery_s: float) -> None:
        self._producers, self._now_ms, self._delivery_s = producers, now_ms, delivery_s
        self._waiting: dict[tuple[str, int], deque[_Append]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0

    async def append(self, target: Target, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port.

        Raises:
            AppendRefusedError: nothing was written.
            AppendUnknownError: it may have been written, or may still be.
        """
        size = sum(map(size_of, records))
        for record in records:
            _check(target, record)
        if self._bytes and self._bytes + size > WAITING_BYTES_MAX:
            text = f"{self._bytes >> 20} MiB wait already for the brokers; try again"
            raise AppendRefusedError(f"{target}: {text}")
        item = _Append(records, size, asyncio.get_running_loop().create_future())
        self._bytes += size
        item.done.add_done_callback(lambda _: self._gone(size))
        self._lane(target).append(item)
        return await item.done

    def _gone(self, size: int) -> None:
        self._bytes -= size

    def _lane(self, target: Target) -> deque[_Append]:
        """Return a partition's lane, with a task that serves it."""
        place = (target.name, target.partition)
        lane = self._waiting.get(place)
        if lane is None:
            lane = self._waiting[place] = deque()
            task = asyncio.get_running_loop().create_task(self._serve(target, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return lane

    async def _serve(self, target: Target, lane: deque[_Append]) -> None:
        """Send what waits, until nothing does."""
        await asyncio.sleep(0)  # appends of the same turn go together
        while lane:
            group = _group(target, lane)
            if not group:
                continue
            try:
                base = await self._send(target, [r for item in group for r in item.records])
            except LogError as error:
                _fail(target, group, lane, error)
                continue
            except Exception as error:  # noqa: BLE001 - else all who wait would wait for ever
                _log.exception("%s: an append failed", target)
                _fail(target, group, lane, AppendUnknownError(f"{target}: {error!r}"))
                continue
            for item in group:
                if not item.done.done():
                    item.done.set_result(base)
                base = None if base is None else base + len(item.records)
        self._waiting.pop((target.name, target.partition), None)

    async def _send(self, target: Target, records: Sequence[NewRecord]) -> int | None:
        """Write records, in as few batches as they fit into; return the offset of the first.

        None says that they do not lie together, or that the broker does not know any more.
        """
        deadline_s = asyncio.get_running_loop().time() + self._delivery_s
        live = await self._producer(target, deadline_s)
        failed, sent, bases = True, 0, list[tuple[int, int]]()
        try:
            while sent < len(records):
                base, count = await self._send_some(live, target, records[sent:], deadline_s)
                bases.append((base, sent))
                sent += count
            failed = False
        except AppendRefusedError as error:
            if sent:  # the batches before this one were written
                raise AppendUnknownError(str(error)) from error
            raise
        finally:
            self._producers.give_back(live, failed=failed)
        first = bases[0][0]
        together = first >= 0 and all(base - before == first for base, before in bases)
        return first if together else None

    async def _producer(self, target: Target, deadline_s: float) -> Live:
        """Return a producer, as soon as one can be started."""
        while True:
            try:
                async with asyncio.timeout_at(deadline_s):
                    return await self._producers.take(target.topic)
            except (KafkaError, OSError, TimeoutError) as error:
                now_s = asyncio.get_running_loop().time()
                if now_s + START_AGAIN_S > deadline_s:
                    text = f"{target}: no broker answers, nothing was written"
                    raise AppendRefusedError(f"{text} ({error!r})") from error
                await asyncio.sleep(START_AGAIN_S)

    async def _send_some(
        self, live: Live, target: Target, records: Sequence[NewRecord], deadline_s: float
    ) -> tuple[int, int]:
        """Write the first of some records; return their base offset, or -1, and how many."""
        batch = live.producer.create_batch()
        count, size, now_ms = 0, 0, self._now_ms()
        limit = min(GROUP_BYTES, target.batch_bytes_max)
        for record in records:
            size += size_of(record)
            if count and size > limit:
                break
            headers = list(record.headers)
            key = record.key or None
            if batch.append(timestamp=now_ms, key=key, value=record.value, headers=headers) is None:
                break
            count += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                future = await live.producer.send_batch(
                    batch, target.name, partition=target.partition
                )
        except (KafkaError, TimeoutError, AssertionError) as error:
            raise AppendRefusedError(f"{target}: nothing was written ({error!r})") from error
        return (await self._written(target, future, deadline_s)).offset, count

    async def _written(
        self, target: Target, future: asyncio.Future[Written], deadline_s: float
    ) -> Written:
        left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait({future}, timeout=left_s)
        if not done:
            future.add_done_callback(_silence)
            text = f"{target}: no broker confirmed an append within {self._delivery_s:.0f} s"
            raise AppendUnknownError(f"{text} (delivery.timeout.ms)")
        error = future.exception()
        if error is None:
            return future.result()
        if is_too_large(error):
            text = f"{target}: the broker takes no batch of this size; raise max.message.bytes"
            raise RecordTooLargeError(f"{text} of the topic") from error
        # Whatever the error: an earlier try of the same batch may have been written.
        raise AppendUnknownError(f"{target}: an append failed ({error!r})") from error

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _check(target: Target, record: NewRecord) -> None:
    size = size_of(record)
    if size > target.batch_bytes_max:
        text = f"a record of {size} bytes; max.message.bytes of the topic is"
        raise RecordTooLargeError(f"{target}: {text} {target.batch_bytes_max}")


def _group(target: Target, lane: deque[_Append]) -> list[_Append]:
    """Take appends that fit into a batch together, or one that may need several."""
    group: list[_Append] = []
    size = 0
    while lane:
        if lane[0].done.done():  # nobody waits for it any more
            lane.popleft()
            continue
        size += lane[0].size
        if group and size > min(GROUP_BYTES, target.batch_bytes_max):
            break
        group.append(lane.popleft())
    return group


def _fail(target: Target, group: list[_Append], lane: deque[_Append], error: LogError) -> None:
    """Tell those whose append failed, and refuse those behind them."""
    for item in group:
        if not item.done.done():
            item.done.set_exception(_copy(error))
    while lane:
        item = lane.popleft()
        if not item.done.done():
            text = f"{target}: nothing was written; an append before this one failed"
            item.done.set_exception(AppendRefusedError(text))


def _copy(error: LogError) -> LogError:
    """Return an error that may be raised in another task: tracebacks are not shared."""
    copied = type(error)(str(error))
    copied.__cause__ = error.__cause__
    return copied


def _silence(future: asyncio.Future[Written]) -> None:
    if not future.cancelled():
        future.exception()
