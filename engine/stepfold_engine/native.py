"""Functions of this process: between the owners and the worker, which runs user code.

Rules:

* A worker hears only what is confirmed. What it reports is an input like any other.
* A run that is not in the worker's memory is started with its whole history; what is confirmed
  while that history is read from the log is part of it, so nothing is given twice or left out.
* While ``held``, only the suspects on trial go on; the others are started when it is over.
* Every life of a run's code has a session. What an older one asks for is refused; outcomes of
  attempts count whatever life waits for them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from stepfold.port import Fact, RunBrief, Worker
from stepfold_engine.core.inputs import RunReported
from stepfold_engine.core.run import Run
from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.facts import started_in
from stepfold_engine.histories import read_history
from stepfold_engine.log.base import Log
from stepfold_engine.owner import Owner
from stepfold_schemas import codec
from stepfold_schemas.entries import Operation
from stepfold_schemas.events import Event
from stepfold_schemas.ids import home_of, key_of
from stepfold_schemas.reports import (
    AttemptFailed,
    AttemptRunning,
    AttemptSucceeded,
    ReportItem,
)

_log = logging.getLogger("stepfold")

_OF_ATTEMPTS = (AttemptSucceeded, AttemptFailed, AttemptRunning)

UNCONFIRMED_S = 0.05
"""When a run is looked at again whose history is still being written."""

LOADS_AT_ONCE_MAX = 64
"""How many histories are read from the log at the same time."""


class Native:
    """Starts, wakes and stops runs in a worker, and takes its reports (``EnginePort``)."""

    def __init__(
        self,
        log: Log,
        publish: Callable[[Sequence[Event]], Coroutine[Any, Any, list[str]]],
        signal: Callable[[str, bytes, bytes], Coroutine[Any, Any, bytes | None]],
    ) -> None:
        self.log, self._publish, self._signal = log, publish, signal
        self.owners: dict[int, Owner] = {}
        self.worker: Worker | None = None
        self.serves: Callable[[str], bool] = lambda _: False
        self._loop = asyncio.get_running_loop()
        self._tasks: asyncio.TaskGroup | None = None
        self._sessions: dict[bytes, int] = {}
        self._last_session = 0
        self._events: dict[bytes, list[bytes]] = {}
        self._loading: set[bytes] = set()
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE_MAX)
        self._incoming: deque[tuple[bytes, int, Sequence[ReportItem] | None]] = deque()
        self._woken = False
        self.unserved: set[bytes] = set()
        self.held = False

    def bind(self, tasks: asyncio.TaskGroup) -> None:
        """Use this group for the tasks that read histories."""
        self._tasks = tasks

    # What owners ask.

    def is_live(self, run: bytes) -> bool:
        """Say whether a run's code was given to the worker."""
        return run in self._sessions

    def deliver(self, owner: Owner, run: bytes, facts: list[Fact]) -> None:
        """Give a run confirmed facts, waking it if need be."""
        if run in self._loading:
            return
        if run in self._sessions and self.worker is not None:
            self.worker.deliver(run, facts)
        else:
            self.wake(owner, run)

    def retry(self, owner: Owner, run: bytes, step: bytes, attempt: int) -> None:
        """Let a step's next attempt begin, waking the run if need be."""
        if run in self._loading:
            return
        if run in self._sessions and self.worker is not None:
            self.worker.retry(run, step, attempt)
        else:
            self.wake(owner, run)

    def stop(self, run: bytes) -> None:
        """The run has ended: drop its code."""
        self.unserved.discard(run)
        self._events.pop(run, None)
        if self._sessions.pop(run, None) is not None and self.worker is not None:
            self.worker.stop(run)

    def forget(self, run: bytes) -> None:
        """The run's code is no longer in the worker, and nothing is to be done about it."""
        self._sessions.pop(run, None)

    def start(self, owner: Owner, run: Run, facts: list[Fact]) -> None:
        """Give a run's code to the worker, with its whole history."""
        first = started_in(facts)
        if first is None:
            self._damaged(owner, run, "its beginning is missing")
            return
        if self.worker is None or not self.serves(run.function):
            self.unserved.add(run.id)
            return
        trial = owner.state.trials.running
        if self.held and key_of(run.id) not in trial:
            return
        self.unserved.discard(run.id)
        self._last_session += 1
        self._sessions[run.id] = self._last_session
        self._events[run.id] = first.events
        now_ms = owner.now_ms()
        due = {o.step: o.attempt + 1 for o in run.operations.values() if _is_due(o, now_ms)}
        brief = RunBrief(
            run.id,
            run.function,
            self._last_session,
            run.attempt,
            [codec.decode_event(e) for e in first.events],
            run.started_ms,
            due,
            cautious=self.held and owner.state.trials.together == 1,
        )
        self.worker.start(brief, facts)

    def wake(self, owner: Owner, run: bytes) -> None:
        """Start a run with its history, from memory if recovery kept it, else from the log."""
        state = owner.state.runs.get(key_of(run))
        if state is None or state.stopped or run in self._loading:
            return
        if min(state.seqs) > owner.confirmed_seq:
            # Its beginning, or the copy of it that a round made, has only been decided.
            self._loop.call_later(UNCONFIRMED_S, self._wake_unless_live, owner, run)
            return
        if not self.serves(state.function):
            self.unserved.add(run)
            return
        kept = owner.recovered.pop(key_of(run), None)
        if kept is not None and all(seq <= kept[-1].seq for seq in state.seqs):
            self.start(owner, state, kept)
            return
        assert self._tasks is not None, "bound before owners run"
        self._loading.add(run)
        self._tasks.create_task(self._load(owner, run))

    def _wake_unless_live(self, owner: Owner, run: bytes) -> None:
        if run not in self._sessions:
            self.wake(owner, run)

    async def _load(self, owner: Owner, run: bytes) -> None:
        try:
            async with self._loads:
                await self._load_whole(owner, run)
        except CorruptLogError as error:
            state = owner.state.runs.get(key_of(run))
            if state is not None:
                self._damaged(owner, state, str(error))
        except LogError as error:
            _log.warning("the history of a run cannot be read yet: %s", error)
            self._loop.call_later(1.0, self.wake, owner, run)
        finally:
            self._loading.discard(run)

    async def _load_whole(self, owner: Owner, run: bytes) -> None:
        facts: list[Fact] = []
        read_through = -1
        while True:
            state = owner.state.runs.get(key_of(run))
            if state is None or state.stopped:
                return
            through = owner.confirmed_seq
            last = max((s for s in state.seqs if s <= through), default=0)
            if last <= read_through:
                # Nothing was confirmed of it while the log was read: from here on facts are
                # delivered as they are confirmed.
                self._loading.discard(run)
                self.start(owner, state, facts)
                return
            facts = await read_history(self.log, owner, state, through)
            read_through = last

    def _damaged(self, owner: Owner, run: Run, why: str) -> None:
        _log.error("run %s is stopped, its journal is damaged: %s", run.id.hex(), why)
        owner.stop_run(run.id, {"reason": "damaged", "message": why})

    def start_unserved(self) -> None:
        """Start the runs that waited for a process that has their function."""
        for run in sorted(self.unserved):
            owner = self.owners.get(home_of(run))
            if owner is not None:
                self.unserved.discard(run)
                self.wake(owner, run)

    # What the worker says, on its own thread (``EnginePort``).

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:
        """Take a report; thread-safe."""
        self._put(run, session, items)

    def missing(self, run: bytes) -> None:
        """Start a run that the worker has not in memory; thread-safe."""
        self._put(run, 0, None)

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Append events from the worker's loop."""
        ids: list[str] = await self._on_engine(self._publish(events))
        return ids

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:
        """Send a signal from the worker's loop."""
        run: bytes | None = await self._on_engine(self._signal(signal, data, request))
        return run

    async def _on_engine(self, work: Coroutine[Any, Any, Any]) -> Any:
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _put(self, run: bytes, session: int, items: Sequence[ReportItem] | None) -> None:
        self._incoming.append((run, session, items))
        if not self._woken:
            # One wake-up a burst: each costs a system call and a switch of threads.
            self._woken = True
            self._loop.call_soon_threadsafe(self._take_all)

    def _take_all(self) -> None:
        self._woken = False
        while self._incoming:
            run, session, items = self._incoming.popleft()
            owner = self.owners.get(home_of(run))
            if owner is None:
                continue
            if items is None:
                self._sessions.pop(run, None)
                self.wake(owner, run)
            else:
                self._take(owner, run, session, items)

    def _take(self, owner: Owner, run: bytes, session: int, items: Sequence[ReportItem]) -> None:
        if self._sessions.get(run) != session:
            items = [item for item in items if isinstance(item, _OF_ATTEMPTS)]
        if items:
            owner.submit(RunReported(run, items, self._events.get(run, ())))


def _is_due(operation: Operation, now_ms: int) -> bool:
    return operation.kind == "step" and operation.due_ms <= now_ms
