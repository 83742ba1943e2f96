"""Look-backs: events that lie in the log before the wait, or the run, that they are meant for.

A wait with ``since`` is registered first, and held: live matches and its timeout are decided when
the search has ended. The search compares append times, since offsets of different partitions have
no order, and covers what this partition had read when the wait was registered; what it reads later
is seen live.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepfold_engine.core.inputs import EventArrived, LookbackEnded
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.patterns import matches
from stepfold_engine.core.run import Run
from stepfold_engine.errors import FencedError, LogError
from stepfold_engine.intake import Input, Intake
from stepfold_engine.log.base import Log, Record
from stepfold_engine.owner import Owner
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Condition, RunStarted, WaitBegan
from stepfold_schemas.ids import key_of

_log = logging.getLogger("stepfold")

RETRY_S = 1.0
NEVER_MS = 1 << 62


class LogLookbacks:
    """Searches the events of the log (``effects.Lookbacks``)."""

    def __init__(
        self, log: Log, matching: Matching, intake: Intake, inputs: Sequence[Input]
    ) -> None:
        self._log, self._matching, self._intake, self._inputs = log, matching, intake, inputs
        self._tasks: asyncio.TaskGroup | None = None
        self.looked_back: Callable[[Owner, bytes], None] = lambda _owner, _run: None

    def bind(self, tasks: asyncio.TaskGroup) -> None:
        """Use this group for the searches."""
        self._tasks = tasks

    def for_wait(self, owner: Owner, entry: WaitBegan) -> None:
        """Search the log for an event that this wait may have missed."""
        self._start(owner, entry.run, entry.step, [(entry.condition, NEVER_MS)], entry.since_ms)

    def for_run(self, owner: Owner, entry: RunStarted) -> bool:
        """Search for a cancellation older than the run; False if there can be none.

        With one partition of events their order is the log's: what came before the trigger was
        meant for others, and what comes after it is seen live. Not so if the run was asked for by
        another partition, and its events were read here before.
        """
        spec = owner.state.functions.get(entry.function)
        asked_for = entry.invoker is not None or spec is None or spec.idempotency
        if len(self._inputs) == 1 and not asked_for:
            return False
        event = event_time(entry)
        conditions = [(c.condition, c.expires_ms) for c in entry.cancellations]
        self._start(owner, entry.run, b"", conditions, event)
        return True

    def resume(self, owner: Owner, run: Run) -> None:
        """Begin again the searches that were under way when a partition was recovered."""
        for operation in run.operations.values():
            if operation.held and operation.condition is not None:
                conditions = [(operation.condition, NEVER_MS)]
                self._start(owner, run.id, operation.step, conditions, operation.since_ms)

    def search_on(self, owner: Owner, ended: LookbackEnded) -> None:
        """Go on with a wait's search, up to what was read meanwhile."""
        run = owner.state.runs.get(key_of(ended.run))
        operation = run.operations.get(ended.step) if run is not None else None
        if operation is None or operation.condition is None:
            return
        conditions, since_ms = [(operation.condition, NEVER_MS)], operation.since_ms
        self._start(owner, ended.run, ended.step, conditions, since_ms, dict(ended.through))

    def _start(
        self,
        owner: Owner,
        run: bytes,
        step: bytes,
        conditions: list[tuple[Condition, int]],
        since_ms: int,
        begins: dict[Input, int] | None = None,
    ) -> None:
        assert self._tasks is not None, "bound before owners run"
        ends = {place: owner.position(*place) for place in self._inputs}
        search = _Search(run, step, conditions, since_ms, begins or {}, ends)
        self._tasks.create_task(self._finish(owner, search))

    async def _finish(self, owner: Owner, search: "_Search") -> None:
        found = await self._search(owner, search)
        run, step = search.run, search.step
        if found is None:
            owner.submit(LookbackEnded(run, step, None, "", "", search.ends if step else {}))
        else:
            owner.submit(LookbackEnded(run, step, found.raw, found.id, found.event.name))
        if not step:
            try:
                await owner.settled()
            except FencedError:
                return  # what was found is not recorded
            self.looked_back(owner, run)

    async def _search(self, owner: Owner, search: "_Search") -> EventArrived | None:
        """Return the earliest event, by append time, that one of the conditions means."""
        found: list[EventArrived] = []
        left = list(search.ends)
        while left:
            try:
                first = await self._first(owner, search, left[-1])
            except LogError as error:
                _log.warning("looking back in %s/%d waits: %s", *left[-1], error)
                await asyncio.sleep(RETRY_S)
                continue
            left.pop()
            if first is not None:
                found.append(first)
        return min(found, key=lambda e: e.at_ms, default=None)

    async def _first(self, owner: Owner, search: "_Search", place: Input) -> EventArrived | None:
        end = search.ends[place]
        offset = search.begins.get(place, -1)
        if offset < 0:
            offset = await self._log.offset_at(*place, search.since_ms)
        while offset < end:
            batch = await self._log.read(*place, offset)
            for record in batch.records:
                if record.offset >= end:
                    return None
                await self._intake.ready(place[0], record)
                arrived = self._candidate(owner, search, record, place)
                if arrived is not None:
                    return arrived
            if not batch.records:
                return None
            offset = batch.next_offset
        return None

    def _candidate(
        self, owner: Owner, search: "_Search", record: Record, place: Input
    ) -> EventArrived | None:
        name = self._intake.said(*place, record).get("name", "")
        wanted = [
            condition
            for condition, until_ms in search.conditions
            if record.at_ms < until_ms and (not name or matches(condition.event, name))
        ]
        if not wanted:
            return None
        try:
            arrived = self._intake.arrived(*place, record, owner.state)
        except UndecodableError:
            return None  # it lies in the dead letters
        state = owner.state.runs.get(key_of(search.run))
        if state is None or arrived.id in state.received:
            return None
        for condition in wanted:
            named = matches(condition.event, arrived.event.name)
            if named and self._matching.holds(condition, arrived.values):
                return arrived
        return None


@dataclass(frozen=True, slots=True)
class _Search:
    """What is searched for, and where: from ``begins``, or a time, to ``ends``.

    Each condition counts for events that were appended before a time.
    """

    run: bytes
    step: bytes
    conditions: list[tuple[Condition, int]]
    since_ms: int
    begins: dict[Input, int]
    ends: dict[Input, int]


def event_time(entry: RunStarted) -> int:
    """Return when what started a run was taken in, in milliseconds since 1970."""
    return codec.decode_event(entry.events[0]).received_ms
