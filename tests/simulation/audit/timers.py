"""Timers fire at or after their time, by the clock of the process that decides.

That nothing fires twice follows from there being one outcome for each (``stories``); that retries
do not begin too early is checked against what programs did (``code``).
"""

from collections.abc import Iterator

from stepfold_schemas.entries import (
    InvokeBegan,
    InvokeFailed,
    MessageQueued,
    RunCancelled,
    SignalFreed,
    SignalHeld,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    TimerFired,
    TimerSet,
)
from stepfold_schemas.messages import SignalWaitClosed
from tests.simulation.audit.findings import TIMER
from tests.simulation.audit.journal import Kept
from tests.simulation.audit.stories import Fact, Story
from tests.simulation.audit.world import World, message_of

START_TIMEOUT = "start timeout"
FINISH_TIMEOUT = "finish timeout"
INVOKE_TIMEOUT = "InvokeTimeoutError"


def check(world: World) -> None:
    """Check when everything that has a time came about."""
    for story in world.stories.values():
        for step, outcome in story.outcomes.items():
            due_ms = _due_ms(story, step, outcome, world.setup.clock_skew_ms)
            if due_ms:
                what = f"{type(outcome.entry).__name__} of step {story.name(step)} of {story}"
                _not_early(world, story, what, due_ms, outcome.kept)
        end = story.end
        if end is not None and isinstance(end.entry, RunCancelled):
            for by_ms, reason in (
                (story.start.entry.start_by_ms, START_TIMEOUT),
                (story.start.entry.finish_by_ms, FINISH_TIMEOUT),
            ):
                if reason in end.entry.reason:
                    _not_early(world, story, f"{story} is cancelled", by_ms, end.kept)
    _check_signals(world)


def _due_ms(story: Story, step: bytes, outcome: Fact[object], skew_ms: int) -> int:
    """Return when this outcome may come at the earliest; 0 if that does not depend on time."""
    began = story.began.get(step)
    if began is None:
        return 0
    match began.entry, outcome.entry:
        case (SleepBegan(), SleepEnded()) | (TimerSet(), TimerFired()):
            return began.entry.due_ms
        case InvokeBegan(), InvokeFailed() if timed_out(began.entry, outcome.entry):
            return began.entry.due_ms
        case SignalWaitBegan(), SignalWaitEnded(reason="timed-out"):
            # The signal's home decided by its clock, which may be ahead of this one.
            return began.entry.due_ms - 2 * skew_ms
        case _:
            return 0


def timed_out(began: InvokeBegan, failed: InvokeFailed) -> bool:
    """Say whether an invocation ended by its own timeout, not by one that the other run met."""
    error = failed.error
    asked = error.message.startswith(f"{began.function} ") and f"{began.name!r}" in error.message
    return error.name == INVOKE_TIMEOUT and asked


def _not_early(world: World, story: Story, what: str, due_ms: int, kept: Kept) -> None:
    at_ms = kept.decision.at_ms
    if at_ms < due_ms:
        text = f"{what} in {kept} at {at_ms}, {due_ms - at_ms} ms before it was due"
        world.findings.add(TIMER, text, story.run, kept.order)


def _check_signals(world: World) -> None:
    """Check the timeouts that the homes of signals decided."""
    for journal in world.journals:
        held: dict[str, SignalHeld] = {}
        for kept in journal.kept:
            for entry in kept.decision.entries:
                if isinstance(entry, SignalHeld):
                    held[entry.signal] = entry
                elif isinstance(entry, SignalFreed):
                    holder = held.pop(entry.signal, None)
                    if holder is None or kept.decision.at_ms >= holder.due_ms:
                        continue
                    if any(c.run == holder.run for c in _timed_out(kept)):
                        text = f"the wait for signal {entry.signal!r} timed out in {kept},"
                        text += f" {holder.due_ms - kept.decision.at_ms} ms before it was due"
                        world.findings.add(TIMER, text, holder.run, kept.order)


def _timed_out(kept: Kept) -> Iterator[SignalWaitClosed]:
    for entry in kept.decision.entries:
        if isinstance(entry, MessageQueued):
            message = message_of(entry.message)
            if isinstance(message, SignalWaitClosed) and message.reason == "timed-out":
                yield message
