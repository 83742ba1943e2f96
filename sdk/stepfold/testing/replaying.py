"""Replaying: a run's code is run again against its journal, without an engine.

The code gets the recorded outcomes, up to a point of the journal. What it then asks for, and how
it ends, is noted. No body of a step runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepfold import asked, serde
from stepfold.attempts import Attempt
from stepfold.crew import WorkerSettings
from stepfold.function import Function
from stepfold.port import Fact, RunBrief
from stepfold.replay import is_outcome
from stepfold.steps import CURRENT, Body
from stepfold.testing.bodies import never
from stepfold.testing.loop import KitLoop
from stepfold.testing.witness import Story
from stepfold.worker import NativeWorker
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    RunAttemptFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    RunStopped,
)
from stepfold_schemas.events import Event
from stepfold_schemas.reports import ReportItem, RunDiverged, RunRaised, RunReturned

WAIT_S = 2.0
"""How much virtual time passes at the end of a replay: what the code asks for without haste is
reported within a second."""

CUTS_MAX = 100
"""Up to how many points of a journal its beginning is replayed."""

_ENDS = (RunCompleted, RunFailed, RunCancelled, RunStopped)


@dataclass(frozen=True, slots=True)
class Recording:
    """A run that was recorded.

    Attributes:
        function: the function's full id.
        run: the run's id.
        facts: its journal, without its end.
        end: how its code ended, as text; "" if it did not.
    """

    function: str
    run: bytes
    facts: Sequence[Fact]
    end: str

    def cuts(self) -> list[int]:
        """Return up to how many facts replays are given: all, and up to before each outcome.

        Of a long journal it is a sample of the outcomes, spread over all of it. What lies before
        the last failure of the function's own code is left out: another attempt may take another
        way.
        """
        failures = [i for i, f in enumerate(self.facts) if isinstance(f.entry, RunAttemptFailed)]
        first = failures[-1] + 1 if failures else 1
        cuts = [i for i, f in enumerate(self.facts) if i >= first and is_outcome(f.entry)]
        return [*cuts[:: max(1, -(-len(cuts) // CUTS_MAX))], len(self.facts)]


@dataclass(slots=True)
class Seen:
    """What a replay showed.

    Attributes:
        asks: what the code asked for that it had not been given, as text, by name.
        end: how the code ended, as text; "" if it did not.
        divergence: the report, if the code asked for something other than the journal holds.
        whole: the code was given all that was recorded.
    """

    asks: dict[str, str] = field(default_factory=dict[str, str])
    end: str = ""
    divergence: dict[str, Any] | None = None
    whole: bool = False


def recording_of(story: Story, end: str) -> Recording:
    """Return the recording of a run."""
    facts = [note for note in story.notes if not isinstance(note.entry, _ENDS)]
    return Recording(story.function, story.id, facts, end)


def replay(
    functions: Mapping[str, Function[Any]], recording: Recording, cut: int, *, singly: bool
) -> Seen:
    """Replay a run up to a point.

    Args:
        functions: the app's functions by full id.
        recording: the run.
        cut: how many facts the code is given.
        singly: the facts are given one by one, as when the run stays in memory, and not at once.
    """
    facts = recording.facts[:cut]
    started = facts[0].entry
    assert isinstance(started, RunStarted), "a journal begins with the run's start"
    loop = KitLoop(facts[-1].at_ms)
    port = _Port(whole=cut == len(recording.facts))
    settings = WorkerSettings(body_of=port.body_of)
    worker = NativeWorker(functions, port, decode_event=codec.decode_event, settings=settings)
    worker.run_inline(loop)
    attempt = 1 + sum(isinstance(fact.entry, RunAttemptFailed) for fact in facts)
    events = [codec.decode_event(event) for event in started.events]
    brief = RunBrief(recording.run, recording.function, 1, attempt, events, facts[0].at_ms)
    given = 1 if singly else len(facts)
    try:
        worker.start(brief, facts[:given])
        for fact in facts[given:]:
            loop.turn(lambda _: False)
            worker.deliver(recording.run, [fact])
        loop.turn(lambda next_s: next_s <= WAIT_S)
        return port.seen
    finally:
        worker.close()
        loop.end()


class _Port:
    """What the worker takes for the engine (``stepfold.port.EnginePort``)."""

    def __init__(self, *, whole: bool) -> None:
        self.seen = Seen(whole=whole)

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:  # noqa: ARG002 - the port's
        """Note what the code asks for, and how it ends."""
        for item in items:
            match item:
                case RunReturned() | RunRaised():
                    self.seen.end = asked.of_end(item)
                case RunDiverged(report=report):
                    self.seen.divergence = serde.loads(report)
                case _:
                    if (found := asked.of_report(item)) is not None:
                        self.seen.asks.setdefault(*found)

    def missing(self, run: bytes) -> None:
        """Hear that a run is not in memory: it has ended."""

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Note that a step sends events."""
        self._note(asked.of_events(events))
        return [event.id for event in events]

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:  # noqa: ARG002 - the port's
        """Note that a step sends a signal."""
        self._note(asked.of_signal(signal, data))
        return None

    def _note(self, text: str) -> None:
        current = CURRENT.get()
        if current is not None:
            self.seen.asks.setdefault(current.name, text)

    def body_of(self, attempt: Attempt) -> Body:
        """Note that the code begins a step; its body does not run, unless it is our own."""
        if asked.is_own(attempt.body):
            return attempt.body
        self.seen.asks.setdefault(attempt.name, asked.of_body(attempt.body))
        return Body(never, (), {}, attempt.body.policy, None, attempt.body.context)


def replays(functions: Mapping[str, Function[Any]], recording: Recording) -> list[Seen]:
    """Replay a run up to every point, and once as if it had stayed in memory."""
    cuts = recording.cuts()
    found = [replay(functions, recording, cut, singly=False) for cut in cuts]
    return [*found, replay(functions, recording, cuts[-1], singly=True)]
