"""What a journal says of a run, as far as the run's code can see it.

An outcome is known by the journal's ``name`` of its operation, see ``interpreter``. After the
function's own code failed and was tried again, what the failed attempt had cancelled is asked for
under another key, but under the same name.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    RunAttemptFailed,
    RunStarted,
    SignalReceived,
    SignalWaitEnded,
    SleepEnded,
    StepCompleted,
    StepFailed,
    TimerFired,
    WaitTimedOut,
)
from stepfold_schemas.ids import ulid_text
from tests.simulation.statements import APP


@dataclass(frozen=True, slots=True)
class Outcome:
    """A recorded outcome.

    Attributes:
        name: of the operation.
        value: what was recorded: a body's or a function's result, an event's or a signal's data.
        error: the name of the error, "" if there is none.
        at_ms: when it was recorded.
    """

    name: str
    value: Any
    error: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class RunOutcomes:
    """What a journal says of a run, as far as its code can see it.

    Attributes:
        function: the function's id in the app, with ``-failure`` for a failure handler.
        run: the run's id as text.
        data: what the event says that started it.
        started_ms: when it was started.
        attempt: the attempt of the function's own code that was the last.
        outcomes: in the order of the journal.
    """

    function: str
    run: str
    data: dict[str, Any]
    started_ms: int
    attempt: int
    outcomes: tuple[Outcome, ...]


def outcomes_of(entries: Iterable[tuple[int, Entry]]) -> RunOutcomes:
    """Read a run's outcomes.

    Args:
        entries: all entries of the run that count, in the order of the journal, each with the
            ``at_ms`` of its decision. The first is ``RunStarted``.
    """
    (started_ms, started), *rest = entries
    assert isinstance(started, RunStarted), "a run begins with its start"
    names: dict[bytes, str] = {}
    found: list[Outcome] = []
    attempt = 1
    for at_ms, entry in rest:
        name, step = getattr(entry, "name", ""), getattr(entry, "step", b"")
        if name and step:
            names[step] = name
        if isinstance(entry, RunAttemptFailed):
            attempt = entry.attempt + 1
        if isinstance(entry, EventMatched):
            refs = [ref.step for ref in entry.waits if ref.run == started.run]
        else:
            refs = [step]
        for ref in refs:
            outcome = _outcome(entry, names.get(ref, ""), at_ms)
            if outcome is not None:
                found.append(outcome)
    event = codec.decode_event(started.events[0])
    function = started.function.removeprefix(f"{APP}-")
    run, data = ulid_text(started.run), json.loads(event.data)
    return RunOutcomes(function, run, data, started_ms, attempt, tuple(found))


def _outcome(entry: Entry, name: str, at_ms: int) -> Outcome | None:
    match entry:
        case StepCompleted() | SignalReceived() | InvokeCompleted():
            return Outcome(name, json.loads(entry.data), "", at_ms)
        case EventMatched():
            return Outcome(name, json.loads(codec.decode_event(entry.event).data), "", at_ms)
        case SleepEnded() | TimerFired() | WaitTimedOut():
            return Outcome(name, None, "", at_ms)
        case SignalWaitEnded(reason="timed-out"):
            return Outcome(name, None, "", at_ms)
        case SignalWaitEnded(reason="refused"):
            return Outcome(name, None, "SignalConflictError", at_ms)
        case StepFailed() | InvokeFailed():
            return Outcome(name, None, entry.error.name, at_ms)
        case _:
            return None
