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
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from stepfold.port import Fact, RunBrief, Worker
from stepfold_engine.core.inputs import RunReported
from stepfold_engine.core.run import Run
from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.facts import started_in
from stepfold_engine.histories import ordered, read_history
from stepfold_engine.log.base import Log
from stepfold_engine.owner import Owner
from stepfold_schemas import codec
from stepfold_schemas.entries import Operation, RerunStarted, RunStarted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import home_of, key_of, time_of
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
        self.serves: Callable[[str, str], bool] = lambda _function, _version: False
        self._loop, self._context = asyncio.get_running_loop(), contextvars.copy_context()
        self._tasks: asyncio.TaskGroup | None = None
        self._sessions: dict[bytes, int] = {}
        self._last_session = 0
        self._events: dict[bytes, list[bytes]] = {}
        self._left: dict[int, set[bytes]] = {}
        self._left_in: dict[int, int] = {}
        self._loading: dict[bytes, Owner] = {}
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE_MAX)
        self._incoming: deque[tuple[bytes, int, Sequence[ReportItem] | None]] = deque()
        self._woken = False
        self.unserved: set[bytes] = set()
        self.held = False
        self._closed = False
        self._kept_back: set[bytes] = set()
        self.look_back: Callable[[Owner, RunStarted], bool] = lambda _owner, _entry: False
        self._looking_back: dict[bytes, bool] = {}

    def close(self) -> None:
        """Start no more runs: the process stops."""
        self._closed = True

    def rest(self) -> None:
        """Start no more runs, and drop the code of all: the process will stop.

        Attempts that are under way go on, and their outcomes count.
        """
        self.close()
        if self.worker is not None:
            for run in self._sessions:
                self.worker.leave(run)
        self._sessions.clear()

    def owns(self, owner: Owner) -> None:
        """Take a partition's runs from now on.

        What still goes on here since it was lost counts only if nobody else had it meanwhile: who
        had it may have done the same.
        """
        number = owner.state.number
        self.owners[number] = owner
        if owner.state.epoch > self._left_in.pop(number, 0) + 1:
            self.give_up(number)
        self._left.pop(number, None)

    def bind(self, tasks: asyncio.TaskGroup) -> None:
        """Use this group for the tasks that read histories."""
        self._tasks = tasks

    # What owners ask.

    def is_live(self, run: bytes) -> bool:
        """Say whether a run's code was given to the worker."""
        return run in self._sessions

    def deliver(self, owner: Owner, run: bytes, facts: list[Fact]) -> None:
        """Give a run confirmed facts, waking it if need be."""
        if self._loading.get(run) is owner:
            return
        if run in self._sessions and self.worker is not None:
            self.worker.deliver(run, facts)
        else:
            self.wake(owner, run)

    def retry(self, owner: Owner, run: bytes, step: bytes, attempt: int) -> None:
        """Let a step's next attempt begin, waking the run if need be."""
        if self._loading.get(run) is owner:
            return
        if run in self._sessions and self.worker is not None:
            self.worker.retry(run, step, attempt)
        else:
            self.wake(owner, run)

    def stop(self, run: bytes) -> None:
        """The run has ended: drop its code."""
        self.unserved.discard(run)
        self._events.pop(run, None)
        self._looking_back.pop(run, None)
        self._sessions.pop(run, None)
        if self.worker is not None:
            # Also when its code has ended: bodies of its steps may go on.
            self.worker.stop(run)

    def forget(self, run: bytes) -> None:
        """The run's code is no longer in the worker, and nothing is to be done about it."""
        self._sessions.pop(run, None)

    def leave(self, partition: int) -> None:
        """A partition was lost: drop the code of its runs.

        Attempts that are under way go on: if it is won back, their outcomes are offered again.
        """
        owner = self.owners.pop(partition, None)
        if owner is not None:
            self._left_in[partition] = owner.state.epoch
        for run in [run for run in self._sessions if home_of(run) == partition]:
            del self._sessions[run]
            self._events.pop(run, None)
            self._left.setdefault(partition, set()).add(run)
            if self.worker is not None:
                self.worker.leave(run)
        self.unserved = {run for run in self.unserved if home_of(run) != partition}
        for run in [run for run in self._looking_back if home_of(run) == partition]:
            del self._looking_back[run]

    def give_up(self, partition: int) -> None:
        """A partition that was lost belongs to somebody else: end what still goes on for it."""
        for run in sorted(self._left.pop(partition, ())):
            if self.worker is not None:
                self.worker.stop(run)

    def start(self, owner: Owner, run: Run, facts: list[Fact]) -> None:
        """Give a run's code to the worker, with its whole history, unless the worker has it.

        One whose history is being read is started with that: it is told nothing else meanwhile.
        """
        if self._closed or self.owners.get(owner.state.number) is not owner:
            return
        if run.id in self._sessions or self._loading.get(run.id) is owner:
            return
        first = started_in(facts)
        if first is None:
            self._damaged(owner, run, "its beginning is missing")
            return
        if self.worker is None or not self.serves(run.function, run.version):
            self.unserved.add(run.id)
            return
        if not owner.may_begin(run):
            return  # that came to be while its history was read; a timer wakes it
        trial = owner.state.trials.running
        if self.held and key_of(run.id) not in trial:
            self._kept_back.add(run.id)
            return
        if run.cancellations and not run.begun and self._looks_back(owner, first):
            return
        self.unserved.discard(run.id)
        self._last_session += 1
        self._sessions[run.id] = self._last_session
        self._events[run.id] = first.events
        operations = run.operations.values()
        due = {o.step: number for o in operations if (number := _due_attempt(owner, run, o))}
        seed = next((f.entry.seed for f in facts if isinstance(f.entry, RerunStarted)), b"")
        brief = RunBrief(
            run.id,
            run.function,
            self._last_session,
            run.attempt,
            [codec.decode_event(e) for e in first.events],
            time_of(seed) if seed else run.started_ms,
            due,
            cautious=self.held and owner.state.trials.together == 1,
            seed=seed,
        )
        self.worker.start(brief, facts)

    def _looks_back(self, owner: Owner, first: RunStarted) -> bool:
        """Search for what cancelled the run before it started; its code waits for that."""
        run = first.run
        if run in self._looking_back:
            return not self._looking_back[run]
        found = self.look_back(owner, first)
        self._looking_back[run] = not found
        return found

    def looked_back(self, owner: Owner, run: bytes) -> None:
        """The search is over, and what it found is recorded, if the partition was kept.

        If it was lost, its next owner searches anew, in this process or another.
        """
        if self.owners.get(owner.state.number) is not owner:
            return
        self._looking_back[run] = True
        self.wake(owner, run)

    def wake(self, owner: Owner, run: bytes) -> None:
        """Start a run with its history, from memory if recovery kept it, else from the log.

        A run whose code is with the worker is left to it.
        """
        if self._closed or self.owners.get(owner.state.number) is not owner:
            return
        if run in self._sessions:
            return
        state = owner.state.runs.get(key_of(run))
        if state is None or state.stopped or self._loading.get(run) is owner:
            return
        if not owner.may_begin(state):
            return  # a timer wakes it; what happened meanwhile is in its history then
        if state.seqs[0] > owner.confirmed_seq:
            # Its beginning, or the copy of it that a round made, has only been decided.
            self._loop.call_later(UNCONFIRMED_S, self.wake, owner, run)
            return
        if not self.serves(state.function, state.version):
            self.unserved.add(run)
            return
        kept = ordered(owner.recovered.pop(key_of(run), []), state)
        if kept:
            self.start(owner, state, kept)
            return
        assert self._tasks is not None, "bound before owners run"
        self._loading[run] = owner
        self._tasks.create_task(self._load(owner, run))

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
            self._loaded(owner, run)

    async def _load_whole(self, owner: Owner, run: bytes) -> None:
        facts: list[Fact] = []
        read_through = -1
        while True:
            state = owner.state.runs.get(key_of(run))
            if state is None or state.stopped or self.owners.get(owner.state.number) is not owner:
                return
            through = owner.confirmed_seq
            last = max(state.seqs)
            if last > through:
                # It may be that its last attempt failed, or a copy that a round makes of what was
                # confirmed before: no news are made of that, so who starts without it would never
                # see what it holds.
                await asyncio.sleep(UNCONFIRMED_S)
                continue
            if last <= read_through:
                # Nothing was confirmed of it while the log was read: from here on facts are
                # delivered as they are confirmed.
                self._loaded(owner, run)
                self.start(owner, state, facts)
                return
            facts = await read_history(self.log, owner, state, through)
            read_through = last

    def _loaded(self, owner: Owner, run: bytes) -> None:
        # The partition may have been lost and won back meanwhile: then another load is under way.
        if self._loading.get(run) is owner:
            del self._loading[run]

    def _damaged(self, owner: Owner, run: Run, why: str) -> None:
        _log.error("run %s is stopped, its journal is damaged: %s", run.id.hex(), why)
        owner.stop_run(run.id, {"reason": "damaged", "message": why})

    def go_on(self) -> None:
        """The trials are over: start what something happened to meanwhile."""
        self.held = False
        kept_back, self._kept_back = self._kept_back, set()
        for run in sorted(kept_back):
            owner = self.owners.get(home_of(run))
            if owner is not None:
                self.wake(owner, run)

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
            self._loop.call_soon_threadsafe(self._take_all, context=self._context.copy())

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


def _due_attempt(owner: Owner, run: Run, operation: Operation) -> int:
    """Return the attempt of a step that may begin now, 0 if none may yet."""
    if operation.kind == "running":
        return operation.attempt  # it ran when the process died
    if operation.kind == "step" and owner.is_due(run.id, operation.step, operation.due_ms):
        return operation.attempt + 1
    return 0
