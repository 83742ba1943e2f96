"""After the process died twice in a row: suspects go on first, few at a time, then everyone.

A death counts only against a run that was going on alone, so one partition of the process runs
its suspects at a time, and everything else is held until all of them got on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from stepfold_engine.clock import Clock
from stepfold_engine.core.decide import trials
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.errors import CorruptLogError, FencedError, LogError
from stepfold_engine.facts import started_in
from stepfold_engine.histories import read_history
from stepfold_engine.native import Native
from stepfold_engine.owner import Entries, Owner
from stepfold_engine.settings import Settings
from stepfold_schemas.entries import Entry
from stepfold_schemas.ids import ulid_text

_log = logging.getLogger("stepfold")

AGAIN_S = 1.0
"""When suspects are looked at again after the log could not be read."""


class Suspicion:
    """Lets runs go on when a partition is taken: at once, or suspects first."""

    def __init__(
        self,
        native: Native,
        clock: Clock,
        settings: Settings,
        pending: Callable[[Owner], list[bytes]],
    ) -> None:
        self._native, self._clock, self._settings = native, clock, settings
        self._pending = pending
        self._owners: list[Owner] = []
        self._waiting: list[Owner] = []
        self._current: Owner | None = None
        self._trials: set[asyncio.Task[None]] = set()

    def add(self, owners: Sequence[Owner]) -> None:
        """Let the runs of these partitions go on; return at once."""
        self._owners += owners
        suspected = [o for o in owners if o.state.trials.suspects]
        self._waiting += suspected
        if suspected:
            self._native.held = True
            count = sum(len(o.state.trials.suspects) for o in suspected)
            _log.warning(
                "the process died %d times in a row; %d runs that were under way go on a few at a"
                " time until the cause is found or all got on",
                max(o.state.trials.unclean for o in suspected),
                count,
            )
        if not self._native.held:
            self._wake(owners)
        elif self._current is None:
            self._next()

    def remove(self, owner: Owner) -> None:
        """A partition was lost: its suspects are another owner's."""
        self._owners = [o for o in self._owners if o is not owner]
        self._waiting = [o for o in self._waiting if o is not owner]
        if owner is self._current:
            for task in self._trials:
                task.cancel()
            self._next()

    def look(self, owner: Owner) -> None:
        """A suspect may have got on: if all that were resumed did, let the next ones go on."""
        if owner is self._current and not owner.state.trials.running:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            owner = self._waiting[0]
            if owner.state.trials.suspects:
                self._current = owner
                first, owner.trial_open = not owner.trial_open, True
                task = asyncio.get_running_loop().create_task(self._try(owner, first=first))
                self._trials.add(task)
                task.add_done_callback(self._trials.discard)
                return
            owner.trial_open = False
            self._waiting.pop(0)
        self._current = None
        self._native.go_on()
        self._wake(self._owners)

    def _wake(self, owners: Sequence[Owner]) -> None:
        for owner in owners:
            for run in self._pending(owner):
                self._native.wake(owner, run)

    async def _try(self, owner: Owner, *, first: bool) -> None:
        with contextlib.suppress(FencedError):
            while True:
                try:
                    await self._try_some(owner, first=first)
                except LogError as error:
                    _log.warning("partition %d: suspects wait: %s", owner.state.number, error)
                    await asyncio.sleep(AGAIN_S)
                    continue
                return

    async def _try_some(self, owner: Owner, *, first: bool) -> None:
        await self._condemn(owner)
        state = owner.state
        if not state.trials.suspects:
            self._next()
            return
        if not state.trials.running:
            owner.submit(Entries(trials.next_trial))
            await owner.settled()
        elif first:
            # This process lost the partition in the middle of a trial, and has won it back.
            for run in [owner.state.runs.get(key) for key in sorted(state.trials.running)]:
                if run is not None:
                    self._native.wake(owner, run.id)
        else:
            return
        resumed = list(state.trials.running)
        await asyncio.sleep(self._settings.trial_survive_ms / 1000)
        left = [key for key in resumed if key in state.trials.running]
        if left:
            owner.submit(Entries(_cleared(left)))

    async def _condemn(self, owner: Owner) -> None:
        """Fail what killed the process too often."""
        limits = self._settings.limits
        while (run := trials.condemned(owner.state, limits)) is not None:
            events = await self._events_of(owner, run)
            now_ms, condemned = self._clock.now_ms(), run

            def make(
                state: Partition, now_ms: int = now_ms, events: list[bytes] = events
            ) -> list[Entry]:
                return trials.condemn(state, condemned, now_ms, events)  # noqa: B023 - used at once

            _log.error("run %s killed the process %d times", ulid_text(run.id), run.deaths)
            owner.submit(Entries(make))
            await owner.settled()

    async def _events_of(self, owner: Owner, run: Run) -> list[bytes]:
        """Return what started a run, for its failure handler; nothing if that is damaged."""
        try:
            facts = await read_history(self._native.log, owner, run, owner.confirmed_seq)
        except CorruptLogError as error:
            _log.error("run %s: its journal is damaged: %s", ulid_text(run.id), error)
            return []
        first = started_in(facts)
        return first.events if first is not None else []


def _cleared(keys: list[bytes]) -> Callable[[Partition], list[Entry]]:
    return lambda state: trials.clear(state, [k for k in keys if k in state.trials.running])
