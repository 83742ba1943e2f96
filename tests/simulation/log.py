"""The log of a simulation: one store that all processes share, and a client of it for each.

What a client's append may meet is what brokers and disks do: it takes its time; it is refused; it
fails though it was written, or before it was, or is written after its caller gave up; it is cut
between any two records, with other writers' records in between; its offset stays unknown. Appends
of one client to one partition keep their order, except those that it was told have failed.

Reads are of what is durable, but late: every client has a lag of its own for every partition.
"""

import asyncio
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass

from stepfold_engine.errors import AppendUnknownError, LogError, LogFullError
from stepfold_engine.log.base import (
    EVENTS,
    JOURNAL,
    Batch,
    Bounds,
    NewRecord,
    Record,
    check_sizes,
)
from tests.simulation.ledger import Ledger, Trimmed, Written
from tests.simulation.loop import LANE, Lane


class Partition:
    """Records of one partition of one topic."""

    def __init__(self) -> None:
        self.start = 0
        self.last_ms = 0
        self.records: list[Record] = []
        self.appended = asyncio.Event()

    @property
    def end(self) -> int:
        return self.start + len(self.records)


class Store:
    """What is durable. All that ever was is in the ledger."""

    def __init__(self, counts: dict[str, int], now_ms: Callable[[], int], ledger: Ledger) -> None:
        self.now_ms, self.ledger = now_ms, ledger
        self.topics = {t: [Partition() for _ in range(n)] for t, n in counts.items()}
        self.full = False

    def write(self, topic: str, number: int, records: Sequence[NewRecord], by: str) -> int:
        """Make records durable; return the offset of the first."""
        found = self.topics[topic][number]
        base, at_ms = found.end, max(self.now_ms(), found.last_ms)
        found.last_ms = at_ms
        for i, r in enumerate(records):
            found.records.append(Record(base + i, at_ms, r.value, r.key, r.headers))
            order = self.ledger.next_order
            self.ledger.add(
                Written(order, topic, number, base + i, at_ms, r.value, r.key, r.headers, by)
            )
        found.appended.set()
        found.appended = asyncio.Event()
        return base

    def trim(self, topic: str, number: int, before: int) -> None:
        """Remove records below an offset."""
        found = self.topics[topic][number]
        cut = min(max(before, found.start), found.end)
        if cut > found.start:
            del found.records[: cut - found.start]
            found.start = cut
            self.ledger.add(Trimmed(self.ledger.next_order, topic, number, cut))


@dataclass(slots=True)
class Weather:
    """How likely what is, for every operation; all 0 is a log without faults.

    Latencies are in seconds: the typical one, and with chance ``slow`` up to ``slow_s``.
    """

    latency_s: float = 0.002
    slow: float = 0.0
    slow_s: float = 1.0
    lost: float = 0.0
    landed: float = 0.0
    late: float = 0.0
    cut: float = 0.0
    holed: float = 0.0
    split: float = 0.0
    no_offset: float = 0.0
    refused: float = 0.0
    unreadable: float = 0.0

    def calm(self) -> None:
        """End all faults."""
        self.slow = self.lost = self.landed = self.late = self.cut = self.holed = 0.0
        self.split = self.no_offset = self.refused = self.unreadable = 0.0


class Client:
    """One process's connection to the log (``log.base.Log``)."""

    def __init__(
        self,
        store: Store,
        rng: random.Random,
        weather: Weather,
        name: str,
        fault: Callable[[str, str, str], bool],
        network: Lane,
    ) -> None:
        """Connect.

        Args:
            store: what is behind it.
            rng: of this client.
            weather: what may happen; may change at any time.
            name: who writes.
            fault: is told what is about to go wrong, for whom and where; says whether it may.
            network: what is on its way goes on whatever happens to the process.
        """
        self._store, self._rng, self._weather, self._name = store, rng, weather, name
        self._fault = fault
        self.lag_s: dict[tuple[str, int], float] = {}
        self._free_s: dict[tuple[str, int], float] = {}
        self._dead = False
        self._loop = asyncio.get_running_loop()
        self._way = copy_context()
        self._way.run(LANE.set, network)

    @property
    def reachable(self) -> bool:
        return not self._dead

    def _at(self, at_s: float, callback: Callable[..., object], *args: object) -> None:
        self._loop.call_at(at_s, callback, *args, context=self._way)

    def die(self) -> None:
        """The process is killed: what is on its way may get there, or not, or in part."""
        self._dead = True

    async def partitions(self, topic: str) -> int:
        return len(self._store.topics[topic])

    def _known(self, topic: str, partition: int) -> Partition:
        return self._store.topics[topic][partition]

    # Appends.

    def _latency_s(self) -> float:
        weather = self._weather
        if weather.slow and self._rng.random() < weather.slow:
            return self._rng.uniform(0, weather.slow_s)
        return self._rng.expovariate(1 / weather.latency_s)

    def _drawn(self, topic: str) -> str:
        """Draw what an append meets."""
        weather, draw = self._weather, self._rng.random()
        chances = {
            "refused": weather.refused,
            "lost": weather.lost,
            "landed": weather.landed,
            "late": weather.late,
            "cut": weather.cut,
            "holed": weather.holed,
            "split": weather.split,
            "no offset": weather.no_offset,
        }
        for fault, chance in chances.items():
            draw -= chance
            if draw < 0:
                return fault if self._fault(f"{fault} append", self._name, topic) else ""
        return ""

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        check_sizes(topic, partition, records)
        fault = self._drawn(topic)
        if fault == "refused" or (self._store.full and topic in (EVENTS, JOURNAL)):
            await self._later(self._latency_s())
            raise LogFullError(f"{topic}/{partition}: no space left")
        if self._dead:
            raise LogError("the process is dead")
        done: asyncio.Future[int | None] = self._loop.create_future()
        where = (topic, partition)
        lands_s = max(self._loop.time() + self._latency_s(), self._free_s.get(where, 0.0))
        if fault in ("lost", "landed", "late", "cut", "holed"):
            self._fail(lands_s, fault, topic, partition, records, done)
        else:
            # The order of appends is that of their calls.
            self._free_s[where] = lands_s + 1e-6
            self._land(lands_s, fault, topic, partition, records, done)
        return await done

    def _land(
        self,
        at_s: float,
        fault: str,
        topic: str,
        partition: int,
        records: Sequence[NewRecord],
        done: asyncio.Future[int | None],
    ) -> None:
        ack_s = self._latency_s()
        head = records
        tail: Sequence[NewRecord] = []
        if fault == "split" and len(records) > 1:
            cut = self._rng.randrange(1, len(records))
            head, tail = records[:cut], records[cut:]
            self._free_s[topic, partition] = at_s + 0.05
        unlucky, kept = self._rng.random() < 0.5, self._rng.randrange(len(records) + 1)

        def land() -> None:
            if self._dead:
                # It was under way when the process died.
                if not unlucky:
                    self._store.write(topic, partition, records[:kept], self._name)
                return
            base = self._store.write(topic, partition, head, self._name)
            if tail:
                self._at(self._loop.time() + 0.04, land_tail, base)
            else:
                self._at(self._loop.time() + ack_s, ack, base)

        def land_tail(base: int) -> None:
            self._store.write(topic, partition, tail, self._name)
            self._at(self._loop.time() + ack_s, ack, base)

        def ack(base: int) -> None:
            if not done.done():
                done.set_result(None if fault == "no offset" else base)

        self._at(at_s, land)

    def _fail(
        self,
        at_s: float,
        fault: str,
        topic: str,
        partition: int,
        records: Sequence[NewRecord],
        done: asyncio.Future[int | None],
    ) -> None:
        reported_s = at_s + self._latency_s()
        if fault == "landed":
            self._at(at_s, self._store.write, topic, partition, records, self._name)
            self._free_s[topic, partition] = at_s + 1e-6
        elif fault == "cut":
            kept = records[: self._rng.randrange(len(records) + 1)]
            self._at(at_s, self._store.write, topic, partition, kept, self._name)
        elif fault == "holed":
            # Sent in several requests, of which one is refused.
            missing = self._rng.randrange(len(records))
            kept = [*records[:missing], *records[missing + 1 :]]
            self._at(at_s, self._store.write, topic, partition, kept, self._name)
        elif fault == "late":
            late_s = reported_s + self._rng.uniform(0, 8.0)
            kept = records[: self._rng.randrange(1, len(records) + 1)]
            self._at(late_s, self._store.write, topic, partition, kept, self._name)

        def report() -> None:
            if not done.done():
                done.set_exception(AppendUnknownError(f"{topic}/{partition}: timed out"))

        self._at(reported_s, report)

    # Reads.

    async def _later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _reach(self, topic: str, partition: int) -> Partition:
        """Reach the store for a question: it takes time, and may fail."""
        await self._later(self._latency_s() / 2)
        chance = self._weather.unreadable
        if self._dead or (
            chance and self._rng.random() < chance and self._fault("failed read", self._name, topic)
        ):
            raise LogError(f"{topic}/{partition}: the broker cannot be reached")
        return self._known(topic, partition)

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        found = await self._reach(topic, partition)
        if offset >= found.end and wait_ms:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    while offset >= found.end:
                        await found.appended.wait()
        lag_s = self.lag_s.get((topic, partition), 0.0)
        if lag_s and offset < found.end:
            await self._later(lag_s)
        first = max(offset, found.start)
        taken: list[Record] = []
        size = 0
        for index in range(first - found.start, len(found.records)):
            taken.append(found.records[index])
            size += len(taken[-1].value)
            if size >= bytes_max:
                break
        after = taken[-1].offset + 1 if taken else first
        batch = Batch(taken, after, found.start)
        await self._later(self._latency_s() / 2)
        return batch

    async def bounds(self, topic: str, partition: int) -> Bounds:
        found = await self._reach(topic, partition)
        bounds = Bounds(found.start, found.end)
        await self._later(self._latency_s() / 2)
        return bounds

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        found = await self._reach(topic, partition)
        return found.start + bisect_left(found.records, at_ms, key=lambda r: r.at_ms)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        await self._reach(topic, partition)
        self._store.trim(topic, partition, before)

    async def close(self) -> None:
        self._dead = True
