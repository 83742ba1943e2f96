"""Lives: a process with the engine and an app's code in it, from its start to its end or death.

Everything of it happens on one virtual loop. A process that dies is left as it is, in the midst of
what it did, until the test is over: what its code would do when it is ended in order (``finally``
blocks) must not be seen by a test that looks at what a crash leaves.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from stepfold import asked
from stepfold.attempts import Attempt
from stepfold.crew import WorkerSettings
from stepfold.function import Function
from stepfold.serving import serves_of
from stepfold.steps import CURRENT, Body
from stepfold.testing.bodies import Bodies
from stepfold.testing.loop import END_S_MAX, KitLoop
from stepfold.testing.points import AppendPoint, BodyPoint, Points
from stepfold.testing.witness import Witness
from stepfold.worker import NativeWorker
from stepfold_engine.log.base import JOURNAL, Batch, Bounds, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.ownership import Claimant
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, EventMatched
from stepfold_schemas.events import Event
from stepfold_schemas.reports import ReportItem, RunRaised, RunReturned

T = TypeVar("T")

MATCHING = CelMatching()
"""Shared: it is pure, and compiling an expression takes longer than most tests."""


@dataclass(frozen=True, slots=True)
class Cast:
    """What all processes of an environment have in common.

    Attributes:
        app: the app's id.
        functions: its functions by full id.
        settings: of the engine.
        witness: who sees what lands in the log.
        bodies: who chooses what attempts run.
        points: who says where a process dies.
    """

    app: str
    functions: Mapping[str, Function[Any]]
    settings: Settings
    witness: Witness
    bodies: Bodies
    points: Points


class Life:
    """One process.

    Attributes:
        number: which process of the environment it is, from 1.
        loop: where everything of it happens.
        dead: it was killed.
        armed: it may die at points.
    """

    def __init__(self, cast: Cast, log: MemoryLog, loop: KitLoop, number: int) -> None:
        self._cast, self.loop, self.number = cast, loop, number
        self.log = log
        self.dead = self.armed = self._closing = False
        self._appends = 0
        self._stop = asyncio.Event()
        self._worker: NativeWorker | None = None
        claimant = Claimant("test", f"life-{number}", _entropy(number))
        lifeline = Lifeline(self, cast.witness)
        self.node = Node(lifeline, loop, MATCHING, cast.settings, claimant=claimant)
        self.main = loop.create_task(self._live())

    async def _live(self) -> None:
        cast = self._cast
        async with self.node.running(self._make_worker):
            specs = [function.spec() for function in cast.functions.values()]
            await self.node.declare(cast.app, specs, complete=True, forced=True)
            self.node.resume()
            self.armed = True
            await self._stop.wait()
            if self._worker is not None:
                self._worker.close()

    def _make_worker(self, native: Native) -> NativeWorker:
        settings = self._cast.settings
        given = WorkerSettings(
            always_replay=settings.always_replay,
            outcome_bytes_max=settings.outcome_bytes_max,
            body_of=self._body_of,
        )
        functions = self._cast.functions
        port = Listening(native, self._cast.bodies)
        worker = NativeWorker(functions, port, decode_event=codec.decode_event, settings=given)
        worker.run_inline(self.loop)
        native.serves = serves_of(lambda: functions)
        self._worker = worker
        return worker

    def _body_of(self, attempt: Attempt) -> Body:
        return self._cast.bodies.choose(self, attempt)

    def check(self) -> None:
        """Raise what ended it, if it did not live to the end of the test.

        Raises:
            EngineError: the engine refused something, such as an option of a function.
        """
        if self.main.done():
            self.main.result()
            raise AssertionError("the engine ended by itself; this is a bug")

    # Its death.

    def reach(self, point: AppendPoint | BodyPoint, shown: str) -> bool:
        """Say whether the process dies at a point."""
        alive = self.armed and not self.dead and not self._closing
        return alive and self._cast.points.reach(point, shown)

    def die(self) -> None:
        """Die at once: nothing of it runs any more, nothing that it appends is written."""
        if self.dead or self._closing:
            return
        self.dead = True
        self.loop.freeze()
        self._cast.bodies.forget(self.number)

    def next_append(self) -> int:
        """Count an append."""
        self._appends += self.armed
        return self._appends

    # Its end.

    def close(self) -> None:
        """End it in order: all its tasks and threads."""
        self._closing = True
        if self.dead:
            self.loop.thaw()
        if self._worker is None or self.dead:
            self.node.crash()
            # Else what its code still says would wake runs, in an engine that is ending.
            self.node.owners.clear()
            if self._worker is not None:
                self._worker.close()
            self.main.cancel()
        else:
            self._stop.set()
        self.loop.complete(self._ended())
        self.loop.end()

    async def _ended(self) -> None:
        await asyncio.wait({self.main}, timeout=END_S_MAX)


class Listening:
    """The engine as the worker sees it (``EnginePort``); notes what code asks for on the way."""

    def __init__(self, native: Native, bodies: Bodies) -> None:
        self._native, self._bodies = native, bodies

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:
        """Pass a report on."""
        if (notes := self._bodies.notes) is not None:
            for item in items:
                if isinstance(item, RunReturned | RunRaised):
                    notes.ends[run] = asked.of_end(item)
                elif (found := asked.of_report(item)) is not None:
                    self._bodies.note(run, found[0], str, found[1])
        self._native.report(run, session, items)

    def missing(self, run: bytes) -> None:
        """Pass on that a run is not in memory."""
        self._native.missing(run)

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Pass events on that a step sends."""
        self._note(asked.of_events, events)
        return await self._native.publish(events)

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:
        """Pass a signal on that a step sends."""
        self._note(lambda name: asked.of_signal(name, data), signal)
        return await self._native.signal(signal, data, request)

    def _note(self, text_of: Callable[[T], str], what: T) -> None:
        current = CURRENT.get()
        if current is not None:
            self._bodies.note(current.run, current.name, text_of, what)


class Lifeline:
    """A process's way to the log (``log.base.Log``). It is cut when the process dies."""

    def __init__(self, life: Life, witness: Witness) -> None:
        self._life, self._log, self._witness = life, life.log, witness

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return await self._log.partitions(topic)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records, or the first of them if the process dies here."""
        life = self._life
        await self._reachable()
        number = life.next_append()
        for landed in range(len(records) + 1):
            shown = _shown(topic, records, number, landed)
            if life.reach(AppendPoint(number, landed), shown):
                life.die()
                if landed:
                    self._land(topic, partition, records[:landed])
                await self._reachable()
        offset = self._land(topic, partition, records)
        await asyncio.sleep(0)
        await self._reachable()
        return offset

    def _land(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        offset = self._log.put(topic, partition, records)
        at_ms = self._life.loop.now_ms()
        self._witness.landed(topic, partition, offset, records, at_ms)
        return offset

    async def _reachable(self) -> None:
        if self._life.dead:
            await asyncio.get_running_loop().create_future()

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset."""
        return await self._log.read(topic, partition, offset, bytes_max=bytes_max, wait_ms=wait_ms)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        return await self._log.bounds(topic, partition)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        return await self._log.offset_at(topic, partition, at_ms)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset."""
        await self._log.trim(topic, partition, before)

    async def close(self) -> None:
        """Refuse further appends."""
        await self._log.close()


def _entropy(number: int) -> Callable[[int], bytes]:
    """Return a source of bytes that is the same in every test, and another in every process."""
    counted = count()
    return lambda size: hashlib.sha512(f"{number}/{next(counted)}".encode()).digest()[:size]


def _shown(topic: str, records: Sequence[NewRecord], number: int, landed: int) -> str:
    if topic == JOURNAL:
        decisions = [codec.decode_decision(record.value) for record in records]
        what = ", ".join(name for name in map(_named, decisions) if name) or "read positions"
    else:
        what = f"{len(records)} of the {topic}"
    if landed == 0:
        return f"before append {number} to the log ({what})"
    if landed == len(records):
        return f"after append {number} to the log ({what}), before anything follows from it"
    return f"in append {number} to the log ({what}): {landed} of {len(records)} records written"


def _named(decision: Decision) -> str:
    """Name the entries of a decision that matter to a reader."""
    return " + ".join(
        type(entry).__name__ + (f" {name!r}" if (name := getattr(entry, "name", "")) else "")
        for entry in decision.entries
        if hasattr(entry, "run") or isinstance(entry, EventMatched)
    )
