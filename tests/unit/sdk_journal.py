"""A journal keeper for tests of the SDK: the engine's side of the port, in memory and virtual time.

It records entries per run in order, gives them sequence numbers, delivers them as facts a moment
later (an append takes time), fires timers, matches events by name and one path, and can crash: a
new worker is made, the old one's reports are ignored, and every unfinished run is replayed.
"""

import asyncio
import contextvars
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from stepfold.app import App
from stepfold.crew import WorkerSettings
from stepfold.port import Fact, RunBrief
from stepfold.virtual import VirtualLoop
from stepfold.worker import NativeWorker
from stepfold_schemas import codec, entries, reports
from stepfold_schemas.entries import Condition, Entry, Error, RetryPolicy, WaitRef
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_id, run_key, ulid_text

APPEND_S = 0.002


@dataclass
class Run:
    id: bytes
    function: str
    events: list[Event]
    started_ms: int
    retry: RetryPolicy
    facts: list[Fact] = field(default_factory=list[Fact])
    session: int = 0
    attempt: int = 1
    parked: bool = False
    operations: dict[bytes, tuple[str, int]] = field(default_factory=dict[bytes, tuple[str, int]])
    waits: dict[bytes, reports.AskWait] = field(default_factory=dict[bytes, reports.AskWait])
    signals: dict[bytes, str] = field(default_factory=dict[bytes, str])
    done: set[bytes] = field(default_factory=set[bytes])
    received: set[str] = field(default_factory=set[str])
    due: dict[bytes, int] = field(default_factory=dict[bytes, int])
    retry_pending: bool = False
    end: Entry | None = None
    invoker: tuple[bytes, bytes] | None = None

    @property
    def text(self) -> str:
        return ulid_text(self.id)

    @property
    def entries(self) -> list[Entry]:
        return [fact.entry for fact in self.facts]

    @property
    def result(self) -> Any:
        assert isinstance(self.end, entries.RunCompleted), f"the run did not complete: {self.end}"
        return json.loads(self.end.data)

    @property
    def report(self) -> dict[str, Any]:
        assert isinstance(self.end, entries.RunStopped), f"the run was not stopped: {self.end}"
        report: dict[str, Any] = json.loads(self.end.report)
        return report

    @property
    def error(self) -> Error:
        assert isinstance(self.end, entries.RunFailed), f"the run did not fail: {self.end}"
        return self.end.error

    def named(self, kind: type[Entry]) -> list[str]:
        return [getattr(e, "name", "") for e in self.entries if isinstance(e, kind)]


class _Port:
    """What one worker reports to; after a crash nobody listens."""

    def __init__(self, journal: "Journal") -> None:
        self.journal: Journal | None = journal

    def report(self, run: bytes, session: int, items: Sequence[reports.ReportItem]) -> None:
        if self.journal is not None:
            self.journal.take(run, session, items)

    def missing(self, run: bytes) -> None:
        if self.journal is not None:
            self.journal.begin(run)

    async def publish(self, events: Sequence[Event]) -> list[str]:
        await asyncio.sleep(APPEND_S)
        assert self.journal is not None
        return [self.journal.publish(event) for event in events]

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:
        await asyncio.sleep(APPEND_S)
        assert self.journal is not None
        return self.journal.signal(signal, data, request)


class Journal:
    """Keeps the journals of an app's runs.

    Args:
        crash_after: crash when so many entries of runs have been recorded, before they are
            delivered.
    """

    def __init__(
        self,
        app: App,
        *,
        always_replay: bool = False,
        crash_after: int = 0,
        settings: WorkerSettings | None = None,
        loop: VirtualLoop | None = None,
    ) -> None:
        self.app = app
        self.loop = loop or VirtualLoop()
        self.settings = replace(settings or WorkerSettings(), always_replay=always_replay)
        self.crash_after = crash_after
        self.runs: dict[bytes, Run] = {}
        self.published: list[Event] = []
        self.requests: dict[bytes, bytes | None] = {}
        self.reported: list[tuple[bytes, Sequence[reports.ReportItem]]] = []
        self.missed: list[bytes] = []
        self.seq = 0
        self.recorded = 0
        self.sessions = 0
        self.crashes = 0
        self._recorded: deque[tuple[_Port, Run, list[Fact]]] = deque()
        self._context = contextvars.Context()
        self._new_worker()

    def _new_worker(self) -> None:
        self.port = _Port(self)
        self.worker = NativeWorker(
            dict(self.app.functions),
            self.port,
            decode_event=codec.decode_event,
            settings=self.settings,
        )
        self.worker.run_inline(self.loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.port.journal = None
        self.worker.close()
        self.settle(30)
        self.loop.close()

    # What tests do.

    def start(self, function: str, data: Mapping[str, Any] | None = None, **more: Any) -> Run:
        """Start a run of a function by its short id."""
        full = f"{self.app.id}-{function}"
        event = Event(
            more.pop("name", f"test/{function}"),
            json.dumps(data or {}).encode(),
            more.pop("id", f"event-{len(self.runs)}"),
            self.loop.now_ms(),
        )
        return self.start_run(full, event)

    def until(self, condition: Callable[[], object], step: float = APPEND_S) -> None:
        """Turn the loop until a condition holds; look at it every ``step`` seconds."""

        async def wait() -> None:
            for _ in range(100_000):
                if condition():
                    return
                await asyncio.sleep(step)
            raise AssertionError("it did not come to pass")

        self.loop.run_until_complete(wait())

    def finish(self, run: Run) -> Run:
        """Turn the loop until a run has ended or was stopped."""
        ended = asyncio.Event()
        self._on_end = ended.set
        if run.end is None:

            async def wait() -> None:
                while run.end is None:
                    ended.clear()
                    await ended.wait()

            self.loop.run_until_complete(wait())
        return run

    _on_end: Callable[[], None] = staticmethod(lambda: None)

    def settle(self, seconds: float = 0.1) -> None:
        """Let virtual time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def crash(self) -> None:
        """Lose the worker and everything that was reported but not recorded."""
        self.crashes += 1
        self.port.journal = None
        self.worker.close()
        self._new_worker()
        for run in self.runs.values():
            if run.end is None and not run.retry_pending:
                self.begin(run.id)
        self._on_end()

    def replay(self) -> None:
        """Start all unfinished runs again, as if their partition had been won back."""
        for run in self.runs.values():
            if run.end is None:
                self.begin(run.id)

    def resume(self, run: Run) -> None:
        """Let a stopped run go on."""
        run.end = None
        self.begin(run.id)

    def use(self, app: App) -> None:
        """Crash, and come back with other code."""
        self.app = app
        self.crash()

    # The engine's side.

    def start_run(
        self, function: str, event: Event, invoker: tuple[bytes, bytes] | None = None
    ) -> Run:
        key = run_key(0, function, event.id)
        id_ = run_id(self.loop.now_ms(), key)
        policy = self.app.functions[function].spec().retry
        run = Run(id_, function, [event], self.loop.now_ms(), policy, invoker=invoker)
        if id_ in self.runs:
            return self.runs[id_]
        self.runs[id_] = run
        self.begin(id_)
        return run

    def begin(self, run_id_: bytes) -> None:
        run = self.runs[run_id_]
        self.missed.append(run_id_)
        if run.end is not None:
            return
        self.sessions += 1
        run.session = self.sessions
        brief = RunBrief(
            run.id,
            run.function,
            run.session,
            run.attempt,
            run.events,
            run.started_ms,
            dict(run.due),
        )
        self.worker.start(brief, list(run.facts))

    def take(self, run_id_: bytes, session: int, items: Sequence[reports.ReportItem]) -> None:
        run = self.runs[run_id_]
        self.reported.append((run_id_, items))
        if session != run.session:
            items = [i for i in items if type(i).__name__.startswith("Attempt")]
        if run.end is not None:
            return
        made: list[Entry] = []
        for item in items:
            made += _decide(self, run, item)
        self.record(run, made)

    def record(self, run: Run, made: Sequence[Entry]) -> None:
        if not made:
            return
        self.seq += 1
        facts = [
            Fact(self.seq, place, self.loop.now_ms(), entry) for place, entry in enumerate(made)
        ]
        run.facts += facts
        self.recorded += len(made)
        if self.crash_after and self.recorded >= self.crash_after:
            self.crash_after = 0
            self.later(0, self.crash)
            return
        # The loop may turn timers of the same moment round; facts come in the journal's order.
        self._recorded.append((self.port, run, facts))
        self.later(APPEND_S, self._deliver)

    def _deliver(self) -> None:
        port, run, facts = self._recorded.popleft()
        if port.journal is None:
            return
        if run.end is not None and not isinstance(run.end, entries.RunStopped):
            self.worker.stop(run.id)
            self._on_end()
        elif run.end is None:
            self.worker.deliver(run.id, facts)
        else:
            self._on_end()

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self._context.run(self.loop.call_later, seconds, call)

    def at(self, due_ms: int, call: Callable[[], object]) -> None:
        self.later(max(0, due_ms - self.loop.now_ms()) / 1000, call)

    def retry_step(self, run: Run, step: bytes, attempt: int) -> None:
        run.due[step] = attempt
        if run.end is None:
            self.worker.retry(run.id, step, attempt)

    def retry_run(self, run: Run) -> None:
        run.retry_pending = False
        if run.end is None:
            self.worker.retry(run.id, b"", run.attempt)

    def fire(self, run: Run, step: bytes, entry: Entry) -> None:
        if run.end is None and step in run.operations and step not in run.done:
            run.done.add(step)
            del run.operations[step]
            run.waits.pop(step, None)
            run.signals.pop(step, None)
            self.record(run, [entry])

    def cancel(self, run: Run) -> None:
        self.end(run, entries.RunCancelled(run.id, "test"))

    def end(self, run: Run, entry: Entry) -> None:
        run.end = entry
        self.record(run, [entry])
        if run.invoker is not None:
            caller, step = self.runs[run.invoker[0]], run.invoker[1]
            match entry:
                case entries.RunCompleted():
                    self.fire(caller, step, entries.InvokeCompleted(caller.id, step, entry.data))
                case entries.RunFailed():
                    self.fire(caller, step, entries.InvokeFailed(caller.id, step, entry.error))
                case _:
                    error = Error("RunCancelledError", "the invoked run was cancelled")
                    self.fire(caller, step, entries.InvokeFailed(caller.id, step, error))

    def publish(self, event: Event) -> str:
        if event not in self.published:
            self.published.append(event)
        for run in list(self.runs.values()):
            for step, wait in list(run.waits.items()):
                if _matches(run, wait, event) and event.id not in run.received:
                    run.received.add(event.id)
                    data = codec.encode(event)
                    matched = entries.EventMatched(data, event.id, [WaitRef(run.id, step)])
                    self.fire(run, step, matched)
        for function in self.app.functions.values():
            if any(t.event == event.name for t in function.spec().triggers):
                self.start_run(function.id, event)
        return f"internal-{event.id}"

    def signal(self, name: str, data: bytes, request: bytes) -> bytes | None:
        if request in self.requests:
            return self.requests[request]
        self.requests[request] = None
        for run in self.runs.values():
            for step, waited in list(run.signals.items()):
                if waited == name:
                    self.requests[request] = run.id
                    self.fire(run, step, entries.SignalReceived(run.id, step, data))
                    return run.id
        return None


def _matches(run: Run, wait: reports.AskWait, event: Event) -> bool:
    if wait.event != event.name:
        return False
    if not wait.match:
        return True
    a: Any = {"data": json.loads(run.events[0].data)}
    b: Any = {"data": json.loads(event.data)}
    for part in wait.match.split("."):
        a, b = a.get(part), b.get(part)
    return bool(a == b)


def _decide(journal: Journal, run: Run, item: reports.ReportItem) -> list[Entry]:
    now = journal.loop.now_ms()
    match item:
        case reports.AttemptSucceeded() | reports.AttemptFailed():
            return _attempt(journal, run, item)
        case reports.AttemptRunning():
            if item.step in run.done:
                return []
            run.operations.setdefault(item.step, ("running", 0))
            return [
                entries.AttemptStarted(run.id, item.step, item.name, item.attempt, item.started_ms)
            ]
        case reports.AskAbandon():
            if item.step in run.done:
                return []
            run.done.add(item.step)
            run.operations.pop(item.step, None)
            run.waits.pop(item.step, None)
            run.signals.pop(item.step, None)
            return [entries.OperationsAbandoned(run.id, [item.step])]
        case reports.RunIdle():
            run.parked = True
            return []
        case reports.VersionAsked():
            return [entries.VersionChosen(run.id, item.name, item.chosen)]
        case reports.RunReturned():
            journal.end(run, entries.RunCompleted(run.id, item.data))
            return []
        case reports.RunRaised():
            return _raised(journal, run, item)
        case reports.RunDiverged():
            run.end = entries.RunStopped(run.id, item.report)
            journal.record(run, [run.end])
            run.facts.pop()
            return []
        case _:
            if item.step in run.done or item.step in run.operations:
                return []
            return _begun(journal, run, item, now)


def _begun(journal: Journal, run: Run, item: Any, now: int) -> list[Entry]:
    step, name = item.step, item.name
    entry: Entry
    outcome: Entry
    match item:
        case reports.AskSleep():
            due = item.until_ms or now + item.duration_ms
            entry = entries.SleepBegan(run.id, step, name, due)
            outcome = entries.SleepEnded(run.id, step)
        case reports.AskTimer():
            due = now + item.delay_ms
            entry = entries.TimerSet(run.id, step, name, due)
            outcome = entries.TimerFired(run.id, step)
        case reports.AskWait():
            due = now + item.timeout_ms
            entry = entries.WaitBegan(run.id, step, name, Condition(item.event), due, 0)
            outcome = entries.WaitTimedOut(run.id, step)
            run.waits[step] = item
        case reports.AskSignal():
            due = now + item.timeout_ms
            holder = next(
                (r for r in journal.runs.values() if item.signal in r.signals.values()), None
            )
            entry = entries.SignalWaitBegan(run.id, step, name, item.signal, due, item.on_conflict)
            outcome = entries.SignalWaitEnded(run.id, step, "timed-out", b"")
            if holder is not None and item.on_conflict == "fail":
                run.operations[step] = ("signal", due)
                refused = entries.SignalWaitEnded(run.id, step, "refused", holder.id)
                journal.later(APPEND_S, lambda: journal.fire(run, step, refused))
                return [entry]
            if holder is not None:
                for key in [k for k, v in holder.signals.items() if v == item.signal]:
                    del holder.signals[key]
            run.signals[step] = item.signal
        case reports.AskInvoke():
            due = now + item.timeout_ms
            entry = entries.InvokeBegan(run.id, step, name, item.function, due)
            late = Error("InvokeTimeoutError", f"{item.function} did not end in time")
            outcome = entries.InvokeFailed(run.id, step, late)
            event = Event("stepfold/function.invoked", item.data, f"{run.text}:{step.hex()}", now)
            if item.function in journal.app.functions:
                journal.later(
                    APPEND_S, lambda: journal.start_run(item.function, event, (run.id, step))
                )
        case _:
            raise AssertionError(item)
    run.operations[step] = (type(item).__name__, due)
    journal.at(due, lambda: journal.fire(run, step, outcome))
    return [entry]


def _attempt(
    journal: Journal, run: Run, item: reports.AttemptSucceeded | reports.AttemptFailed
) -> list[Entry]:
    if item.step in run.done:
        return []
    kind, failed = run.operations.get(item.step, ("", 0))
    current = failed + 1 if kind == "step" else max(failed, 1)
    if item.attempt != current:
        return []
    if isinstance(item, reports.AttemptSucceeded):
        run.done.add(item.step)
        run.operations.pop(item.step, None)
        return [
            entries.StepCompleted(
                run.id, item.step, item.name, item.attempt, item.started_ms, item.data
            )
        ]
    policy = item.policy or run.retry
    if item.permanent or item.attempt > policy.retries:
        run.done.add(item.step)
        run.operations.pop(item.step, None)
        return [
            entries.StepFailed(
                run.id, item.step, item.name, item.attempt, item.started_ms, item.error
            )
        ]
    run.operations[item.step] = ("step", item.attempt)
    delay = item.retry_after_ms
    if delay < 0:
        delay = int(policy.delay_ms * policy.factor ** (item.attempt - 1))
    due = journal.loop.now_ms() + delay
    journal.at(due, lambda: journal.retry_step(run, item.step, item.attempt + 1))
    return [
        entries.StepAttemptFailed(
            run.id, item.step, item.name, item.attempt, item.started_ms, item.error, due
        )
    ]


def _raised(journal: Journal, run: Run, item: reports.RunRaised) -> list[Entry]:
    if item.attempt != run.attempt:
        return []
    if item.permanent or item.attempt > run.retry.retries:
        journal.end(run, entries.RunFailed(run.id, item.error))
        return []
    run.attempt += 1
    run.retry_pending = True
    delay = item.retry_after_ms if item.retry_after_ms >= 0 else run.retry.delay_ms
    due = journal.loop.now_ms() + delay
    journal.at(due, lambda: journal.retry_run(run))
    return [entries.RunAttemptFailed(run.id, item.attempt, item.error, due)]
