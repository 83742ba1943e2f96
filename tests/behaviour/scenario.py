"""Runs an app on the whole engine, in one thread and in virtual time, on any log.

A test is written once and holds on every variant: each log, replay forced at every step or not,
one partition or several. A sleep of three days takes microseconds.
"""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import stepfold
from stepfold.crew import WorkerSettings
from stepfold.serving import serves_of
from stepfold.virtual import VirtualLoop
from stepfold.worker import NativeWorker
from stepfold_engine.log.base import JOURNAL, Log
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_engine.readers import event_record
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    CronFired,
    Decision,
    Entry,
    EventMatched,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    RunStopped,
    SignalHeld,
    StepAttemptFailed,
    StepCompleted,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import ulid_text
from tests.parts.afar import AfarLog

_T = TypeVar("_T")
EPOCH_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Variant:
    """One way to run the engine. The servers are those of the broker, if the log is on Kafka."""

    log: str
    replay: bool
    partitions: int
    servers: str = ""

    def __str__(self) -> str:
        return f"{self.log}-{'replay' if self.replay else 'hot'}-p{self.partitions}"


VARIANTS = [
    Variant(log, replay, partitions)
    for log in ("memory", "embedded")
    for replay in (False, True)
    for partitions in (1, 4)
]
ON_KAFKA = [
    Variant("kafka", replay, partitions) for replay in (False, True) for partitions in (1, 4)
]


@dataclass
class RunRecord:
    """What the journal says of a run."""

    id: bytes
    function: str
    entries: list[Entry] = field(default_factory=list[Entry])
    at_ms: list[int] = field(default_factory=list[int])

    @property
    def text(self) -> str:
        return ulid_text(self.id)

    @property
    def end(self) -> Entry | None:
        ends = [e for e in self.entries if isinstance(e, RunCompleted | RunFailed | RunCancelled)]
        assert len(ends) <= 1, "a run's end is recorded once"
        return ends[0] if ends else None

    @property
    def result(self) -> Any:
        end = self.end
        assert isinstance(end, RunCompleted), end
        return json.loads(end.data)

    @property
    def error(self) -> str:
        end = self.end
        assert isinstance(end, RunFailed), end
        return f"{end.error.name}: {end.error.message}"

    @property
    def status(self) -> str:
        if any(isinstance(e, RunStopped) for e in self.entries) and self.end is None:
            return "stopped"
        names: dict[type[Entry], str] = {
            RunCompleted: "completed",
            RunFailed: "failed",
            RunCancelled: "cancelled",
        }
        return "running" if self.end is None else names[type(self.end)]

    @property
    def started_ms(self) -> int:
        return self.at_ms[0] - EPOCH_MS

    @property
    def ended_ms(self) -> int:
        return self.at_ms[-1] - EPOCH_MS

    @property
    def steps(self) -> list[str]:
        return [e.name for e in self.entries if isinstance(e, StepCompleted)]

    def outcome(self, step: str) -> Any:
        (data,) = [e.data for e in self.entries if isinstance(e, StepCompleted) and e.name == step]
        return json.loads(data)

    def failed_attempts(self, step: str) -> int:
        return len([e for e in self.entries if isinstance(e, StepAttemptFailed) and e.name == step])


class Scenario:
    """An app on an engine. Every method runs the loop until what it asks for is there."""

    def __init__(
        self, variant: Variant, app: stepfold.App, folder: Path, settings: dict[str, Any]
    ) -> None:
        self.variant, self.app, self.folder = variant, app, folder
        self.loop = VirtualLoop(EPOCH_MS)
        self.clock = self.loop
        looking = {"look_at_clock_every_ms": 10**12}
        self.settings = Settings(always_replay=variant.replay, **(looking | settings))
        self.runs: dict[bytes, RunRecord] = {}
        self.decisions: list[tuple[int, Decision]] = []
        self._changed = asyncio.Event()
        self._appended = 0
        self.log: Log = self._open_log()
        self.complete = True
        self.serves: set[str] = set()
        self._zombies: list[tuple[Node, NativeWorker, asyncio.Task[None]]] = []
        self._main: asyncio.Task[None] | None = None
        self.node: Node
        self.worker: NativeWorker

    def _open_log(self) -> Log:
        if self.variant.log == "memory":
            return MemoryLog(self.variant.partitions, self.clock.now_ms)
        if self.variant.log == "kafka":
            return AfarLog.connect(self.loop, self.variant.servers, self.variant.partitions)
        return EmbeddedLog.open(
            self.folder / "log", self.variant.partitions, self.clock.now_ms, reserve_bytes=1 << 20
        )

    def do(self, work: Coroutine[Any, Any, _T], minutes: float = 600_000) -> _T:
        """Run the loop until this is done; virtual time is bounded."""

        async def bounded() -> _T:
            async with asyncio.timeout(minutes * 60):
                return await work

        return self.loop.run_until_complete(bounded())

    # The engine's life.

    def start(self) -> None:
        ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._main = self.loop.create_task(self._live(ready))

        async def wait() -> None:
            waiter = asyncio.ensure_future(ready.wait())
            assert self._main is not None
            await asyncio.wait({waiter, self._main}, return_when=asyncio.FIRST_COMPLETED)
            if self._main.done():
                self._main.result()

        self.do(wait())

    async def _live(self, ready: asyncio.Event) -> None:
        self.node = Node(self.log, self.clock, CelMatching(), self.settings)
        self.node.watchers.append(self)
        async with self.node.running(self._make_worker):
            await self.declare()
            self.node.resume()
            ready.set()
            await self._stop.wait()
            self.worker.close()

    def _make_worker(self, native: Native) -> NativeWorker:
        settings = WorkerSettings(always_replay=self.settings.always_replay)
        self.worker = NativeWorker(
            self.app.functions, native, decode_event=codec.decode_event, settings=settings
        )
        self.worker.run_inline(self.loop)
        native.serves = serves_of(lambda: self.app.functions, self.serves)
        return self.worker

    async def declare(self) -> None:
        specs = [f.spec() for f in self.app.functions.values()]
        if self.complete:
            await self.node.declare(self.app.id, specs, complete=True, forced=True)

    def stop(self) -> None:
        """Stop cleanly."""
        self._stop.set()
        if self._main is not None:
            self.do(_ended(self._main))
            self._main = None

    def crash(self) -> None:
        """Stop at once: nothing is released, nothing under way is finished."""
        self.node.crash()
        self.worker.close()
        assert self._main is not None
        self._main.cancel()
        self.do(_ended(self._main))
        self._main = None
        if isinstance(self.log, EmbeddedLog):
            self.do(self.log.close())
            self.log = self._open_log()
        elif isinstance(self.log, AfarLog):
            self.do(self.log.reconnect())

    def restart(self) -> None:
        """Crash, and start again on the same log."""
        self.crash()
        self.start()

    def takeover(self) -> None:
        """Start a second process on the log while the first, which does not know, goes on."""
        assert self._main is not None
        self._zombies.append((self.node, self.worker, self._main))
        self.start()

    def _bury(self) -> None:
        for node, worker, main in self._zombies:
            node.crash()
            worker.close()
            main.cancel()
            self.do(_ended(main))
        self._zombies.clear()

    def close(self) -> None:
        self._bury()
        if self._main is not None:
            self.stop()
        self.do(self.log.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    # What a test does and sees.

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a confirmed decision (``effects.Watcher``)."""
        self.decisions.append((owner.state.number, decision))
        for entry in decision.entries:
            runs = (
                [ref.run for ref in entry.waits]
                if isinstance(entry, EventMatched)
                else [getattr(entry, "run", b"")]
            )
            for run in runs:
                if isinstance(entry, RunStarted):
                    self.runs[run] = RunRecord(run, entry.function)
                if run in self.runs and not isinstance(entry, SignalHeld | CronFired):
                    self.runs[run].entries.append(entry)
                    self.runs[run].at_ms.append(decision.at_ms)
        self._changed.set()

    def send(self, name: str, data: dict[str, Any] | None = None, **more: Any) -> str:
        """Publish an event; return its internal id."""
        event = Event(name, json.dumps(data or {}).encode(), **more)
        return self.do(self.node.publish([event]))[0]

    def append_while_down(self, name: str, data: dict[str, Any]) -> None:
        """Append an event to the log while no engine runs, as another producer would."""
        self._appended += 1
        internal = ulid_text(self._appended.to_bytes(16))
        event = Event(name, json.dumps(data).encode(), internal=internal)
        self.do(self.log.append("events", 0, [event_record(event)]))

    def of(self, function: str) -> list[RunRecord]:
        """Return the runs of a function, in the order of their start."""
        return [r for r in self.runs.values() if r.function == f"{self.app.id}-{function}"]

    async def _until(self, found: "Any") -> None:
        while not found():
            self._changed.clear()
            await self._changed.wait()

    def until(self, found: "Any", minutes: float = 600_000) -> None:
        """Run until a condition over what is recorded holds."""
        self.do(self._until(found), minutes)

    def run(self, name: str, data: dict[str, Any] | None = None, **more: Any) -> RunRecord:
        """Publish an event and run until the one run that it starts has ended."""
        before = set(self.runs)
        self.send(name, data, **more)

        def mine() -> list[RunRecord]:
            return [r for k, r in self.runs.items() if k not in before]

        self.until(lambda: mine() and mine()[0].end is not None)
        return mine()[0]

    def start_run(self, name: str, data: dict[str, Any] | None = None, **more: Any) -> RunRecord:
        """Publish an event and run until the one run that it starts exists."""
        before = set(self.runs)
        self.send(name, data, **more)
        self.until(lambda: any(k not in before for k in self.runs))
        return next(r for k, r in self.runs.items() if k not in before)

    def ended(self, run: RunRecord) -> RunRecord:
        """Run until a run has ended (or was stopped)."""
        self.until(lambda: self.runs[run.id].status != "running")
        return self.runs[run.id]

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.do(asyncio.sleep(seconds))

    def signal(self, name: str, data: Any = None) -> str | None:
        run = self.do(self.node.signal(name, json.dumps(data).encode()))
        return None if run is None else ulid_text(run)

    def journal(self, partition: int = 0) -> list[Decision]:
        """Return all decisions in a partition's journal, void ones too."""

        async def read() -> list[Decision]:
            bounds = await self.log.bounds(JOURNAL, partition)
            offset, found = bounds.start, list[Decision]()
            while offset < bounds.end:
                batch = await self.log.read(JOURNAL, partition, offset)
                found += [codec.decode_decision(r.value) for r in batch.records]
                offset = batch.next_offset
            return found

        return self.do(read())


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is not None:
        task.result()


@contextmanager
def scenario(
    variant: Variant, app: stepfold.App, folder: Path, **settings: Any
) -> Iterator[Scenario]:
    """Run an app on an engine while the block runs."""
    found = Scenario(variant, app, folder, settings)
    try:
        found.start()
        yield found
    finally:
        found.close()
