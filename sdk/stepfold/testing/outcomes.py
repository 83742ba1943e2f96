"""Outcomes: all that can be seen of a story when it is over, in a form that can be compared."""

import difflib
import pprint
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepfold.events import Sendable
from stepfold.testing.environment import Environment
from stepfold.testing.runs import Run
from stepfold.testing.stubs import kept

Story = Callable[[Environment], object] | Sendable | str
"""What happens in a round: a function of an environment, or an event that is sent, and then all
that it starts is run to its end."""

DIFFERENT_LINES_MAX = 24
LINE_CHARS = 96


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a story.

    Attributes:
        runs: how each run stands: function, trigger, status, result, error; sorted.
        events: name and data of the events that the app sent, each id once; sorted.
        world: what the test's own ``observe`` saw.
        failure: the exception with which the story itself ended, as text; "" if none.
    """

    runs: list[Mapping[str, Any]]
    events: list[tuple[str, Any]]
    world: Any
    failure: str = ""

    def differences(self, other: "Outcome") -> list[str]:
        """Say how another outcome differs from this one, one text for each kind of thing."""
        found: list[str] = []
        if self.failure != other.failure:
            found.append(f"the story failed: {other.failure or 'no longer'}")
        if self.runs != other.runs:
            found.append("runs end differently:\n" + diff(self.runs, other.runs))
        if self.events != other.events:
            found.append("other events are sent:\n" + diff(self.events, other.events))
        if not _equal(self.world, other.world):
            found.append("observed is:\n" + diff(self.world, other.world))
        return found


def play(story: Story, env: Environment) -> None:
    """Let a story happen."""
    if callable(story):
        story(env)
    else:
        env.send(story)
        env.finish()


def outcome_of(env: Environment, observe: Callable[[], object] | None, failure: str) -> Outcome:
    """Return what can be seen now."""
    runs = sorted((_seen(run) for run in env.runs), key=repr)
    events = {event.id: (event.name, event.data) for event in env.sent()}
    world = None if observe is None else kept(observe())
    return Outcome(runs, sorted(events.values(), key=repr), world, failure)


def _seen(run: Run) -> Mapping[str, Any]:
    seen: dict[str, Any] = {
        "function": run.function,
        "event": (run.event.name, run.event.data),
        "status": run.status,
    }
    if run.status == "completed":
        seen["result"] = run.result
    elif run.error is not None:
        seen["error"] = str(run.error)
    return seen


def _equal(left: object, right: object) -> bool:
    return bool(left == right)


def diff(before: object, after: object) -> str:
    """Show how a value differs from another, line by line: ``-`` without, ``+`` with the crash."""
    old, new = (pprint.pformat(v, width=LINE_CHARS).splitlines() for v in (before, after))
    lines = [line for line in difflib.ndiff(old, new) if line[:1] in "-+"]
    if not lines:
        lines = [f"- {before!r}", f"+ {after!r}"]
    if len(lines) > DIFFERENT_LINES_MAX:
        left = len(lines) - DIFFERENT_LINES_MAX
        lines = [*lines[:DIFFERENT_LINES_MAX], f"… and {left} lines more"]
    return "\n".join(lines)
