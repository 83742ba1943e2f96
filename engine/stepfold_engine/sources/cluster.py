"""A namespace on Kafka, as projections read it: it writes nothing, and no group knows of it.

Each partition that is read has a feed, which reads ahead on a loop in a thread of its own. A feed
holds a few megabytes at most, and goes on when they are taken.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stepfold_engine.clock import SystemClock
from stepfold_engine.errors import CorruptLogError, EngineError, LogError
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS, Batch, Record
from stepfold_engine.sources.folder import event_bytes
from stepfold_projections.source import (
    DEAD_LETTERS,
    TOPICS,
    Records,
    SourceError,
    UnreachableError,
)

FEED_BYTES = 4 << 20
"""What a feed reads ahead, about: less if there are many."""

FEEDS_BYTES = 64 << 20
READ_BYTES = 1 << 20
WAIT_MS = 60_000
"""How long one read of a feed waits at the end; an append wakes it at once."""

ANSWER_S = 60.0

_T = TypeVar("_T")
_Place = tuple[str, int]


@dataclass(slots=True)
class _Feed:
    """What was read ahead of a partition.

    Attributes:
        at: where what is ready begins.
        next: where it ends, and is read on.
        ready: what reads returned, in order.
        bytes: of the values that are ready.
        error: why it reads no more.
    """

    at: int
    next: int
    ready: deque[Batch] = field(default_factory=deque[Batch])
    bytes: int = 0
    error: EngineError | None = None
    room: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def add(self, batch: Batch) -> None:
        """Add what a read returned."""
        if batch.next_offset > self.next:
            self.ready.append(batch)
            self.bytes += sum(len(record.value) for record in batch.records)
            self.next = batch.next_offset

    def take(self, records_max: int) -> tuple[list[Record], int]:
        """Take records that are ready, up to where some were trimmed; return the start, too."""
        taken: list[Record] = []
        start = 0
        while self.ready and len(taken) < records_max:
            batch = self.ready[0]
            if batch.start > self.at:
                if taken:
                    break
                start = batch.start
            room = records_max - len(taken)
            taken += batch.records[:room]
            if len(batch.records) > room:
                self.at = taken[-1].offset + 1
                self.ready[0] = Batch(batch.records[room:], batch.next_offset, batch.start)
            else:
                self.at = batch.next_offset
                self.ready.popleft()
        self.bytes -= sum(len(record.value) for record in taken)
        return taken, start


class ClusterSource:
    """The topics of a namespace. One thread at a time may call."""

    def __init__(self, properties: ClientProperties, names: TopicNames) -> None:
        """Connect.

        Raises:
            UnreachableError: no broker can be used, or a topic is not as it must be.
        """
        self.name = f"namespace {names.namespace} on Kafka, events {names.of(EVENTS)}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="stepfold-kafka", daemon=True
        )
        self._thread.start()
        self._changed = threading.Condition()
        self._feeds: dict[_Place, _Feed] = {}
        self._ends: dict[_Place, int] = {}
        self._log: KafkaLog | None = None
        try:
            self._log = self._do(KafkaLog.connect(properties, names, SystemClock().now_ms))
            self._counts = {topic: self._do(self._log.partitions(topic)) for topic in TOPICS}
        except BaseException:
            self.close()
            raise
        self._ahead_bytes = min(FEED_BYTES, FEEDS_BYTES // sum(self._counts.values()))

    def _do(self, asked: Coroutine[Any, Any, _T]) -> _T:
        """Do something on the loop, and wait for it."""
        try:
            return asyncio.run_coroutine_threadsafe(asked, self._loop).result(ANSWER_S)
        except (LogError, TimeoutError) as error:
            raise _told(error) from error

    @property
    def _kafka(self) -> KafkaLog:
        assert self._log is not None
        return self._log

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic had when the source was opened."""
        return self._counts[topic]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return a partition's start and end."""
        bounds = self._do(self._kafka.bounds(topic, partition))
        self._ends[topic, partition] = max(bounds.end, self._ends.get((topic, partition), 0))
        return bounds.start, bounds.end

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> Records:
        """Read records; see the port. What was there when the end was last asked for, is found."""
        place = (topic, partition)
        if place not in self._ends:
            self.bounds(topic, partition)
        feed = self._feeds.get(place)
        if feed is None or feed.at != offset:
            feed = self._begin(place, offset)
        with self._changed:
            taken, start = self._awaited(feed, self._ends[place], records_max)
        if feed.error is not None and not taken:
            self._end(place)
            raise _told(feed.error) from feed.error
        if taken:
            self._loop.call_soon_threadsafe(feed.room.set)
        found = Records(feed.at, start)
        _add(place, found, taken)
        return found

    def _awaited(self, feed: _Feed, end: int, records_max: int) -> tuple[list[Record], int]:
        """Take what is ready; wait for the first record, if one was there."""
        until_s = time.monotonic() + ANSWER_S
        while True:
            taken, start = feed.take(records_max)
            if taken or feed.at >= end or feed.error is not None:
                return taken, start
            if not self._changed.wait(until_s - time.monotonic()):
                raise UnreachableError(f"no broker answers within {ANSWER_S:.0f} s")

    def wait(self, seconds: float) -> bool:
        """Wait until something may have been appended, for some seconds at most."""

        def news() -> bool:
            return any(feed.ready or feed.error for feed in self._feeds.values())

        with self._changed:
            return self._changed.wait_for(news, seconds)

    # Feeds; what follows runs on the loop.

    def _begin(self, place: _Place, offset: int) -> _Feed:
        self._end(place)
        feed = self._feeds[place] = _Feed(offset, offset)
        self._do(self._start(place, feed))
        return feed

    async def _start(self, place: _Place, feed: _Feed) -> None:
        feed.task = asyncio.create_task(self._keep(place, feed))

    def _end(self, place: _Place) -> None:
        feed = self._feeds.pop(place, None)
        if feed is not None and feed.task is not None:
            self._loop.call_soon_threadsafe(feed.task.cancel)

    async def _keep(self, place: _Place, feed: _Feed) -> None:
        """Read ahead until something goes wrong."""
        while feed.error is None:
            feed.room.clear()
            if feed.bytes >= self._ahead_bytes:
                await feed.room.wait()
                continue
            try:
                batch = await self._kafka.read(
                    *place, feed.next, bytes_max=READ_BYTES, wait_ms=WAIT_MS
                )
            except EngineError as error:
                self._take(feed, None, error)
            else:
                self._take(feed, batch, None)

    def _take(self, feed: _Feed, batch: Batch | None, error: EngineError | None) -> None:
        with self._changed:
            if batch is not None:
                feed.add(batch)
            feed.error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Let go of the cluster."""
        with suppress(UnreachableError):
            self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()

    async def _shut(self) -> None:
        tasks = [feed.task for feed in self._feeds.values() if feed.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._log is not None:
            await self._log.close()


def _told(error: BaseException) -> SourceError:
    """Say what went wrong. Only damage is there for good."""
    kind = SourceError if isinstance(error, CorruptLogError) else UnreachableError
    return kind(str(error) or f"no broker answers within {ANSWER_S:.0f} s")


def _add(place: _Place, found: Records, records: Sequence[Record]) -> None:
    """Add records to what was found, column by column."""
    found.offsets = [record.offset for record in records]
    found.times_ms = [record.at_ms for record in records]
    if place[0] == EVENTS:
        found.values = [event_bytes(record, place[1]) for record in records]
    else:
        found.values = [record.value for record in records]
    if place[0] == DEAD_LETTERS:
        found.headers = [record.headers for record in records]
