"""A log on a real broker for an engine in virtual time: ``KafkaLog`` on a loop of its own.

The broker and its clients live in real time, in a thread. While the engine waits for them, virtual
time stands still, as it does for any thread; so everything is written to the broker and read from
it, and a sleep of thirty days still takes microseconds. Only a read at a partition's end waits here
and not there, for virtual time: it is woken by the appends of the same test.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from stepfold.virtual import VirtualLoop
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import properties_of
from stepfold_engine.log.base import Batch, Bounds, NewRecord
from tests.parts.broker import Broker
from tests.parts.topics import fresh_topics, remove_topics

_T = TypeVar("_T")

VIRTUAL_TIMES = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.after.max.ms": str(2**63 - 1),
    "retention.ms": "-1",
}
"""What differs from topics as they are made for users: the time of a record is the virtual one."""

ARRIVES_MS = 20_000
"""How long a record that was acknowledged may take until it is read."""


class AfarLog:
    """``log.base.Log`` for a virtual loop. Make it with ``connect``, outside of that loop."""

    def __init__(self, home: VirtualLoop) -> None:
        self._home = home
        self._away = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._away.run_forever, daemon=True)
        self._thread.start()
        self._starts: dict[tuple[str, int], int] = defaultdict(int)
        self._ends: dict[tuple[str, int], int] = defaultdict(int)
        self._news = asyncio.Event()
        self._under_way, self._ended = 0, asyncio.Event()
        self._connect: Callable[[], Coroutine[Any, Any, KafkaLog]]
        self._remove: Callable[[], Coroutine[Any, Any, None]]
        self._log: KafkaLog

    @classmethod
    def connect(cls, home: VirtualLoop, servers: str, partitions: int) -> Self:
        """Make topics of their own for a test, and connect to them."""
        log = cls(home)
        broker = Broker(servers)
        names = log._real(fresh_topics(broker, partitions, VIRTUAL_TIMES))
        log._remove = lambda: remove_topics(broker, names)
        properties = properties_of({"bootstrap.servers": servers}, {})
        log._connect = lambda: KafkaLog.connect(properties, names, home.now_ms)
        log._log = log._real(log._connect())
        return log

    async def reconnect(self) -> None:
        """Let go of the broker and connect again, as a process does that starts again."""
        await self._all_ended()
        await self._there(self._log.close())
        self._log = await self._there(self._connect())

    def _real(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._away).result(60)

    async def _there(
        self, work: Coroutine[Any, Any, _T], landed: Callable[[_T], None] = lambda _: None
    ) -> _T:
        """Do this in real time. It goes on if the caller is cancelled, as what was sent does."""
        done: asyncio.Future[_T] = self._home.create_future()

        def ended(future: "Future[_T]") -> None:
            self._home.call_soon_threadsafe(hand_over, future)

        def hand_over(future: "Future[_T]") -> None:
            self._home.thread_ended()
            self._under_way -= 1
            self._ended.set()
            error = future.exception()
            if error is None:
                landed(future.result())
            if done.done():
                return
            if error is None:
                done.set_result(future.result())
            else:
                done.set_exception(error)

        self._home.thread_began()
        self._under_way += 1
        asyncio.run_coroutine_threadsafe(work, self._away).add_done_callback(ended)
        return await done

    async def _all_ended(self) -> None:
        while self._under_way:
            self._ended.clear()
            await self._ended.wait()

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return await self._log.partitions(topic)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port."""

        async def append() -> tuple[int | None, int]:
            base = await self._log.append(topic, partition, records)
            if base is None:
                return None, (await self._log.bounds(topic, partition)).end
            return base, base + len(records)

        def landed(found: tuple[int | None, int]) -> None:
            self._grow(topic, partition, found[1])

        return (await self._there(append(), landed))[0]

    def _grow(self, topic: str, partition: int, end: int) -> None:
        if end > self._ends[topic, partition]:
            self._ends[topic, partition] = end
            self._news.set()
            self._news = asyncio.Event()

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; see the port."""
        if wait_ms:
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    while offset >= self._ends[topic, partition]:
                        await self._news.wait()
            except TimeoutError:
                return Batch([], offset, self._starts[topic, partition])
        real_ms = ARRIVES_MS if wait_ms else 0
        batch = await self._there(
            self._log.read(topic, partition, offset, bytes_max=bytes_max, wait_ms=real_ms)
        )
        self._starts[topic, partition] = batch.start
        return batch

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        return await self._there(self._log.bounds(topic, partition))

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        return await self._there(self._log.offset_at(topic, partition, at_ms))

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset."""
        await self._there(self._log.trim(topic, partition, before))

    async def close(self) -> None:
        """Finish what is under way, and let go of broker and thread."""
        await self._all_ended()
        await self._there(self._log.close())
        await self._there(self._remove())
        await self._there(_end_others())
        self._away.call_soon_threadsafe(self._away.stop)
        self._thread.join(10)
        self._away.close()


async def _end_others() -> None:
    """End what clients have left behind in this loop, as ``asyncio.run`` does."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
