"""Runs as a test sees them: handles that always say how a run stands now."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, Self

from stepfold.durations import moment
from stepfold.events import Event, view
from stepfold.function import Function
from stepfold.testing.errors import NotThereError, RunNotCompletedError
from stepfold.testing.records import ErrorRecord, StepRecord, place, recorded, steps_of
from stepfold.testing.witness import Story, Witness
from stepfold_engine.core.run import Run as RunState
from stepfold_engine.history.views import status_of
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    Operation,
    RunAttemptFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    RunStopped,
)
from stepfold_schemas.ids import ulid_text

ENDS = (RunCompleted, RunFailed, RunCancelled)
_STATUS_OF_END: dict[type[Entry], str] = {
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
}


class Scene(Protocol):
    """What a run's handle needs of the environment."""

    @property
    def witness(self) -> Witness:
        """Who knows the journal."""
        ...

    @property
    def functions(self) -> Any:
        """The app's functions by full id."""
        ...

    def now_ms(self) -> int:
        """Return the virtual wall clock."""
        ...

    def under_way(self, run: bytes) -> Sequence[str]:
        """Return the names of the steps whose bodies run now."""
        ...


class Status(str):
    """How a run stands, in a word; in a failed assertion pytest shows with it what it is about.

    Attributes:
        explain: says more about the run.
    """

    explain: Callable[[], str]

    def __new__(cls, word: str, explain: Callable[[], str]) -> Self:
        """Make it of a word."""
        status = super().__new__(cls, word)
        status.explain = explain
        return status


class Run:
    """A run of a durable function. What it says is always how the run stands now.

    Attributes:
        id: the run's id, a ULID.
        function: the function's full id, ``<app>-<function>``.
    """

    def __init__(self, scene: Scene, story: Story) -> None:
        self._scene, self._story = scene, story
        self.id = ulid_text(story.id)
        self.function = story.function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # How it stands.

    @property
    def status(self) -> "Status":
        """How it stands, in the words of ``stepfold runs``.

        ``scheduled``, ``running``, ``waiting``, ``retrying``, ``stopped`` (its code diverged),
        ``completed``, ``failed`` or ``cancelled``.
        """
        return Status(self._status(), self.explain)

    def _status(self) -> str:
        end = self._end
        if end is not None:
            return _STATUS_OF_END[type(end)]
        state = self._state
        if state is None or self._under_way:
            return "running"
        return status_of(state, self._scene.now_ms(), served=True)

    @property
    def ended(self) -> bool:
        """Whether it completed, failed or was cancelled."""
        return self._end is not None

    @property
    def result(self) -> Any:
        """What the function returned, as another function that invokes it gets it.

        Raises:
            RunNotCompletedError: it failed, was cancelled, or has not ended; the message says why
                it failed, with the traceback, or what it waits for.
        """
        end = self._end
        if isinstance(end, RunCompleted):
            function: Function[Any] | None = self._scene.functions.get(self.function)
            return json.loads(end.data) if function is None else function.read(end.data)
        hint = "" if self.ended else "\nLet time pass: env.advance(…), or env.finish()."
        raise RunNotCompletedError(f"{self.explain()}{hint}")

    @property
    def error(self) -> ErrorRecord | None:
        """Why it failed or was stopped, or what its own code last raised; None if nothing."""
        for note in reversed(self._story.notes):
            entry = note.entry
            if isinstance(entry, RunFailed | RunAttemptFailed):
                return recorded(entry.error)
            if isinstance(entry, RunStopped):
                return _of_report(json.loads(entry.report))
            if isinstance(entry, RunCompleted):
                break
        return None

    @property
    def cancelled_by(self) -> str:
        """What cancelled it, in words; "" if nothing did."""
        end = self._end
        return end.reason if isinstance(end, RunCancelled) else ""

    @property
    def attempt(self) -> int:
        """Which attempt of the function's own code it is at, from 1; steps count their own."""
        return 1 + sum(isinstance(n.entry, RunAttemptFailed) for n in self._story.notes)

    @property
    def divergence(self) -> dict[str, Any] | None:
        """The report on how its code diverged from its journal; None if it did not."""
        for note in reversed(self._story.notes):
            if isinstance(note.entry, RunStopped):
                found: dict[str, Any] = json.loads(note.entry.report)
                return found
        return None

    @property
    def event(self) -> Event:
        """What started it."""
        started = self._story.notes[0].entry
        assert isinstance(started, RunStarted), "a run's journal begins with its start"
        return view(codec.decode_event(started.events[0]))

    # When.

    @property
    def started_at(self) -> datetime:
        """When it started, on the virtual clock."""
        return moment(self._story.notes[0].at_ms)

    @property
    def ended_at(self) -> datetime | None:
        """When it ended; None if it has not."""
        return moment(self._story.notes[-1].at_ms) if self.ended else None

    @property
    def duration(self) -> timedelta:
        """How long it took, or has taken so far."""
        return (self.ended_at or moment(self._scene.now_ms())) - self.started_at

    # Its steps.

    @property
    def steps(self) -> list[StepRecord]:
        """Its steps, sleeps, waits and invocations, in the order in which they were recorded."""
        return steps_of(self._story.id, self._story.notes)

    def step(self, name: str) -> StepRecord:
        """Return a step by its id, with ``:1``, ``:2`` for repeats.

        Raises:
            NotThereError: nothing is recorded of such a step; the message names those there are.
        """
        steps = self.steps
        for step in steps:
            if step.name == name:
                return step
        there = ", ".join(repr(s.name) for s in steps) or "none"
        raise NotThereError(f"{self!r} has recorded no step {name!r}, only: {there}")

    @property
    def waits_for(self) -> list[str]:
        """What it waits for, in words: one line for each step, sleep, wait or invocation."""
        lines = [f"step {name!r}: its body is under way" for name in self._under_way]
        state = self._state
        if state is not None:
            now_ms = self._scene.now_ms()
            if not state.begun and state.due_ms > now_ms:
                lines.append(f"its start at {_time(state.due_ms)}")
            if state.retry_at_ms > now_ms:
                lines.append(f"the next attempt of its code at {_time(state.retry_at_ms)}")
            lines += [_waits(o) for o in state.operations.values() if o.kind != "running"]
        return lines

    def explain(self) -> str:
        """Say in words how it stands: its steps, what it waits for, the traceback of its error."""
        lines = [repr(self)]
        lines += [f"  {step!r}" for step in self.steps]
        lines += [f"  waits for {line}" for line in self.waits_for]
        failed = [step.error for step in self.steps if step.status in ("failed", "retrying")]
        stacks = [error.stack.rstrip() for error in (*failed, self.error) if error is not None]
        return "\n\n".join(["\n".join(lines), *filter(None, stacks)])

    def __repr__(self) -> str:
        status = self._status()
        said = f"<run of {self.function}: {status}"
        if status in ("failed", "stopped", "retrying", "running") and self.error:
            said += f" with {_short(str(self.error))}"
        elif self.cancelled_by:
            said += f" by {self.cancelled_by}"
        elif not self.ended and (waits := self.waits_for):
            said += f" for {_short('; '.join(waits))}"
        troubled = [s for s in self.steps if s.status in ("failed", "retrying")]
        return f"{said}; {_short(repr(troubled))}>" if troubled else f"{said}>"

    # Inside.

    @property
    def _end(self) -> Entry | None:
        last = self._story.notes[-1].entry
        return last if isinstance(last, ENDS) else None

    @property
    def _state(self) -> RunState | None:
        return self._scene.witness.state_of(self._story.id)

    @property
    def _under_way(self) -> Sequence[str]:
        return self._scene.under_way(self._story.id)


_SHORT_CHARS = 160


def _short(text: str) -> str:
    """Cut text so that pytest does not cut the whole repr in its middle."""
    text = text.partition("\n")[0]
    return text if len(text) <= _SHORT_CHARS else f"{text[: _SHORT_CHARS - 1]}…"


def _time(at_ms: int) -> str:
    return moment(at_ms).strftime("%Y-%m-%d %H:%M:%S")


def _waits(operation: Operation) -> str:
    """Say what one operation waits for."""
    until = f" until {_time(operation.due_ms)}" if operation.due_ms else ""
    name = operation.name
    describe: dict[str, Callable[[], str]] = {
        "step": lambda: (
            f"step {name!r}: attempt {operation.attempt + 1} at {_time(operation.due_ms)}"
        ),
        "sleep": lambda: f"sleep {name!r}:{until}",
        "timer": lambda: f"an asyncio timer:{until}",
        "wait": lambda: (
            f"wait {name!r}: event {operation.condition and operation.condition.event}{until}"
        ),
        "signal": lambda: f"signal wait {name!r}: signal {operation.target!r}{until}",
        "invoke": lambda: f"invocation {name!r}: function {operation.target}{until}",
    }
    return describe.get(operation.kind, lambda: f"{operation.kind} {name!r}{until}")()


def _of_report(report: dict[str, Any]) -> ErrorRecord:
    """Return why a run was stopped as an error."""
    if report.get("reason") != "diverged":
        return ErrorRecord("Stopped", str(report.get("message", "")))
    return ErrorRecord("Diverged", describe_divergence(report))


def describe_divergence(report: dict[str, Any]) -> str:
    """Say in words how code diverged: what was expected, what was met, and where."""
    said = str(report["problem"])
    expected = report.get("expected")
    if expected:
        said += f"; expected: {expected['kind']} {expected['step']!r}"
    for met in report.get("met", [])[:3]:
        where = f" ({place(met['file'], met['line'])})" if "file" in met else ""
        said += f"; met: {met['kind']} {met['step']!r}{where}"
    return said
