"""The machine: one life of a run's code against its history, on a loop that stops by itself.

It is the worker's own machine (``stepfold.driver.Life``, ``stepfold.replay.Replay``) without an
engine behind it: what the code asks for is noted, and not done.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

from stepfold.asks import Pending, TimerAsk
from stepfold.attempts import Attempt, AttemptRunner, Shared, own_body
from stepfold.divergence import line_of
from stepfold.driver import Life
from stepfold.function import Function
from stepfold.port import Fact, RunBrief
from stepfold.replay import Ask, Outcome, Replay
from stepfold.serde import OUTCOME_BYTES_MAX
from stepfold.threads import ThreadPool
from stepfold_engine.recordings import ENDS, facts_in
from stepfold_engine.replaying.frames import Owns, caller, own_frame
from stepfold_engine.replaying.loop import ReplayLoop
from stepfold_schemas import codec
from stepfold_schemas.entries import RunAttemptFailed, RunResumed, RunStarted, RunStopped
from stepfold_schemas.events import Event
from stepfold_schemas.reports import ReportItem, RunDiverged, RunRaised, RunReturned
from stepfold_schemas.runfile import ExportedRun

_NOT_SEEN = (*ENDS, RunStopped, RunResumed)
"""What a journal says of the run, but not to its code."""

THREADS_MAX = 1_000


class Listener(Protocol):
    """Hears what the code does, while it does it."""

    def named(self, name: str) -> None:
        """The code is about to use a step of this name; it stands at the call."""
        ...

    def asked(self, ask: Ask) -> None:
        """The code asks for something durable."""
        ...

    def given(self, ask: Ask, outcome: Outcome) -> None:
        """The code gets a recorded outcome."""
        ...

    def raised(self, error: BaseException) -> None:
        """The function itself raised; its frames still are as they were."""
        ...


class Silent:
    """Hears nothing."""

    def named(self, name: str) -> None:
        """See ``Listener``."""

    def asked(self, ask: Ask) -> None:
        """See ``Listener``."""

    def given(self, ask: Ask, outcome: Outcome) -> None:
        """See ``Listener``."""

    def raised(self, error: BaseException) -> None:
        """See ``Listener``."""


class Passing:
    """Passes on to another listener what it hears."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner

    def named(self, name: str) -> None:
        """See ``Listener``."""
        self._inner.named(name)

    def asked(self, ask: Ask) -> None:
        """See ``Listener``."""
        self._inner.asked(ask)

    def given(self, ask: Ask, outcome: Outcome) -> None:
        """See ``Listener``."""
        self._inner.given(ask, outcome)

    def raised(self, error: BaseException) -> None:
        """See ``Listener``."""
        self._inner.raised(error)


@dataclass(frozen=True, slots=True)
class Story:
    """A run as it is replayed: one attempt of its code.

    Attributes:
        run: the recording.
        facts: what its code may see, in order.
        attempt: which attempt of the function's own code.
        events: what started it.
        lenient: outcomes that the code does not ask for are passed over.
    """

    run: ExportedRun
    facts: Sequence[Fact]
    attempt: int
    events: Sequence[Event]
    lenient: bool = False


@dataclass(slots=True)
class Told:
    """What a replay showed.

    Attributes:
        end: how the code ended; None if it did not.
        report: the report on a divergence; None if there was none.
        awaited: what the code awaits at the end, and has no recorded outcome, in order.
        given: how many outcomes the code got.
    """

    end: RunReturned | RunRaised | None = None
    report: bytes | None = None
    awaited: list[Ask] = field(default_factory=list[Ask])
    given: int = 0


def story_of(run: ExportedRun, *, attempt: int = 0) -> Story:
    """Return a run as it is to be replayed.

    Args:
        run: the recording.
        attempt: which attempt of the function's own code; 0 for the last.

    Raises:
        ValueError: there was no such attempt.
        UndecodableError: an entry cannot be read.
    """
    facts = [fact for fact in facts_in(run) if not isinstance(fact.entry, _NOT_SEEN)]
    failures = [i for i, fact in enumerate(facts) if isinstance(fact.entry, RunAttemptFailed)]
    last = len(failures) + 1
    if attempt > last:
        times = "once" if last == 1 else f"{last} times"
        raise ValueError(f"attempt {attempt}: the function's code was tried {times}")
    if 0 < attempt < last:
        facts = facts[: failures[attempt - 1]]
    started = facts[0].entry
    assert isinstance(started, RunStarted), "a recording begins with the run's start"
    events = [codec.decode_event(event) for event in started.events]
    return Story(run, facts, attempt or last, events)


class Observed(Replay):
    """The journal as the code meets it, watched."""

    def __init__(self, story: Story, listener: Listener) -> None:
        super().__init__(story.run.run, story.run.started_ms, attempt=story.attempt)
        self._lenient = self._lenient or story.lenient
        self._listener = listener

    def name(self, id: str) -> tuple[str, bytes]:  # noqa: A002 - the author's word
        """Count a use of an id."""
        found = super().name(id)
        self._listener.named(found[0])
        return found

    def ask(self, ask: Ask) -> None:
        """Note what the code asks for."""
        self._listener.asked(ask)
        super().ask(ask)

    def next(self) -> tuple[Ask, Outcome] | None:
        """Return the next outcome."""
        found = super().next()
        if found is not None:
            self._listener.given(*found)
        return found


class _NoAttempts(AttemptRunner):
    """Begins no attempts."""

    def start(self, attempt: Attempt) -> None:
        """Leave the body of a step alone."""

    def cancel(self, run: bytes, key: bytes) -> bool:  # noqa: ARG002 - the runner's
        """Say that there was no attempt."""
        return False


class _Port:
    """What the life takes for the engine (``stepfold.port.EnginePort``): it only listens."""

    def __init__(self) -> None:
        self.told = Told()

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:  # noqa: ARG002 - the port's
        """Note how the code ends; what it asks for is seen elsewhere."""
        for item in items:
            if isinstance(item, RunReturned | RunRaised):
                self.told.end = item
            elif isinstance(item, RunDiverged):
                self.told.report = item.report

    def missing(self, run: bytes) -> None:
        """Hear that the run's code is not in memory."""

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Send nothing."""
        return [event.id for event in events]

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:  # noqa: ARG002 - the port's
        """Send nothing."""
        return None


class Machine:
    """Replays runs, one after the other. ``close`` it."""

    def __init__(self, functions: Mapping[str, Function[Any]]) -> None:
        self.functions = functions
        self.loop = ReplayLoop()
        self.threads = ThreadPool(THREADS_MAX, "stepfold-replay")
        self.outcome_bytes_max = OUTCOME_BYTES_MAX
        self._life: Life | None = None
        self._reset()

    def _reset(self) -> None:
        self.engine = _Port()
        shared = Shared(self.engine, self.threads, self.outcome_bytes_max)
        self.attempts: AttemptRunner = _NoAttempts(shared, self.loop, own_body)

    # What a life needs (``driver.Desk``).

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        return codec.decode_event(data)

    def may_rest(self, life: Life) -> None:
        """Hear that the life waits."""

    def rests(self, life: Life) -> None:
        """Hear that the life is idle."""

    # Replaying.

    def replay(
        self, story: Story, listener: Listener | None = None, *, silent: bool = True
    ) -> Told:
        """Replay a run until its code ends, diverges, or awaits what has no recorded outcome.

        Args:
            story: the run.
            listener: hears what the code does.
            silent: what the code logs is not logged again.

        Raises:
            KeyError: the app has no such function.
        """
        heard = listener if listener is not None else Silent()
        function = watched(self.functions[story.run.function], heard.raised)
        self._reset()
        brief = RunBrief(
            story.run.run,
            story.run.function,
            1,
            story.attempt,
            story.events,
            story.run.started_ms,
        )
        life = self._life = Life(self, function, brief, lambda _: None)
        life.replay = Observed(story, heard)
        life.start(story.facts, repeated=None if silent else -1)
        try:
            self.loop.run_to_rest(lambda: _is_over(life))
            told = self.engine.told
            told.given = life.replay.given
            if told.end is None and told.report is None:
                told.awaited = [ask for ask in life.replay.asked.values() if not ask.cancelled]
        finally:
            life.close()
            self.loop.run_to_rest(lambda: not life.scope.unended())
        return told

    def own_caller(self, owns: Owns) -> FrameType | None:
        """Return the author's frame that is asking for something now."""
        if self._life is not None and self._life.scope.caller is not None:
            return own_frame(self._life.scope.caller, owns)
        return own_frame(caller(), owns)

    def close(self) -> None:
        """Let go of the loop and its threads."""
        self.threads.close()
        self.loop.close()


def _is_over(life: Life) -> bool:
    if life.mute:
        return not life.scope.unended()
    return life.scope.blocked()


def watched(function: Function[Any], raised: Callable[[BaseException], None]) -> Function[Any]:
    """Return a function that is the same but says what it raises, while its frames are there."""
    found = copy.copy(function)
    call = function.call
    if inspect.iscoroutinefunction(call):

        async def run_async(context: Any) -> Any:
            try:
                return await call(context)
            except Exception as error:
                raised(error)
                raise

        found.call = run_async
    else:

        def run(context: Any) -> Any:
            try:
                return call(context)
            except Exception as error:
                raised(error)
                raise

        found.call = run
    return found


def with_facts(story: Story, facts: Sequence[Fact]) -> Story:
    """Return the same story with other facts."""
    return replace(story, facts=facts)


def is_fresh(ask: Ask) -> bool:
    """Say whether the journal holds nothing of what the code asks for."""
    return not ask.recorded


def place_of(ask: Ask) -> tuple[str, int] | None:
    """Return the file and the line at which the code asks for something."""
    if isinstance(ask, Pending | TimerAsk) and hasattr(ask, "where"):
        return ask.where[0].co_filename, line_of(ask.where)
    return None
