"""Crashes: a story is played once for every point at which the process may die.

Rules:

* First it is played twice without a crash: it must come out the same, and the points are noted.
* Then once for every point: the process dies there, another one goes on at once, and what comes
  out is compared. Time stands still meanwhile, so that nothing but the crash makes a difference.
* A body that runs twice is no fault by itself. It is one if somebody can see it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from textwrap import indent
from typing import Any

from stepfold.app import App
from stepfold.function import Function
from stepfold.testing.bodies import BodyRun
from stepfold.testing.environment import Environment
from stepfold.testing.errors import CrashFoundError, UnstableStoryError
from stepfold.testing.outcomes import Outcome, Story, outcome_of, play
from stepfold.testing.points import Point

POINTS_MAX = 1_000
"""At how many points a story is left, unless told otherwise."""

ADVICE = """\
When a process dies after a body did its work and before its outcome is in the log, the body runs
again. Make that harmless: give services that take one stepfold.step_info().idempotency_key, which
is the same for every attempt of a step and for no other; write by an id that is given ("insert or
replace"), not by one that is made; let a body do one thing, so that not half of it is done; give
events that are sent with app.send an id, or send them with ctx.step.send_event."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash that changes what comes out.

    Attributes:
        point: where the process died.
        shown: the same in words.
        repeated: the bodies that ran again because of it, as ``(function, step, times)``.
        differences: what differs, in words, each with the lines that do.
    """

    point: Point
    shown: str
    repeated: Sequence[tuple[str, str, int]]
    differences: Sequence[str]

    def __str__(self) -> str:
        lines = [f"killed {self.shown}"]
        for function, step, times in self.repeated:
            lines.append(f"  the body of step {step!r} of {function} ran {times} times")
        lines += [indent(difference, "  ") for difference in self.differences]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What came of a story that was left at every point.

    Attributes:
        points: how many points the process died at.
        found: how many points there are; more than ``points`` if only a sample of them was tried.
        not_reached: how many points of the first round were not met again, because what threads do
            comes in another order every time.
        crashes: those that change what comes out.
        repeated: how often the body of each step, as ``(function, step)``, ran again in all.
    """

    points: int
    found: int
    not_reached: int = 0
    crashes: Sequence[Crash] = ()
    repeated: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def __str__(self) -> str:
        tried = f"{self.points} crash points"
        if self.found > self.points:
            tried += f" (a sample of {self.found})"
        if self.not_reached:
            tried += f", {self.not_reached} of them not reached again (threads)"
        if not self.crashes:
            return f"{tried}: none changes what comes out"
        lines = [f"{tried}: {len(self.crashes)} change what comes out"]
        for number, (crash, others) in enumerate(_grouped(self.crashes), 1):
            lines += ["", f"{number}. {crash}"]
            lines += [f"  the same when killed {other.shown}" for other in others[:SAME_MAX]]
            if len(others) > SAME_MAX:
                lines.append(f"  … and at {len(others) - SAME_MAX} points more")
        return "\n".join([*lines, "", ADVICE])


SAME_MAX = 3
"""How many points with the same differences are named."""


def crash_everywhere(
    target: App | Function[Any],
    story: Story,
    *,
    fresh: Callable[[], object] | None = None,
    observe: Callable[[], object] | None = None,
    start: datetime | str | None = None,
    points_max: int = POINTS_MAX,
) -> CrashReport:
    """Play a story once for every point at which the process may die, and compare what comes out.

    Points are: before and after every append to the log, and in the midst of it; before and after
    the body of every step, and at each of its awaits. Compared are: how the runs end, their results
    and errors, the events that the app sends, and what ``observe`` returns.

    Args:
        target: the app, or one of its functions, which stands for it.
        story: an event, which is sent, and everything that follows happens; or a function that
            does with an environment what the test is about: it may stub, send, signal, let time
            pass, and assert.
        fresh: puts the world back to how it was; called before every round.
        observe: returns what of the world can be seen from outside, such as the calls that a fake
            service got; called after every round. Values are compared with ``==``.
        start: the virtual time at the start of every round; see ``Environment``.
        points_max: at how many points at most; if there are more, at so many spread over all.

    Returns:
        The report, if no crash changes anything.

    Raises:
        CrashFoundError: crashes change what comes out; its ``report`` says which and how.
        UnstableStoryError: the story comes out differently even without a crash.
        AssertionError: the story's own, if it fails without a crash.
    """
    rounds = _Rounds(app=target, story=story, fresh=fresh, observe=observe, start=start)
    noted = _Noting()
    expected, first = rounds.play(noted)
    again, _ = rounds.play(_Noting())
    if differences := expected.differences(again):
        raise UnstableStoryError(_unstable(differences))
    points = list(noted.met.items())
    step = max(1, -(-len(points) // points_max))
    tried = points[::step]
    crashes: list[Crash] = []
    repeated: Counter[tuple[str, str]] = Counter()
    not_reached = 0
    for point, _ in tried:
        killing = _Killing(point)
        outcome, ran = rounds.play(killing)
        not_reached += not killing.shown
        more = _repeated(first, ran)
        for function, name, _times in more:
            repeated[function, name] += 1
        if differences := expected.differences(outcome):
            crashes.append(Crash(point, killing.shown or "nowhere", more, differences))
    report = CrashReport(len(tried), len(points), not_reached, crashes, repeated)
    if crashes:
        raise CrashFoundError(report)
    return report


class _Noting:
    """Lets the process live, and notes the points that it reaches."""

    def __init__(self) -> None:
        self.met: dict[Point, str] = {}
        self._lock = threading.Lock()

    def reach(self, point: Point, shown: str) -> bool:
        """Note a point."""
        with self._lock:
            self.met.setdefault(point, shown)
        return False


class _Killing:
    """Kills the process at one point."""

    def __init__(self, point: Point) -> None:
        self._point = point
        self.shown = ""

    def reach(self, point: Point, shown: str) -> bool:
        """Say whether this is the point, the first time."""
        if point != self._point or self.shown:
            return False
        self.shown = shown
        return True


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Plays the story in the same world again and again."""

    app: App | Function[Any]
    story: Story
    fresh: Callable[[], object] | None
    observe: Callable[[], object] | None
    start: datetime | str | None

    def play(self, points: _Noting | _Killing) -> tuple[Outcome, list[BodyRun]]:
        """Play one round; return what came out, and which bodies ran."""
        if self.fresh is not None:
            self.fresh()
        with Environment(self.app, start=self.start, points=points) as env:
            failure = ""
            try:
                play(self.story, env)
            except Exception as error:
                if isinstance(points, _Noting):
                    raise
                failure = f"{type(error).__name__}: {error}"
            # Before the environment is closed: its dead processes do nothing more until then.
            return outcome_of(env, self.observe, failure), list(env.stage.bodies.ran)


def _repeated(first: list[BodyRun], ran: list[BodyRun]) -> list[tuple[str, str, int]]:
    """Return the bodies that ran more often than without a crash, and how often."""
    usual = Counter((r.function, r.run, r.step) for r in first)
    now = Counter((r.function, r.run, r.step) for r in ran)
    return [(f, s, times) for (f, n, s), times in now.items() if times > usual[f, n, s]]


def _grouped(crashes: Sequence[Crash]) -> list[tuple[Crash, list[Crash]]]:
    """Put crashes together that make the same difference; each with the others like it."""
    groups: dict[tuple[object, ...], list[Crash]] = {}
    for crash in crashes:
        groups.setdefault((*crash.repeated, *crash.differences), []).append(crash)
    return [(group[0], group[1:]) for group in groups.values()]


def _unstable(differences: Sequence[str]) -> str:
    shown = "\n".join(indent(difference, "  ") for difference in differences)
    return (
        "the story comes out differently when it is played again, even without a crash, so that"
        f" crashes cannot be judged:\n{shown}\n"
        "Put the world back with fresh=…, and see assert_deterministic for the functions' own code."
    )
