"""A node: the partitions that this process owns, and what it takes to run them.

It wires parts and holds no logic of its own but the order of starting and stopping: recover and
claim every partition, declare functions, let runs go on (suspects first and alone), read inputs.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from stepfold.port import Worker
from stepfold_engine.clock import Clock
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.effects import ProcessEffects, Watcher, pending
from stepfold_engine.errors import FencedError, LogError, RequestRefusedError
from stepfold_engine.log.base import EVENTS, JOURNAL, Log, NewRecord
from stepfold_engine.lookbacks import LogLookbacks
from stepfold_engine.native import Native
from stepfold_engine.owner import Owner
from stepfold_engine.readers import event_record, readers_of
from stepfold_engine.restating import Restating, trim_events
from stepfold_engine.senders import Sender, request
from stepfold_engine.settings import Settings
from stepfold_engine.suspicion import Suspicion
from stepfold_schemas import codec
from stepfold_schemas.entries import FunctionSpec, RequestAnswered
from stepfold_schemas.events import Event, check_event
from stepfold_schemas.ids import home_of, parse_ulid, partition_of, run_id, ulid_text
from stepfold_schemas.messages import (
    CancelRequested,
    FunctionsSubmitted,
    Message,
    ResumeRequested,
    SignalSent,
)

_log = logging.getLogger("stepfold")

TRIM_EVENTS_EVERY_S = 3600.0
REQUEST_TIMEOUT_S = 30.0


class Node:
    """The engine in this process. Use ``running()``."""

    def __init__(self, log: Log, clock: Clock, matching: Matching, settings: Settings) -> None:
        self.log, self.clock, self.matching, self.settings = log, clock, matching, settings
        self.owners: dict[int, Owner] = {}
        self.incarnation = secrets.token_hex(8)
        self.name = socket.gethostname()
        self.stopped_partitions: dict[int, str] = {}
        self.watchers: list[Watcher] = []
        self.partitions = 0
        self._crashed = False
        self._events = 0

    @asynccontextmanager
    async def running(
        self, worker: Callable[[Native], Worker] | None = None
    ) -> AsyncGenerator[None]:
        """Own and run all partitions while the block runs; release them cleanly behind it.

        Args:
            worker: makes the worker of this process's functions, given its port to the engine.
        """
        self.partitions = await self.log.partitions(JOURNAL)
        self._events = await self.log.partitions(EVENTS)
        self.native = Native(self.log, self.publish, self.signal_from_step)
        lookbacks = LogLookbacks(self.log, self.matching, self._events)
        lookbacks.wake = self.native.wake
        self.lookbacks = lookbacks
        self.effects = ProcessEffects(self.native, lookbacks)
        self.effects.watchers = self.watchers
        self.suspicion = Suspicion(self.native, self.clock, self.settings)
        self.effects.trial_ended = self.suspicion.look
        try:
            async with asyncio.TaskGroup() as tasks:
                self.native.bind(tasks)
                lookbacks.bind(tasks)
                await self._open_all()
                if worker is not None:
                    self.native.worker = worker(self.native)
                background = self._start(tasks)
                try:
                    yield
                finally:
                    if not self._crashed:
                        await self._release_all()
                    for task in background:
                        task.cancel()
                    tasks.create_task(_cancelled())
        except* _Stop:
            pass

    def crash(self) -> None:
        """Stop, from here on, as a killed process would: nothing is released. For tests."""
        self._crashed = True

    async def _open_all(self) -> None:
        for number in range(self.partitions):
            owner = Owner(self.log, self.clock, self.matching, self.effects, self.settings)
            try:
                reading = await owner.open(number, self.partitions, self.name, self.incarnation)
            except LogError as error:
                self._stop_partition(number, error)
                continue
            if reading.read > 100_000:
                _log.info("partition %d: %d records read", number, reading.read)
            self.owners[number] = self.native.owners[number] = owner

    def _stop_partition(self, number: int, error: Exception) -> None:
        """A partition that cannot go on stops alone; its bytes stay as they are."""
        _log.error("partition %d is stopped: %s", number, error)
        self.stopped_partitions[number] = str(error)
        self.owners.pop(number, None)
        self.native.owners.pop(number, None)

    def _start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        background = [tasks.create_task(self._trim_events())]
        for owner in self.owners.values():
            background.append(tasks.create_task(self._run_owner(owner)))
        return background

    async def _run_owner(self, owner: Owner) -> None:
        """Run one partition with everything that belongs to it."""
        number = owner.state.number
        try:
            async with asyncio.TaskGroup() as tasks:
                for destination in range(self.partitions):
                    if destination != number:
                        sender = Sender(self.log, owner, destination)
                        self.effects.senders[number, destination] = sender
                        tasks.create_task(sender.run())
                        sender.confirm(owner.state.queued.get(destination, 0))
                tasks.create_task(owner.run())
                for reader in readers_of(self.log, owner, self._events):
                    tasks.create_task(reader.run())
                tasks.create_task(Restating(self.log, owner, self.clock, self.settings).run())
                owner.resume_own_messages()
                for run in owner.state.runs:
                    if any(o.held for o in run.operations.values()):
                        self.lookbacks.resume(owner, run)
        except* (LogError, FencedError) as group:
            self._stop_partition(number, group.exceptions[0])

    async def _trim_events(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVENTS_EVERY_S)
            with contextlib.suppress(LogError):
                await trim_events(self.log, list(self.owners.values()), self.clock, self.settings)

    async def _release_all(self) -> None:
        for owner in list(self.owners.values()):
            if owner.running and not owner.stalled:
                with contextlib.suppress(LogError, TimeoutError):
                    async with asyncio.timeout(5):
                        await owner.release()

    # Functions.

    async def declare(
        self, app: str, functions: Sequence[FunctionSpec], *, complete: bool, forced: bool
    ) -> None:
        """Put an app's functions in force in all partitions; return when all hold them.

        Raises:
            RequestRefusedError: they were replaced by newer ones, or not all partitions answer.
        """
        message = FunctionsSubmitted(app, list(functions), complete, forced)
        answer = await self.ask(partition_of(app, self.partitions), message)
        _raise_for(answer)

    def resume(self) -> None:
        """Let the runs go on that were under way; suspects of a crash first."""
        self.suspicion.begin(list(self.owners.values()), pending)

    # What callers ask.

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Append events durably; return their internal ids, in order.

        Raises:
            InvalidEventError: one may not enter the log; none of them was written.
            LogError: the log did not take them.
        """
        now_ms = self.clock.now_ms()
        ready = [self._stamped(event, now_ms) for event in events]
        for event in ready:
            if not event.name.startswith("stepfold/"):
                check_event(event)
        by_partition: dict[int, list[NewRecord]] = {}
        for event in ready:
            where = partition_of(event.id or event.internal, self._events)
            by_partition.setdefault(where, []).append(event_record(event))
        await asyncio.gather(
            *(self.log.append(EVENTS, p, records) for p, records in by_partition.items())
        )
        return [event.internal for event in ready]

    def _stamped(self, event: Event, now_ms: int) -> Event:
        internal = event.internal or ulid_text(run_id(now_ms, secrets.token_bytes(10)))
        ts = event.ts or now_ms
        return Event(event.name, event.data, event.id, ts, event.user, internal, now_ms)

    async def ask(
        self, partition: int, message: Message, request_id: bytes = b""
    ) -> RequestAnswered:
        """Send a request to a partition and wait for its answer.

        Raises:
            RequestRefusedError: the partition is stopped, or does not answer in time.
            LogError: the request could not be written.
        """
        if partition in self.stopped_partitions:
            text = f"partition {partition} is stopped: {self.stopped_partitions[partition]}"
            raise RequestRefusedError(503, text)
        request_id = request_id or secrets.token_bytes(16)
        owner = self.owners[partition]
        known = owner.state.requests.get(request_id)
        if known is not None:
            await owner.settled()
            return known
        waiting = self.effects.answers.setdefault(
            request_id, asyncio.get_running_loop().create_future()
        )
        try:
            await request(self.log, partition, request_id, codec.encode(message))
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await asyncio.shield(waiting)
        except TimeoutError:
            text = f"partition {partition} did not answer within {REQUEST_TIMEOUT_S:.0f} s"
            raise RequestRefusedError(503, text) from None
        finally:
            self.effects.answers.pop(request_id, None)

    async def cancel(self, run: bytes, reason: str) -> None:
        """Cancel a run.

        Raises:
            RequestRefusedError: there is no such unfinished run (404).
        """
        _raise_for(await self.ask(self._home(run), CancelRequested(run, reason)))

    async def resume_run(self, run: bytes) -> None:
        """Let a stopped run go on.

        Raises:
            RequestRefusedError: there is no such run (404), or it is not stopped (409).
        """
        _raise_for(await self.ask(self._home(run), ResumeRequested(run)))

    async def signal(self, name: str, data: bytes, request_id: bytes = b"") -> bytes | None:
        """Give a signal to its waiter; return the run that got it, None if nobody waits."""
        home = partition_of(name, self.partitions)
        answer = await self.ask(home, SignalSent(name, data), request_id)
        if answer.status == 404:
            return None
        return parse_ulid(str(_body(answer)["run_id"]))

    async def signal_from_step(self, name: str, data: bytes, request_id: bytes) -> bytes | None:
        """Give a signal on behalf of a step; doing it twice is doing it once."""
        return await self.signal(name, data, request_id)

    def _home(self, run: bytes) -> int:
        home = home_of(run)
        if home >= self.partitions:
            raise RequestRefusedError(404, f"no unfinished run {ulid_text(run)}")
        return home

    def owner_of(self, run: bytes) -> Owner:
        """Return the owner of a run.

        Raises:
            RequestRefusedError: its partition is stopped, or there is none of that number.
        """
        owner = self.owners.get(self._home(run))
        if owner is None:
            raise RequestRefusedError(503, f"partition {home_of(run)} is stopped")
        return owner

    def states(self) -> list[Partition]:
        """Return the states of the owned partitions."""
        return [owner.state for owner in self.owners.values()]


def _raise_for(answer: RequestAnswered) -> None:
    if answer.status != 200:
        raise RequestRefusedError(answer.status, str(_body(answer).get("error", "")))


def _body(answer: RequestAnswered) -> dict[str, object]:
    body: dict[str, object] = json.loads(answer.body)  # answers are objects
    return body


class _Stop(Exception):  # noqa: N818 - a signal that ends the task group, not an error
    """Ends the node's task group."""


async def _cancelled() -> None:
    raise _Stop
