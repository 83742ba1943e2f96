"""Keeping the index: decisions seen, written by a thread; what nobody saw, read from the journals.

Rules:

* Seeing a decision costs the engine's loop one append to a list.
* A partition whose index lacks decisions is caught up with from its journal, a batch at a time.
* Any failure of the file only means to catch up again; a damaged file is made anew.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from stepfold_engine.errors import LogError
from stepfold_engine.history.catchup import Follower
from stepfold_engine.history.store import GapError, Store
from stepfold_engine.log.base import JOURNAL
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Decision
from stepfold_schemas.ids import run_id

_log = logging.getLogger("stepfold")
_T = TypeVar("_T")

WRITE_EVERY_S = 0.2
RETRY_S = 2.0
PRUNE_EVERY_S = 3_600.0
LAG_MAX = 2_000
"""Decisions that may be missing when new ones begin to be kept in memory."""


class Keeper:
    """Keeps the file (``effects.Watcher``)."""

    def __init__(self, node: Node, path: Path) -> None:
        self._node, self._path = node, path
        self._new: list[tuple[int, Decision]] = []
        self._live: set[int] = set()
        self._catching_up = False
        self._thread = ThreadPoolExecutor(1, "stepfold-history")
        self._store: Store | None = None
        self._pruned_s = time.monotonic()
        self.generation = 0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the file while the block runs. The node must be running already."""
        try:
            await self._in_thread(lambda _: None)
        except sqlite3.Error as error:
            await self.fall_back(error)
        self._node.watchers.append(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep())
                try:
                    yield
                finally:
                    keeping.cancel()
            await self.flush()
        finally:
            self._node.watchers.remove(self)
            self._thread.submit(self._close)
            self._thread.shutdown()

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a decision (``effects.Watcher``)."""
        if owner.state.number in self._live:
            self._new.append((owner.state.number, decision))

    @property
    def complete(self) -> bool:
        """Say whether everything confirmed was taken in, or is about to be."""
        return not self._catching_up and self._live >= self._node.owners.keys()

    async def flush(self) -> None:
        """Write what was confirmed so far. If it cannot be written, it is caught up with later."""
        if self._catching_up or not self._new:
            return
        new, self._new = self._new, []
        try:
            await self._in_thread(lambda store: store.write(new))
        except Exception as error:  # noqa: BLE001 - nothing in the file may end the engine
            await self.fall_back(error)

    async def _keep(self) -> None:
        while True:
            try:
                for owner in list(self._node.owners.values()):
                    if owner.state.number not in self._live:
                        await self._catch_up_with(owner)
                await self._prune()
            except (LogError, UndecodableError) as error:
                _log.warning("the index of runs is behind: %s", error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # noqa: BLE001 - nothing in the file may end the engine
                await self.fall_back(error)
                await asyncio.sleep(RETRY_S)
            await self.flush()
            await asyncio.sleep(WRITE_EVERY_S)

    async def fall_back(self, error: Exception) -> None:
        """Catch up again with everything; make the file anew if it is damaged."""
        self._live.clear()
        self._new.clear()
        if isinstance(error, GapError):
            return
        _log.warning("the index of runs %s could not be written: %s", self._path, error)
        if isinstance(error, sqlite3.OperationalError):
            return
        _log.warning("the index of runs is made anew from the journals")
        with contextlib.suppress(sqlite3.Error, OSError):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._remove)

    # Catching up.

    async def _catch_up_with(self, owner: Owner) -> None:
        self._catching_up = True
        try:
            await self._catch_up(owner)
        except LookupError:
            # It is not the journal that the file was made of, or too much of it was trimmed.
            number = owner.state.number
            await self._in_thread(lambda store: store.forget(number))
            await self._catch_up(owner)
        except BaseException:
            self._live.discard(owner.state.number)
            raise
        finally:
            self._catching_up = False

    async def _catch_up(self, owner: Owner) -> None:
        number, log = owner.state.number, self._node.log
        place = await self._in_thread(lambda store: store.place(number))
        bounds = await log.bounds(JOURNAL, number)
        offset = bounds.start
        if place is not None:
            offset = owner.state.places.hint(place.seq)
            if place.seq > owner.confirmed_seq or offset < bounds.start:
                raise LookupError(f"journal/{number} does not go back to {place}")
        follower = Follower(number, place, at_start=bounds.start == 0)
        while follower.seq < owner.confirmed_seq - LAG_MAX:
            offset = await self._read(follower, number, offset)
        # From here on decisions are kept as they are confirmed; those before are still read.
        target = owner.confirmed_seq
        self._live.add(number)
        while follower.seq < target:
            offset = await self._read(follower, number, offset)

    async def _read(self, follower: Follower, number: int, offset: int) -> int:
        batch = await self._node.log.read(JOURNAL, number, offset)
        if batch.start > offset or not batch.records:
            raise LookupError(f"journal/{number} has no record at {offset}")

        def take(store: Store) -> None:
            if decisions := follower.take(batch.records):
                store.write([(number, decision) for decision in decisions])

        await self._in_thread(take)
        return batch.next_offset

    async def _prune(self) -> None:
        """Now and then forget runs that ended before the journal is kept for."""
        if time.monotonic() - self._pruned_s < PRUNE_EVERY_S:
            return
        self._pruned_s = time.monotonic()
        oldest_ms = self._node.clock.now_ms() - self._node.settings.journal_keep_ms
        before = run_id(max(oldest_ms, 0), bytes(10))
        await self._in_thread(lambda store: store.prune(before))

    # In the thread.

    async def _in_thread(self, work: Callable[[Store], _T]) -> _T:
        def run() -> _T:
            if self._store is None:
                self._store = Store(self._path)
            return work(self._store)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _remove(self) -> None:
        self._close()
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        self.generation += 1
