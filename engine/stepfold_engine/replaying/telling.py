"""Telling: recorded outcomes, ends and values as people read them, on one line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from stepfold.port import Fact
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Began,
    Ended,
    Entry,
    Error,
    EventMatched,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    RunAttemptFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStopped,
    SignalReceived,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerFired,
    TimerSet,
    WaitBegan,
    WaitTimedOut,
)
from stepfold_schemas.reports import RunRaised, RunReturned
from stepfold_schemas.runfile import UNFINISHED, ExportedRun

CHARS_MAX = 72
"""How much of a value is shown on a line."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a journal says of one step or operation.

    Attributes:
        kind: ``step``, ``sleep``, ``timer``, ``wait``, ``signal`` or ``invoke``.
        name: its name; "" if nothing recorded says it.
        began_ms: when it began; that of its first attempt.
        ended_ms: when its outcome was recorded; 0 if it has none.
        attempt: the attempt that had the outcome, or was the last to fail; 0 for operations.
        outcome: the entry that ended it.
        errors: what earlier attempts raised.
        target: the event, signal or function that it waits for.
    """

    kind: str
    name: str
    began_ms: int
    ended_ms: int = 0
    attempt: int = 0
    outcome: Entry | None = None
    errors: Sequence[Error] = ()
    target: str = ""

    @property
    def took_ms(self) -> int:
        """How long it took."""
        return max(self.ended_ms - self.began_ms, 0)

    @property
    def failed(self) -> bool:
        """Whether the code got an error."""
        refused = isinstance(self.outcome, SignalWaitEnded) and self.outcome.reason == "refused"
        return isinstance(self.outcome, StepFailed | InvokeFailed) or refused


def steps_in(facts: Sequence[Fact], run: bytes) -> dict[bytes, Recorded]:
    """Return what a run's journal says of its steps and operations, in the order of beginning."""
    found: dict[bytes, Recorded] = {}
    for fact in facts:
        entry = fact.entry
        if isinstance(entry, Began):
            found.setdefault(entry.step, _began(entry, fact.at_ms))
        elif isinstance(entry, EventMatched):
            for ref in entry.waits:
                if ref.run == run:
                    _end(found, ref.step, "wait", fact)
        elif isinstance(entry, StepAttemptFailed):
            known = found.get(entry.step) or Recorded("step", entry.name, entry.started_ms)
            errors = (*known.errors, entry.error)
            found[entry.step] = Recorded(
                "step", entry.name, known.began_ms, 0, entry.attempt, None, errors
            )
        elif isinstance(entry, StepCompleted | StepFailed):
            known = found.setdefault(entry.step, Recorded("step", entry.name, entry.started_ms))
            _end(found, entry.step, known.kind, fact, entry.attempt)
        elif isinstance(entry, _ENDINGS) and not _goes_on(entry):
            _end(found, entry.step, _KINDS[type(entry)], fact)
    return found


_ENDINGS = Ended | SignalWaitEnded
_KINDS: dict[type[Entry], str] = {
    SleepEnded: "sleep",
    TimerFired: "timer",
    WaitTimedOut: "wait",
    SignalReceived: "signal",
    SignalWaitEnded: "signal",
    InvokeCompleted: "invoke",
    InvokeFailed: "invoke",
    SleepBegan: "sleep",
    TimerSet: "timer",
    WaitBegan: "wait",
    SignalWaitBegan: "signal",
    InvokeBegan: "invoke",
}


def _goes_on(entry: Entry) -> bool:
    return isinstance(entry, SignalWaitEnded) and entry.reason == "replaced"


def _began(entry: Began, at_ms: int) -> Recorded:
    target = ""
    match entry:
        case WaitBegan():
            target = entry.condition.event
        case SignalWaitBegan():
            target = entry.signal
        case InvokeBegan():
            target = entry.function
        case SleepBegan() | TimerSet():
            pass
    return Recorded(_KINDS[type(entry)], entry.name, at_ms, target=target)


def _end(
    found: dict[bytes, Recorded], step: bytes, kind: str, fact: Fact, attempt: int = 0
) -> None:
    known = found.get(step) or Recorded(kind, getattr(fact.entry, "name", ""), fact.at_ms)
    found[step] = Recorded(
        known.kind,
        known.name,
        known.began_ms,
        fact.at_ms,
        attempt,
        fact.entry,
        known.errors,
        known.target,
    )


# Values.


def value_of(entry: Entry | None) -> object:
    """Return what the code gets of an outcome, as plain values; None if that is nothing."""
    match entry:
        case StepCompleted() | SignalReceived() | InvokeCompleted() | RunCompleted():
            return json.loads(entry.data)
        case EventMatched():
            event = codec.decode_event(entry.event)
            return {"name": event.name, "data": json.loads(event.data)}
        case StepFailed() | InvokeFailed() | RunFailed():
            return {"error": f"{entry.error.name}: {entry.error.message}"}
        case SignalWaitEnded(reason="refused"):
            return {"error": "SignalConflictError"}
        case _:
            return None


def outcome_text(entry: Entry) -> str:
    """Say what the code gets of an outcome, shortened."""
    match entry:
        case SleepEnded():
            return "woke up"
        case TimerFired():
            return "the timer fired"
        case WaitTimedOut():
            return "no event came in time: None"
        case SignalWaitEnded(reason="timed-out"):
            return "no signal came in time: None"
        case EventMatched():
            event = codec.decode_event(entry.event)
            return short(f"{event.name} {text_of(json.loads(event.data))}")
        case StepFailed() | InvokeFailed():
            return error_text(entry.error)
        case SignalWaitEnded():
            return "SignalConflictError"
        case _:
            return short(text_of(value_of(entry)))


def text_of(value: object) -> str:
    """Write a value as JSON."""
    return json.dumps(value, ensure_ascii=False)


def short(text: str, chars: int = CHARS_MAX) -> str:
    """Cut a text to what fits on a line."""
    text = " ".join(text.split())
    return text if len(text) <= chars else text[: chars - 1] + "…"


def error_text(error: Error) -> str:
    """Write an error on one line."""
    return short(f"{error.name}: {error.message}".rstrip(": "))


def end_of(run: ExportedRun, facts: Sequence[Fact]) -> str:
    """Say how a run ended, or that it did not, by its history."""
    for fact in reversed(facts):
        match fact.entry:
            case RunCompleted(data=data):
                return f"completed: {short(data.decode())}"
            case RunFailed(error=error):
                return f"failed: {error_text(error)}"
            case RunCancelled(reason=reason):
                return f"cancelled: {short(reason)}"
            case RunStopped():
                return "stopped: its code diverged" if run.status != UNFINISHED else "unfinished"
            case RunAttemptFailed(error=error):
                return f"its code raised, to be tried again: {error_text(error)}"
            case _:
                pass
    return "unfinished"


def end_text(end: RunReturned | RunRaised) -> str:
    """Say how replayed code ended."""
    if isinstance(end, RunReturned):
        return f"returns {short(end.data.decode())}"
    return f"raises {error_text(end.error)}"


# Places.


def place_text(place: tuple[str, int] | None) -> str:
    """Write a place in code, relative to the current folder if it lies below."""
    if place is None:
        return ""
    file, line = place
    path, here = Path(file), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{line}"


def what(kind: str, name: str) -> str:
    """Name a step or an operation: ``step 'charge'``."""
    words = {"wait": "wait", "signal": "signal wait", "invoke": "invocation", "": "operation"}
    return f"{words.get(kind, kind)} '{name}'" if name else words.get(kind, kind)


def differences(one: object, other: object, path: str = "") -> list[tuple[str, object, object]]:
    """Return where two values differ: the path, and the value on each side.

    >>> differences({"a": [1, 2]}, {"a": [1, 3], "b": 0})
    [('a[1]', 2, 3), ('b', Ellipsis, 0)]
    """
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("Mapping[str, object]", one), cast("Mapping[str, object]", other)
        found: list[tuple[str, object, object]] = []
        for key in dict.fromkeys([*left, *right]):
            inner = f"{path}.{key}" if path else key
            found += differences(left.get(key, ...), right.get(key, ...), inner)
        return found
    if isinstance(one, list) and isinstance(other, list):
        first, second = cast("list[object]", one), cast("list[object]", other)
        found = []
        for index in range(max(len(first), len(second))):
            a = first[index] if index < len(first) else ...
            b = second[index] if index < len(second) else ...
            found += differences(a, b, f"{path}[{index}]")
        return found
    same = one == other and isinstance(one, bool) == isinstance(other, bool)
    return [] if same else [(path, one, other)]
