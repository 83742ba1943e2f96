"""Steps and errors as a test sees them, read from what the journal says of a run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from stepfold import serde
from stepfold.durations import moment
from stepfold.events import view
from stepfold.port import Fact
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Error,
    EventMatched,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    OperationsAbandoned,
    SignalReceived,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerFired,
    WaitBegan,
    WaitTimedOut,
)


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An exception as it was recorded.

    Attributes:
        name: its class name, such as ``ValueError``.
        message: its text.
        stack: its traceback as text.
    """

    name: str
    message: str
    stack: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(slots=True)
class StepRecord:
    """A step, sleep, wait or invocation of a run.

    Attributes:
        name: its id, with ``:1``, ``:2`` for repeats.
        kind: ``step``, ``sleep``, ``wait``, ``signal`` or ``invoke``.
        status: ``waiting`` (for its time, an event, …), ``retrying``, ``completed``, ``failed``,
            ``timed-out`` or ``abandoned`` (the function no longer awaits it). A step is here from
            its first recorded attempt on.
        result: what the function got: JSON values of a step or an invocation, the ``Event`` of a
            wait, the data of a signal; None otherwise.
        failures: the errors of its failed attempts, in order.
        began_at: when it was first recorded.
        ended_at: when its outcome was; None before.
    """

    name: str
    kind: str
    status: str
    began_at: datetime
    result: Any = None
    failures: list[ErrorRecord] = field(default_factory=list[ErrorRecord])
    ended_at: datetime | None = None

    @property
    def attempts(self) -> int:
        """How many attempts have ended; 0 for what is no ``step``."""
        return len(self.failures) + (self.kind == "step" and self.status == "completed")

    @property
    def error(self) -> ErrorRecord | None:
        """The error of its last attempt, if that failed."""
        return None if self.status == "completed" or not self.failures else self.failures[-1]

    def __repr__(self) -> str:
        said = f"<{self.kind} {self.name!r} {self.status}"
        if self.attempts > 1:
            said += (
                f" on attempt {self.attempts}" if self.ended_at else f", {self.attempts} attempts"
            )
        return f"{said}: {self.error}>" if self.error else f"{said}>"


def steps_of(run: bytes, notes: Iterable[Fact]) -> list[StepRecord]:
    """Return the steps of a run, in the order in which they were first recorded."""
    found: dict[bytes, StepRecord] = {}
    for note in notes:
        at, entry = moment(note.at_ms), note.entry
        _begin(found, entry, at)
        for key in _concerned(run, entry):
            if key in found:
                _go_on(found[key], entry, at)
    return list(found.values())


_BEGINNINGS: dict[type, str] = {
    SleepBegan: "sleep",
    WaitBegan: "wait",
    SignalWaitBegan: "signal",
    InvokeBegan: "invoke",
    StepCompleted: "step",
    StepAttemptFailed: "step",
    StepFailed: "step",
}


def _begin(found: dict[bytes, StepRecord], entry: Any, at: datetime) -> None:
    kind = _BEGINNINGS.get(entry.__class__)
    if kind is not None and entry.step not in found:
        found[entry.step] = StepRecord(entry.name, kind, "waiting", at)


def _concerned(run: bytes, entry: Any) -> list[bytes]:
    if isinstance(entry, EventMatched):
        return [ref.step for ref in entry.waits if ref.run == run]
    if isinstance(entry, OperationsAbandoned):
        return entry.steps
    return [entry.step] if hasattr(entry, "step") and not isinstance(entry, TimerFired) else []


def _go_on(step: StepRecord, entry: Any, at: datetime) -> None:
    match entry:
        case StepAttemptFailed():
            step.status = "retrying"
            step.failures.append(recorded(entry.error))
            return
        case StepFailed() | InvokeFailed():
            step.status = "failed"
            step.failures.append(recorded(entry.error))
        case StepCompleted() | InvokeCompleted():
            step.status, step.result = "completed", serde.loads(entry.data)
        case SignalReceived():
            step.status, step.result = "completed", serde.loads(entry.data)
        case EventMatched():
            step.status, step.result = "completed", view(codec.decode_event(entry.event))
        case SleepEnded():
            step.status = "completed"
        case WaitTimedOut():
            step.status = "timed-out"
        case SignalWaitEnded(reason=reason) if reason != "replaced":
            step.status = "timed-out" if reason == "timed-out" else "failed"
        case OperationsAbandoned() if step.ended_at is None:
            step.status = "abandoned"
        case _:
            return
    step.ended_at = at


def place(file: str, line: int) -> str:
    """Return a place in code as people read it: from the current folder, if it lies below."""
    path, here = Path(file), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{line}"


def recorded(error: Error) -> ErrorRecord:
    """Return an error of the journal as tests see it."""
    return ErrorRecord(error.name, error.message, error.stack)
