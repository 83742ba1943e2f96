"""Answers to the requests of this process.

An answer is an entry of the journal of the partition that was asked. For a partition that this
process owns it arrives when its decision is confirmed. The journal of another process's partition
is read from its last round on, and its answers are remembered for as long as its owner does, so
that the same request may be asked again.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from stepfold_engine.core.fold import Cursor, follow
from stepfold_engine.core.partition import REMEMBERED_MS
from stepfold_engine.log.base import JOURNAL, Log
from stepfold_engine.ownership import decision_in, last_decision
from stepfold_schemas.entries import Decision, RequestAnswered

LOOK_MS = 1_000
"""How often somebody who waits looks whether the partition has moved to another process."""


class Tail:
    """Reads the decisions of a journal that count, from its last round on."""

    def __init__(self, log: Log, number: int) -> None:
        self._log, self._number = log, number
        self._cursor: Cursor | None = None
        self._next = 0

    async def read(self, wait_ms: int) -> list[Decision]:
        """Return the next decisions; wait for the first if there is none yet.

        Raises:
            CorruptLogError: a record is damaged.
            LogError: the log cannot be read now.
        """
        cursor = self._cursor or await self._begin()
        batch = await self._log.read(JOURNAL, self._number, self._next, wait_ms=wait_ms)
        if batch.start > self._next:
            # What lay between is restated in the round at which the journal begins now.
            self._cursor = None
            return []
        number = self._number
        decisions = [decision_in(number, record.offset, record.value) for record in batch.records]
        self._next = batch.next_offset
        return [decision for decision in decisions if follow(cursor, decision)]

    async def _begin(self) -> Cursor:
        bounds = await self._log.bounds(JOURNAL, self._number)
        cursor, self._next = Cursor(), bounds.start
        if bounds.end > bounds.start:
            last = await last_decision(self._log, self._number, bounds.end)
            self._next = max(bounds.start, last.fold_from)
        if self._next > 0:
            batch = await self._log.read(JOURNAL, self._number, self._next, bytes_max=1)
            for record in batch.records[:1]:
                first = decision_in(self._number, record.offset, record.value)
                self._next = record.offset
                cursor = Cursor(first.epoch, first.seq - 1)
        self._cursor = cursor
        return cursor


class Answers:
    """Who waits for which answer, and what other processes answered."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: dict[bytes, asyncio.Future[RequestAnswered]] = {}
        self._tails: dict[int, tuple[asyncio.Lock, Tail]] = {}
        self._heard: dict[bytes, RequestAnswered] = {}

    @contextmanager
    def expected(self, request: bytes) -> Generator[asyncio.Future[RequestAnswered]]:
        """Give a future of the answer while the block runs."""
        future = self._waiting.get(request)
        if future is None:
            future = self._waiting[request] = asyncio.get_running_loop().create_future()
        try:
            yield future
        finally:
            self._waiting.pop(request, None)

    def arrived(self, answer: RequestAnswered) -> None:
        """Take an answer that is confirmed."""
        waiting = self._waiting.get(answer.request)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    async def wait(
        self,
        partition: int,
        waiting: asyncio.Future[RequestAnswered],
        owned: Callable[[int], bool],
    ) -> RequestAnswered:
        """Wait for an answer of a partition, which may move between processes meanwhile.

        Raises:
            LogError: the journal cannot be read.
        """
        while not waiting.done():
            if owned(partition):
                await asyncio.wait({waiting}, timeout=LOOK_MS / 1000)
            else:
                await self._hear(partition, LOOK_MS)
        return waiting.result()

    async def heard(self, partition: int, request: bytes) -> RequestAnswered | None:
        """Return what another process's partition answered to a request before, if anything.

        Raises:
            LogError: the journal cannot be read.
        """
        while await self._hear(partition, 0):
            pass
        return self._heard.get(request)

    async def _hear(self, partition: int, wait_ms: int) -> bool:
        """Read a partition's journal on; say whether there was anything."""
        lock, tail = self._tails.setdefault(partition, (asyncio.Lock(), Tail(self._log, partition)))
        async with lock:
            decisions = await tail.read(wait_ms)
        for decision in decisions:
            for entry in decision.entries:
                if isinstance(entry, RequestAnswered):
                    self._heard[entry.request] = entry
                    self._forget(entry.at_ms - REMEMBERED_MS)
                    self.arrived(entry)
        return bool(decisions)

    def _forget(self, before_ms: int) -> None:
        while (oldest := next(iter(self._heard))) and self._heard[oldest].at_ms < before_ms:
            del self._heard[oldest]
