"""Going on live: memoized up to a step, from there on the bodies of steps run, here and now.

Rules:

* Nobody else hears of it: no engine is behind it. Events and signals are shown, not sent.
* Sleeps and retries do not wait. A wait, a signal or an invocation has the outcome that is
  recorded for it, if one is; without one, the code ends there.
"""

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from stepfold.attempts import Attempt, AttemptRunner, Shared
from stepfold.driver import Life
from stepfold.function import Function
from stepfold.loop import UserLoop
from stepfold.port import Fact, RunBrief
from stepfold.serde import OUTCOME_BYTES_MAX
from stepfold.steps import Body
from stepfold.threads import ThreadPool
from stepfold_engine.replaying.machine import Listener, Machine, Observed, Story, Told
from stepfold_engine.replaying.telling import Recorded, steps_in
from stepfold_engine.replaying.tracing import Heard, Trace
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    OperationsAbandoned,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from stepfold_schemas.events import Event
from stepfold_schemas.reports import (
    AskAbandon,
    AskInvoke,
    AskSignal,
    AskSleep,
    AskTimer,
    AskWait,
    AttemptFailed,
    AttemptSucceeded,
    ReportItem,
    RunDiverged,
    RunRaised,
    RunReturned,
)

THREADS_MAX = 64


class Person(Protocol):
    """Who watches, and says whether a step may run."""

    def may_run(self, attempt: Attempt) -> bool:
        """Say whether the body of a step may run now."""
        ...

    def not_sent(self, what: str) -> None:
        """Hear that something would have been sent."""
        ...

    def again(self, name: str, error: str) -> None:
        """Hear that an attempt failed, and the next one follows at once."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """A run cut in two at a step.

    Attributes:
        story: what comes before.
        live: what the code asked for then from the step on, in order.
        recorded: what the journal says of it, by key.
    """

    story: Story
    live: Sequence[Heard]
    recorded: Mapping[bytes, Recorded]


def cut_at(machine: Machine, story: Story, step: str) -> Cut:
    """Cut a run at a step: what the code asked for before it stays memoized.

    Raises:
        LookupError: this code does not come to the step.
    """
    trace = Trace()
    machine.replay(replace(story, lenient=True), trace)
    if step not in trace.names:
        raise LookupError(f"this code does not come to step '{step}'")
    live = trace.asks[trace.names.index(step) :]
    keys = {heard.key for heard in live}
    # What the code does not ask for any more is not waited for either.
    kept = {heard.key for heard in trace.asks} - keys
    facts = [fact for fact in story.facts if _keys(fact.entry, story.run.run) <= kept]
    recorded = steps_in(story.facts, story.run.run)
    return Cut(replace(story, facts=facts), live, {k: recorded[k] for k in keys if k in recorded})


def _keys(entry: Entry, run: bytes) -> set[bytes]:
    """Return the steps that an entry is about."""
    if isinstance(entry, EventMatched):
        return {ref.step for ref in entry.waits if ref.run == run}
    if isinstance(entry, OperationsAbandoned):
        return set(entry.steps)
    step: bytes = getattr(entry, "step", b"")
    return {step} if step else set()


class Live:
    """Runs a function on from where a cut was made (``driver.Desk``, ``port.EnginePort``)."""

    def __init__(self, function: Function[Any], cut: Cut, person: Person) -> None:
        self._function, self._cut, self._person = function, cut, person
        self.loop = UserLoop()
        self.engine = self
        self.threads = ThreadPool(THREADS_MAX, "stepfold-function")
        self._step_threads = ThreadPool(THREADS_MAX, "stepfold-step")
        self.outcome_bytes_max = OUTCOME_BYTES_MAX
        shared = Shared(self, self._step_threads, OUTCOME_BYTES_MAX)
        self.attempts = AttemptRunner(shared, self.loop, self._body_of)
        self._seq = max(fact.seq for fact in cut.story.facts)
        self._told = Told()
        self._declined = False
        self._life: Life

    def run(self, listener: Listener) -> Told:
        """Run until the code ends, or awaits what nothing here can give it."""
        story = self._cut.story
        run = story.run
        brief = RunBrief(run.run, run.function, 1, story.attempt, story.events, run.started_ms)
        life = self._life = Life(self, self._function, brief, lambda _: self._stop())
        life.replay = Observed(story, listener)
        life.start(story.facts)
        try:
            self.loop.run_forever()
            if self._told.end is None:
                asked = life.replay.asked.values()
                self._told.awaited = [ask for ask in asked if not ask.cancelled]
        finally:
            life.close(self._stop)
            self.attempts.stop(run.run)
            if life.scope.unended():
                self.loop.run_forever()
            self.threads.close()
            self._step_threads.close()
            self.loop.close()
        return self._told

    @property
    def declined(self) -> bool:
        """Whether the person did not let a step run."""
        return self._declined

    def _stop(self) -> None:
        self.loop.call_soon(self.loop.stop, context=contextvars.Context())

    def _body_of(self, attempt: Attempt) -> Body:
        if self._declined or not self._person.may_run(attempt):
            self._declined = True
            self._stop()
            body = attempt.body
            return Body(_never, (), {}, body.policy, None, body.context)
        return attempt.body

    # The desk.

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        return codec.decode_event(data)

    def may_rest(self, life: Life) -> None:
        """Stop: nothing is under way, and nothing more comes."""
        del life
        self._stop()

    def rests(self, life: Life) -> None:
        """Hear that the life is idle; what it reported may have an outcome."""

    # The engine.

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:
        """Answer what the code asks for."""
        del session
        facts: list[Entry] = []
        for item in items:
            if isinstance(item, RunReturned | RunRaised):
                self._told.end = item
            elif isinstance(item, RunDiverged):
                self._told.report = item.report
            elif (entry := self._answer(run, item)) is not None:
                facts.append(entry)
        if facts:
            context = contextvars.Context()
            self.loop.call_soon(self._deliver, run, facts, context=context)

    def _answer(self, run: bytes, item: ReportItem) -> Entry | None:
        """Return what becomes of something that the code reports; None if nothing does."""
        match item:
            case AskSleep(step=step):
                return SleepEnded(run, step)
            case AskTimer(step=step):
                return TimerFired(run, step)
            case AskWait(step=step) | AskSignal(step=step) | AskInvoke(step=step):
                known = self._cut.recorded.get(step)
                return None if known is None else known.outcome
            case AskAbandon(step=step):
                return OperationsAbandoned(run, [step])
            case AttemptSucceeded(step=step, name=name):
                return StepCompleted(run, step, name, item.attempt, item.started_ms, item.data)
            case AttemptFailed():
                return self._failed(run, item)
            case _:
                return None

    def _failed(self, run: bytes, item: AttemptFailed) -> Entry:
        policy = item.policy if item.policy is not None else self._function.spec().retry
        about = (run, item.step, item.name, item.attempt, item.started_ms, item.error)
        if item.permanent or item.attempt > policy.retries:
            return StepFailed(*about)
        self._person.again(item.name, f"{item.error.name}: {item.error.message}")
        return StepAttemptFailed(*about, retry_at_ms=item.started_ms)

    def _deliver(self, run: bytes, entries: Sequence[Entry]) -> None:
        now_ms = self.loop.now_ms()
        self._seq += 1
        facts = [Fact(self._seq, place, now_ms, entry) for place, entry in enumerate(entries)]
        for entry in entries:
            if isinstance(entry, StepCompleted | StepFailed | StepAttemptFailed):
                self.attempts.settled(run, entry.step, entry.attempt)
        self._life.receive(facts)
        for entry in entries:
            if isinstance(entry, StepAttemptFailed):
                self._life.retry(entry.step, entry.attempt + 1)

    def missing(self, run: bytes) -> None:
        """Hear that the run's code is not in memory."""

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Show events, and send none."""
        for event in events:
            self._person.not_sent(f"event {event.name} {event.data.decode()}")
        return [event.id for event in events]

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:
        """Show a signal, and send none."""
        del request
        self._person.not_sent(f"signal {signal} {data.decode()}")
        return None


async def _never(*_: Any, **__: Any) -> None:
    await asyncio.get_running_loop().create_future()
