"""The watchdog: notices a user loop that does not turn, and says what holds it up.

A loop that waits for I/O or time is not blocked; one whose callback runs on and on is. It is seen
by a thread that looks now and then, so that the loop itself pays almost nothing.
"""

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from stepfold.attempts import Attempt, AttemptRunner
from stepfold.driver import Life
from stepfold.loop import UserLoop
from stepfold.origins import Origins
from stepfold.scope import Scope
from stepfold_schemas.ids import ulid_text

_log = logging.getLogger("stepfold")

LOOKS = 4
"""How often a loop is looked at before it counts as blocked.

More than once, since the whole process may have been stopped in between.
"""


_frames = sys._current_frames  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - nothing else shows another thread's stack


@dataclass(frozen=True, slots=True)
class Culprit:
    """What blocks a loop.

    Attributes:
        life: the run whose own code blocks it, or None if it is a step's body or unknown.
        what: the run and the step, for people.
        place: file and line.
    """

    life: Life | None
    what: str
    place: str


class Watchdog:
    """Watches one loop at a time.

    Args:
        blocked_s: how long a loop may not turn.
        blocked: called, on the watchdog's thread, with the loop and what blocks it; it returns
            the loop to watch from then on.
    """

    def __init__(self, blocked_s: float, blocked: Callable[[UserLoop, Culprit], UserLoop]) -> None:
        self._blocked_s, self._blocked = blocked_s, blocked
        self._ended = threading.Event()

    def watch(self, loop: UserLoop) -> None:
        """Start watching."""
        threading.Thread(
            target=self._look, args=(loop,), name="stepfold-watchdog", daemon=True
        ).start()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _look(self, loop: UserLoop) -> None:
        turns, looks = -1, 0
        while not self._ended.wait(self._blocked_s / LOOKS):
            if loop.waits or loop.turns != turns or loop.thread_id is None:
                turns, looks = loop.turns, 0
                continue
            looks += 1
            if looks >= LOOKS:
                frame = _frames().get(loop.thread_id)
                loop, turns, looks = self._blocked(loop, find_culprit(frame)), -1, 0


def find_culprit(frame: FrameType | None) -> Culprit:
    """Say what the code of a stack belongs to; ``frame`` is its innermost one."""
    innermost, place = frame, ""
    libraries = Origins("")
    while frame is not None:
        if not place and libraries.is_own_file(frame):
            place = _shown(frame)
        if frame.f_code is _RUN_ATTEMPT:
            attempt: Attempt = frame.f_locals["attempt"]
            what = f"step {attempt.name!r} of run {ulid_text(attempt.run)}"
            return Culprit(None, what, place or _shown(innermost))
        scope = frame.f_locals.get("scope") if frame.f_code.co_name == "_run" else None
        if isinstance(scope, Scope) and isinstance(scope.host, Life):
            life = scope.host
            what = f"the code of run {ulid_text(life.run)} of {life.function_id}"
            return Culprit(life, what, place or _shown(innermost))
        frame = frame.f_back
    return Culprit(None, "code that belongs to no run", place or _shown(innermost))


_RUN_ATTEMPT = AttemptRunner.run_async.__code__


def _shown(frame: FrameType | None) -> str:
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def warn(culprit: Culprit, seconds: float, *, moved: bool) -> None:
    """Tell people."""
    rest = (
        "all other runs go on on another loop"
        if moved
        else "too many loops are blocked already, so that other runs have to wait"
    )
    _log.warning(
        "%s has blocked the event loop for %.1f s, at %s; %s. Code that computes or blocks belongs"
        " into a step with a plain def, which runs in a thread, or into asyncio.to_thread",
        culprit.what,
        seconds,
        culprit.place or "an unknown place",
        rest,
    )
