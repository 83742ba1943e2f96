"""The ends of partitions: one consumer for all of them, and the last records of each in memory.

Who reads near the end shares what was fetched once, and is woken by it. Who falls behind what is
kept reads elsewhere (``points``) until it is here again; nobody holds anybody up. A tail that
nobody reads any more is forgotten.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from stepfold_engine.kafka.client import (
    KafkaError,
    TopicPartition,
)
from stepfold_engine.kafka.consumers import Consumer, out_of_range, start_consumer, stop_consumer
from stepfold_engine.kafka.points import record_of
from stepfold_engine.log.base import Record

_log = logging.getLogger("stepfold")

RECORDS_MAX = 1_000
BYTES_MAX = 4 << 20
FETCH_BYTES = 1 << 20
FETCH_WAIT_MS = 200
"""How long a broker waits for a record before it says that there is none."""

TURN_MS = 500
IDLE_S = 60.0
AGAIN_S = 0.5


class Tail:
    """The last records of a partition.

    Attributes:
        begin: all records from here up to ``next`` are kept.
        next: what is fetched next.
    """

    def __init__(self, at: int) -> None:
        self.begin = self.next = at
        self.read_at_s = 0.0
        self.readers = 0
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def covers(self, offset: int) -> bool:
        """Say whether everything from an offset on is here, and something is."""
        return self.begin <= offset < self.next

    def from_offset(self, offset: int, bytes_max: int) -> tuple[list[Record], int]:
        """Return records at or after an offset, and where to read on."""
        later: list[Record] = []
        for record in reversed(self._records):
            if record.offset < offset:
                break
            later.append(record)
        taken: list[Record] = []
        size = 0
        while later and size < bytes_max:
            taken.append(later.pop())
            size += len(taken[-1].value)
        return taken, (taken[-1].offset + 1 if later else self.next)

    def take(self, records: Sequence[Record], after: int) -> None:
        """Add records that were fetched, and forget the oldest ones."""
        for record in records:
            self._records.append(record)
            self._bytes += len(record.value)
        while len(self._records) > RECORDS_MAX or self._bytes > BYTES_MAX:
            oldest = self._records.popleft()
            self._bytes -= len(oldest.value)
            self.begin = oldest.offset + 1
        if after > self.next:
            self.next = after
            self.wake()

    def forget_below(self, offset: int) -> None:
        """Forget what was trimmed."""
        while self._records and self._records[0].offset < offset:
            self._bytes -= len(self._records.popleft().value)
        self.begin = max(self.begin, offset)

    def wake(self) -> None:
        """Let those who wait look again."""
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait until something has changed."""
        self.readers += 1
        try:
            await self._news.wait()
        finally:
            self.readers -= 1


class Tails:
    """The tails of all partitions that somebody reads at their ends.

    Args:
        arguments: what the consumer is made with.
    """

    def __init__(self, arguments: Mapping[str, object]) -> None:
        self._arguments = arguments
        self._tails: dict[TopicPartition, Tail] = {}
        self._assigned: set[TopicPartition] = set()
        self._consumer: Consumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    def get(self, where: TopicPartition) -> Tail | None:
        """Return a partition's tail, if it has one."""
        tail = self._tails.get(where)
        if tail is not None:
            tail.read_at_s = asyncio.get_running_loop().time()
        return tail

    def begin(self, where: TopicPartition, at: int) -> Tail:
        """Return a partition's tail; a new one begins at an offset that is its end now."""
        tail = self.get(where)
        if tail is None:
            tail = self._tails[where] = Tail(at)
            loop = asyncio.get_running_loop()
            tail.read_at_s = loop.time()
            if self._task is None:
                self._task = loop.create_task(self._pump())
            if not self._changed.is_set():
                self._changed.set()
                loop.call_soon(self._assign)  # once for all that begin in this turn
        return tail

    def _assign(self) -> None:
        """Let the consumer read what there are tails for; what it had fetched is fetched again."""
        if self._consumer is None or not self._tails or self._closed:
            return  # the pump does it
        self._changed.clear()
        self._assigned = set(self._tails)
        self._consumer.assign(list(self._tails))
        for where, tail in self._tails.items():
            self._consumer.seek(where, tail.next)

    async def _pump(self) -> None:
        """Fetch, for ever."""
        while True:
            try:
                if self._consumer is None:
                    self._consumer = await start_consumer(
                        self._arguments,
                        fetch_max_wait_ms=FETCH_WAIT_MS,
                        max_partition_fetch_bytes=FETCH_BYTES,
                    )
                    self._changed.set()
                if self._changed.is_set() and self._tails:
                    self._assign()
                if not self._tails:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                await self._fetch(self._consumer)
            except (KafkaError, OSError) as error:
                self._lose(out_of_range(error))
                if not out_of_range(error):
                    _log.warning("the ends of the log cannot be read now: %r", error)
                await asyncio.sleep(AGAIN_S)

    async def _fetch(self, consumer: Consumer) -> None:
        fetched = await consumer.getmany(timeout_ms=TURN_MS)
        # Nothing is awaited from here on: what was fetched belongs to the tails of this moment.
        for where, records in fetched.items():
            tail = self._tails.get(where)
            if tail is not None and records:
                found = [record_of(record) for record in records if record.offset >= tail.next]
                tail.take(found, records[-1].offset + 1)
        if fetched:
            return
        for where, tail in list(self._tails.items()):
            if where in self._assigned:
                # What holds no data (marks of transactions) moves the position only.
                tail.take([], await consumer.position(where))
        self._forget_idle()

    def _forget_idle(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for where, tail in list(self._tails.items()):
            if not tail.readers and now_s - tail.read_at_s > IDLE_S:
                del self._tails[where]
                self._changed.set()

    def _lose(self, some: set[TopicPartition]) -> None:
        """Forget tails that cannot be read on, or all; those who wait look for themselves."""
        for where in some or set(self._tails):
            tail = self._tails.pop(where, None)
            if tail is not None:
                tail.wake()
        self._changed.set()

    async def close(self) -> None:
        """Stop fetching, and let those who wait look again."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._consumer is not None:
            await stop_consumer(self._consumer)
        for tail in self._tails.values():
            tail.wake()
