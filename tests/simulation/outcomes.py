"""What a journal says of a run, as far as the run's code can see it.

An outcome is known by the journal's ``name`` of its operation, see ``interpreter``. After the
function's own code failed and was tried again, what the failed attempt had cancelled is asked for
under another key, but under the same name.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    RerunStarted,
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
from stepfold_schemas.ids import time_of, ulid_text
from tests.simulation.statements import APP


@dataclass(frozen=True, slots=True)
class Outcome:
    """A recorded outcome.

    Attributes:
        name: of the operation.
        value: what was recorded: a body's or a function's result, an event's or a signal's data.
        error: the name of the error, "" if there is none.
        at_ms: when it was recorded first.
        run: in which it came to be, if this one is a rerun that shares it; its id as text.
    """

    name: str
    value: Any
    error: str
    at_ms: int
    run: str = ""


@dataclass(frozen=True, slots=True)
class RunOutcomes:
    """What a journal says of a run, as far as its code can see it.

    Attributes:
        function: the function's id in the app, with ``-failure`` for a failure handler.
        run: the run's id as text.
        data: what the event says that started it.
        started_ms: when it was started, or the run with whose random numbers its code goes on.
        attempt: the attempt of the function's own code that was the last.
        outcomes: in the order of the journal.
        seed: with whose random numbers its code goes on, if not with its own; an id as text.
        tried_before: there were attempts before that one, of this run or of what it shares.
    """

    function: str
    run: str
    data: dict[str, Any]
    started_ms: int
    attempt: int
    outcomes: tuple[Outcome, ...]
    seed: str = ""
    tried_before: bool = False


def outcomes_of(
    entries: Iterable[tuple[int, Entry]], shared: Mapping[bytes, bytes] = {}
) -> RunOutcomes:
    """Read a run's outcomes.

    Args:
        entries: all entries of the run that count, in the order of the journal, each with the
            time at which it was recorded first. The first is ``RunStarted``.
        shared: by step's key, in which run an outcome came to be that this one shares.
    """
    (started_ms, started), *rest = entries
    assert isinstance(started, RunStarted), "a run begins with its start"
    names: dict[bytes, str] = {}
    found: list[Outcome] = []
    attempt, tried_before, seed = 1, False, b""
    for at_ms, entry in rest:
        name, step = getattr(entry, "name", ""), getattr(entry, "step", b"")
        if name and step:
            names[step] = name
        if isinstance(entry, RunAttemptFailed):
            attempt, tried_before = entry.attempt + 1, True
        if isinstance(entry, RerunStarted):
            attempt, seed = 1, entry.seed
        if isinstance(entry, EventMatched):
            refs = [ref.step for ref in entry.waits if ref.run == started.run]
        else:
            refs = [step]
        for ref in refs:
            outcome = _outcome(entry, names.get(ref, ""), at_ms)
            if outcome is not None:
                found.append(replace(outcome, run=ulid_text(shared[ref]) if ref in shared else ""))
    event = codec.decode_event(started.events[0])
    function = started.function.removeprefix(f"{APP}-")
    run, data = ulid_text(started.run), json.loads(event.data)
    if seed:
        started_ms = time_of(seed)
    return RunOutcomes(
        function,
        run,
        data,
        started_ms,
        attempt,
        tuple(found),
        ulid_text(seed) if seed else "",
        tried_before,
    )


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
