"""The index of runs, as callers ask it.

Where an unfinished run stands is told by its owner's state, everything else by the file. Every
question first has what was confirmed so far written, so a run can be seen as soon as it exists.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from stepfold.port import Fact
from stepfold_engine.errors import EngineError, RequestRefusedError
from stepfold_engine.facts import facts_of
from stepfold_engine.histories import read_decision
from stepfold_engine.history.keeper import Keeper
from stepfold_engine.history.store import CANCELLED, COMPLETED, FAILED, RUNNING, Row, Store
from stepfold_engine.history.views import (
    LIVE_STATUSES,
    Outcome,
    RunFilter,
    RunView,
    ended_view,
    live_view,
)
from stepfold_engine.node import Node
from stepfold_schemas.entries import RunCancelled, RunCompleted, RunFailed
from stepfold_schemas.ids import ULID_CHARS, home_of, key_of, parse_ulid, run_id, ulid_text

_T = TypeVar("_T")

SCAN_ROWS = 500
RUNS_OF_AN_EVENT_MAX = 1_000
SHORT_ID_CHARS = 8
"""The end of a run's id that people are shown: five whole bytes."""


class History:
    """Answers questions about runs, finished ones included. Use ``running()``."""

    def __init__(self, node: Node, path: Path) -> None:
        self._node, self._path = node, path
        self._keeper = Keeper(node, path)
        self._thread = ThreadPoolExecutor(1, "stepfold-queries")
        self._store: Store | None = None
        self._generation = 0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the index while the block runs. The node must be running already."""
        try:
            async with self._keeper.running():
                yield
        finally:
            self._thread.submit(self._close)
            self._thread.shutdown()

    @property
    def complete(self) -> bool:
        """Say whether all journals were taken in; if not, some runs may not be found yet."""
        return self._keeper.complete

    async def run(self, run: bytes) -> RunView | None:
        """Return a run, or None if there is none, or its journal is no longer kept."""
        return self._view(run, await self._ask(lambda store: store.run(run)))

    async def runs(self, asked: RunFilter) -> list[RunView]:
        """Return runs, newest first."""
        found: list[RunView] = []
        before, since = asked.before, run_id(max(asked.since_ms, 0), bytes(10))
        status = RUNNING if asked.status in LIVE_STATUSES else asked.status
        while len(found) < asked.limit:
            page = before

            def newest(store: Store, page: bytes = page) -> list[Row]:
                return store.newest(page, since, status, asked.function, SCAN_ROWS)

            rows = await self._ask(newest)
            views = [view for row in rows if (view := self._view(row.id, row)) is not None]
            found.extend(v for v in views if asked.status in ("", v.status))
            if len(rows) < SCAN_ROWS:
                break
            before = rows[-1].id
        return found[: asked.limit]

    async def runs_of_event(self, event: str) -> list[RunView]:
        """Return the runs that an event, given by its internal id, started."""
        rows = await self._ask(lambda store: store.caused_by(event, RUNS_OF_AN_EVENT_MAX))
        return [view for row in rows if (view := self._view(row.id, row)) is not None]

    async def named(self, text: str) -> list[bytes]:
        """Return up to three runs whose written id begins with this, or ends with these eight."""
        first, last = _bound(text, "0"), _bound(text, "Z")
        if first is None or last is None:
            found: list[Row] = []
        else:
            found = await self._ask(lambda store: store.between(first, last, 3))
        if not found and len(text) == SHORT_ID_CHARS:
            end = _bound("0" * (ULID_CHARS - SHORT_ID_CHARS) + text, "")
            if end is not None:
                found = await self._ask(lambda store: store.ending_in(end[-5:], 3))
        return [row.id for row in found]

    async def with_key(self, key: bytes) -> RunView | None:
        """Return the run whose id ends in this key, or None if there is none."""
        rows = await self._ask(lambda store: store.ending_in(key, 1))
        return self._view(rows[0].id, rows[0]) if rows else None

    async def timeline(self, view: RunView) -> list[Fact]:
        """Return the confirmed entries of a run's journal, in order.

        Raises:
            RequestRefusedError: its partition is stopped.
            LogError: its journal is damaged, or no longer kept.
        """
        return await self._facts(view.id, view.seqs)

    async def _facts(self, run: bytes, seqs: list[int]) -> list[Fact]:
        owner = self._node.owner_of(run)
        facts: list[Fact] = []
        for seq in seqs:
            if seq > owner.confirmed_seq:
                break
            _, decision = await read_decision(self._node.log, owner, seq)
            facts.extend(fact for of, fact in facts_of(decision) if key_of(of) == key_of(run))
        return facts

    async def result(self, run: bytes) -> Outcome | None:
        """Return how a run ended; None for an unfinished or unknown one."""
        view = await self.run(run)
        return await self.outcome(view) if view is not None else None

    async def outcome(self, view: RunView) -> Outcome | None:
        """Return how a run ended; None while it is unfinished, or if that is no longer kept."""
        if view.status not in (COMPLETED, FAILED, CANCELLED):
            return None
        try:
            facts = await self._facts(view.id, view.seqs[-1:])
        except EngineError:
            return None
        for fact in reversed(facts):
            match fact.entry:
                case RunCompleted(data=data):
                    return Outcome(data)
                case RunFailed(error=error):
                    return Outcome(error=error)
                case RunCancelled(reason=reason):
                    return Outcome(reason=reason)
                case _:
                    pass
        return None

    def _view(self, run: bytes, row: Row | None) -> RunView | None:
        if row is not None and row.ended_ms:
            return ended_view(row)
        owner = self._node.owners.get(home_of(run))
        state = owner.state.runs.get(key_of(run)) if owner is not None else None
        if owner is None or state is None or state.id != run:
            return ended_view(row) if row is not None else None
        served = run not in self._node.native.unserved
        return live_view(state, row, owner.state.number, owner.now_ms(), served=served)

    async def _ask(self, ask: Callable[[Store], _T]) -> _T:
        await self._keeper.flush()

        def run() -> _T:
            generation = self._keeper.generation
            if self._store is None or self._generation != generation:
                self._close()
                self._store, self._generation = Store(self._path, read_only=True), generation
            return ask(self._store)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except sqlite3.Error as error:
            self._generation = -1
            await self._keeper.fall_back(error)
            text = f"the index of runs cannot be read at the moment: {error}"
            raise RequestRefusedError(503, text) from error

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def short_id(run: bytes) -> str:
    """Return the end of a run's id, which people are shown and may give back."""
    return ulid_text(run)[-SHORT_ID_CHARS:]


def _bound(text: str, pad: str) -> bytes | None:
    """Return the lowest, or highest, id that begins with a text."""
    try:
        return parse_ulid(text + pad * (ULID_CHARS - len(text)))
    except ValueError:
        return None
