"""Patience: how long it makes sense to let time pass while runs have not ended."""

from collections.abc import Sequence

from stepfold.testing.happenings import Schedule
from stepfold.testing.runs import Run
from stepfold.testing.stage import Stage

IDLE_MS_MAX = 3_600_000
"""How much time may pass without anything being recorded when nothing is due."""

QUIET_MS_MAX = 366 * 86_400_000
"""How much time may pass without anything being recorded while bodies of steps are under way."""


class Awaited:
    """The runs whose end is awaited: some, or all there are, and those that debounces start.

    Runs that a cron starts meanwhile are not among all of them: there would be no end.
    """

    def __init__(self, stage: Stage, runs: Sequence[Run]) -> None:
        self._stage, self._runs = stage, runs
        self._known = set(stage.witness.stories)

    def left(self) -> list[Run]:
        """Return those that have not ended."""
        if self._runs:
            return [run for run in self._runs if not run.ended]
        witness = self._stage.witness
        by_cron = witness.by_cron - self._known
        return [Run(self._stage, s) for s in witness.unfinished() if s.id not in by_cron]

    def is_over(self) -> bool:
        """Say whether all have ended, and none is about to start."""
        return not self.left() and (bool(self._runs) or not self._stage.witness.is_pending())


class Patience:
    """Lets time pass until runs have ended, or nothing can come of waiting.

    Args:
        stage: where they run.
        schedule: what the test lets happen; time passes up to the next of it.
        awaited: the runs.

    Attributes:
        lost: nothing can come of waiting.
    """

    def __init__(self, stage: Stage, schedule: Schedule, awaited: "Awaited") -> None:
        self._stage, self._schedule, self._awaited = stage, schedule, awaited
        self._changes: int = 0
        self._since_ms: float = stage.life.loop.exact_ms
        self.lost = False

    def lasts(self, next_ms: float) -> bool:
        """Say whether time is to pass until then, when the next timer is due."""
        left = self._awaited.left()
        if self._awaited.is_over() or next_ms > self._schedule.next_ms:
            return False
        witness = self._stage.witness
        if witness.changes != self._changes:
            self._changes, self._since_ms = witness.changes, self._stage.life.loop.exact_ms
        if left and all(run.status == "stopped" for run in left):
            self.lost = True
        elif self._stage.bodies.any_under_way:
            self.lost = next_ms > self._since_ms + QUIET_MS_MAX
        elif witness.next_due_ms() is None:
            self.lost = next_ms > self._since_ms + IDLE_MS_MAX
        return not self.lost


def stuck(left: Sequence[Run], unfinished: Sequence[Run]) -> str:
    """Say what runs wait for that do not end, and which others have not ended either."""
    lines = [f"{len(left)} runs do not end, however much time passes:"]
    for run in left:
        lines += ["", run.explain()]
        if run.status != "stopped" and not run.waits_for:
            lines.append(
                "  waits for something that is not recorded: an asyncio lock, event or future, or"
                " I/O of the function's own code"
            )
    others = [run for run in unfinished if run not in left]
    if others:
        lines += ["", "also unfinished:", *(f"  {run!r}" for run in others)]
    return "\n".join(lines)
