"""A log that fails on demand, around a real one: what disks and brokers do to appends."""

import asyncio
from collections import deque
from collections.abc import Sequence

from stepfold_engine.errors import AppendUnknownError, LogFullError
from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, Batch, Bounds, Log, NewRecord


class FaultyLog:
    """Passes everything on, but lets appends to the journal fail as ``faults`` say, in order.

    Those to inboxes fail as ``inbox_faults`` say.

    * ``full``: refused, nothing written.
    * ``lost``: reported as unknown, never written.
    * ``landed``: reported as unknown, though written.
    * ``late``: reported as unknown, and written after the next append that succeeds.
    * ``cut``: only the first half is written, and it is reported as unknown.
    * ``ok``: nothing happens.

    While ``disk_full``, appends to events and journal are refused.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.faults: deque[str] = deque()
        self.inbox_faults: deque[str] = deque()
        self.disk_full = False
        self.met: list[str] = []
        self._late: list[tuple[int, Sequence[NewRecord]]] = []

    async def partitions(self, topic: str) -> int:
        return await self.log.partitions(topic)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        if self.disk_full and topic in (EVENTS, JOURNAL):
            await asyncio.sleep(0)
            raise LogFullError("no space left")
        faults = {JOURNAL: self.faults, INBOX: self.inbox_faults}.get(topic)
        fault = faults.popleft() if faults else "ok"
        self.met.append(fault)
        match fault:
            case "full":
                await asyncio.sleep(0)
                raise LogFullError("no space left")
            case "lost":
                raise AppendUnknownError("timed out")
            case "landed":
                await self.log.append(topic, partition, records)
                raise AppendUnknownError("timed out")
            case "cut":
                await self.log.append(topic, partition, records[: len(records) // 2])
                raise AppendUnknownError("timed out")
            case "late":
                self._late.append((partition, records))
                raise AppendUnknownError("timed out")
            case _:
                base = await self.log.append(topic, partition, records)
                if topic == JOURNAL:
                    await self._land_late()
                return base

    async def _land_late(self) -> None:
        late, self._late = self._late, []
        for partition, records in late:
            await self.log.append(JOURNAL, partition, records)

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        return await self.log.read(topic, partition, offset, bytes_max=bytes_max, wait_ms=wait_ms)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self.log.bounds(topic, partition)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        return await self.log.offset_at(topic, partition, at_ms)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        await self.log.trim(topic, partition, before)

    async def close(self) -> None:
        await self.log.close()


class SlowLog(FaultyLog):
    """Lets reads of journals wait while ``reads`` is not set, and appends while ``appends``."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.reads, self.appends = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.appends.set()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        if topic == JOURNAL:
            await self.appends.wait()
        return await super().append(topic, partition, records)

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        if topic == JOURNAL:
            await self.reads.wait()
        return await super().read(topic, partition, offset, bytes_max=bytes_max, wait_ms=wait_ms)
