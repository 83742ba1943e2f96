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

from stepfold.port import Fact, Worker
from stepfold_engine.addresses import Addresses
from stepfold_engine.answers import Answers
from stepfold_engine.assignment import Alone, Assignment
from stepfold_engine.clock import Clock
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.deadletters import DeadLetter, redrive
from stepfold_engine.effects import ProcessEffects, Watcher, pending
from stepfold_engine.errors import (
    CorruptLogError,
    FencedError,
    LogError,
    NewerReleaseError,
    RequestRefusedError,
)
from stepfold_engine.intake import EVENTS_ONLY, Input, Intake
from stepfold_engine.log.base import EVENTS, JOURNAL, Log, NewRecord
from stepfold_engine.lookbacks import LogLookbacks
from stepfold_engine.native import Native
from stepfold_engine.owner import Owner
from stepfold_engine.ownership import Claimant
from stepfold_engine.readers import Sharing, event_record
from stepfold_engine.reruns import Rerun, RerunAnswer
from stepfold_engine.restating import trim_events
from stepfold_engine.senders import request
from stepfold_engine.settings import Settings
from stepfold_engine.suspicion import Suspicion
from stepfold_engine.tenancy import House, Tenancy
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
    """The engine in this process. Use ``running()``.

    Args:
        log: where everything lies.
        clock: the time of owners.
        matching: expressions.
        settings: limits and delays.
        assignment: which partitions to own; None for all of them, alone.
        claimant: who this process is; None for the machine's name and a new incarnation.
        intake: reads events.

    Attributes:
        inputs: every partition that events are read from, as topic and number.
    """

    def __init__(  # noqa: PLR0913 - the parts that a node is wired of
        self,
        log: Log,
        clock: Clock,
        matching: Matching,
        settings: Settings,
        *,
        assignment: Assignment | None = None,
        claimant: Claimant | None = None,
        intake: Intake = EVENTS_ONLY,
    ) -> None:
        self.log, self.clock, self.matching, self.settings = log, clock, matching, settings
        self._assignment, self.intake = assignment, intake
        self.inputs: list[Input] = []
        self._claimant = claimant or Claimant(socket.gethostname(), secrets.token_hex(8))
        self.owners: dict[int, Owner] = {}
        self.stopped_partitions: dict[int, str] = {}
        self.watchers: list[Watcher] = []
        self.partitions = 0
        self._tenancies: dict[int, Tenancy] = {}
        self._resumed = False
        self._crashed = False
        self._events = 0

    @asynccontextmanager
    async def running(
        self, worker: Callable[[Native], Worker] | None = None
    ) -> AsyncGenerator[None]:
        """Own and run partitions while the block runs; release them cleanly behind it.

        Args:
            worker: makes the worker of this process's functions, given its port to the engine.
        """
        self.partitions = await self.log.partitions(JOURNAL)
        self._events = await self.log.partitions(EVENTS)
        self.inputs = await self.intake.inputs(self.log)
        self.native = Native(self.log, self.publish, self.signal_from_step)
        self.owners = self.native.owners
        self.lookbacks = LogLookbacks(self.log, self.matching, self.intake, self.inputs)
        self.lookbacks.looked_back = self.native.looked_back
        self.native.look_back = self.lookbacks.for_run
        self.answers = Answers(self.log)
        self.effects = ProcessEffects(self.native, self.lookbacks, self.answers)
        self.effects.watchers = self.watchers
        self.suspicion = Suspicion(self.native, self.clock, self.settings, pending)
        self.effects.trial_ended = self.suspicion.look
        house = self._house()
        left = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                # Begun here: a group that ends because something failed takes no new task.
                tasks.create_task(_end_when(left))
                self.native.bind(tasks)
                self.lookbacks.bind(tasks)
                await self._open_all(house)
                if worker is not None:
                    self.native.worker = worker(self.native)
                for tenancy in list(self._tenancies.values()):
                    tenancy.begin(tasks)
                background = [
                    tasks.create_task(self._trim_events()),
                    tasks.create_task(self._follow_assignment(house, tasks)),
                ]
                try:
                    yield
                finally:
                    self.native.close()
                    for task in background:
                        task.cancel()
                    await self._leave_all()
                    left.set()
        except* _Stop:
            pass

    def _house(self) -> House:
        return House(
            log=self.log,
            clock=self.clock,
            matching=self.matching,
            settings=self.settings,
            native=self.native,
            lookbacks=self.lookbacks,
            effects=self.effects,
            assignment=self._assignment or Alone(self.partitions),
            claimant=self._claimant,
            partitions=self.partitions,
            sharing=Sharing(self.intake, Addresses(self.intake, self.partitions)),
            events=self.inputs,
            opened=self._opened,
            closed=self.suspicion.remove,
            stopped=self._stopped,
        )

    async def _leave_all(self) -> None:
        tenancies = list(self._tenancies.values())
        if self._crashed:
            for tenancy in tenancies:
                tenancy.abandon()
        else:
            await asyncio.gather(*(tenancy.release() for tenancy in tenancies))

    def crash(self) -> None:
        """Stop, from here on, as a killed process would: nothing is released. For tests."""
        self._crashed = True

    async def _open_all(self, house: House) -> None:
        """Open the partitions of the beginning, so that they all are ready when this returns."""
        for number in sorted(await house.assignment.named()):
            tenancy = self._tenancies[number] = Tenancy(house, number)
            try:
                await tenancy.open()
            except (CorruptLogError, NewerReleaseError) as error:
                self._stopped(number, error)
            except (LogError, FencedError) as error:
                _log.warning("partition %d is opened again: %s", number, error)

    async def _follow_assignment(self, house: House, tasks: asyncio.TaskGroup) -> None:
        """Take and release partitions as the assignment says."""
        while True:
            named = await house.assignment.named()
            gone = [self._tenancies.pop(n) for n in sorted(self._tenancies.keys() - named)]
            await asyncio.gather(*(tenancy.release() for tenancy in gone))
            for number in sorted(named - self._tenancies.keys() - self.stopped_partitions.keys()):
                tenancy = self._tenancies[number] = Tenancy(house, number)
                tenancy.begin(tasks)
            await house.assignment.changed()

    def _opened(self, owner: Owner) -> None:
        if self._resumed:
            self.suspicion.add([owner])

    def _stopped(self, number: int, error: Exception) -> None:
        """A partition that cannot go on stops alone; its bytes stay as they are."""
        self._tenancies.pop(number, None)
        if isinstance(error, FencedError):
            _log.error("%s; it is another process's now", error)
        else:
            _log.error("partition %d is stopped: %s", number, error)
            self.stopped_partitions[number] = str(error)

    async def _trim_events(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVENTS_EVERY_S)
            if len(self.owners) < self.partitions:
                continue  # others read events, too, and only they know how far
            with contextlib.suppress(LogError, FencedError):
                await trim_events(self.log, list(self.owners.values()), self.clock, self.settings)

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
        self._resumed = True
        self.suspicion.add(list(self.owners.values()))

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
        internal = event.internal or ulid_text(run_id(now_ms, self._claimant.entropy(10)))
        ts = event.ts or now_ms
        return Event(event.name, event.data, event.id, ts, event.user, internal, now_ms)

    async def redrive(self, letter: DeadLetter, value: bytes | None = None) -> str:
        """Send an event again that could not be read, as it was or mended.

        One of an existing topic becomes an event of ``events``: its own topic is others'. Sent
        again twice it starts each function once.

        Returns:
            where it lies now.

        Raises:
            RequestRefusedError: it was no event, or is still none.
            LogError: the log did not take it.
        """
        event = await self.intake.remade(letter, letter.value if value is None else value)
        if event is None:
            return await redrive(self.log, letter, value)
        partition = partition_of(event.id, self._events)
        base = await self.log.append(EVENTS, partition, [event_record(event)])
        return f"{EVENTS}-{partition}-{'?' if base is None else base}"

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
        request_id = request_id or self._claimant.entropy(16)
        if (known := await self._known(partition, request_id)) is not None:
            return known
        try:
            with self.answers.expected(request_id) as waiting:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await request(self.log, partition, request_id, codec.encode(message))
                    return await self.answers.wait(
                        partition, waiting, lambda number: number in self.owners
                    )
        except TimeoutError:
            text = f"partition {partition} did not answer within {REQUEST_TIMEOUT_S:.0f} s"
            raise RequestRefusedError(503, text) from None

    async def _known(self, partition: int, request_id: bytes) -> RequestAnswered | None:
        """Return what was answered to this request before, once that is durable."""
        owner = self.owners.get(partition)
        if owner is None:
            return await self.answers.heard(partition, request_id)
        known = owner.state.requests.get(request_id)
        if known is not None:
            await owner.settled()
        return known

    async def cancel(self, run: bytes, reason: str) -> None:
        """Cancel a run.

        Raises:
            RequestRefusedError: there is no such unfinished run (404).
        """
        _raise_for(await self.ask(self._home(run), CancelRequested(run, reason)))

    async def resume_run(self, run: bytes, asked_by: str = "", why: str = "") -> None:
        """Let a stopped run go on; who asks for it and why is recorded.

        Raises:
            RequestRefusedError: there is no such run (404), or it is not stopped (409).
        """
        _raise_for(await self.ask(self._home(run), ResumeRequested(run, asked_by, why)))

    async def rerun(
        self, asked: Rerun, facts: Sequence[Fact], *, asked_by: str, why: str
    ) -> RerunAnswer:
        """Start a run that shares what an old one recorded; its journal, ``facts``, is given.

        Raises:
            RequestRefusedError: there is no such step (404), the function is not in force (404),
                or more would be shared than one request may hold (413).
        """
        message, request_id = asked.message(facts, asked_by, why), asked.request_id()
        home = self._home(asked.run)
        repeated = await self._known(home, request_id) is not None
        answer = await self.ask(home, message, request_id)
        _raise_for(answer)
        return RerunAnswer(parse_ulid(str(_body(answer)["run_id"])), repeated)

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
            RequestRefusedError: its partition is stopped, or another process's, or there is none.
        """
        owner = self.owners.get(self._home(run))
        if owner is None:
            raise RequestRefusedError(503, f"partition {home_of(run)} is not here")
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


async def _end_when(left: asyncio.Event) -> None:
    await left.wait()
    raise _Stop
