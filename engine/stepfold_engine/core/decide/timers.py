"""Something came due. Each that still means something becomes a decision of its own."""

from dataclasses import dataclass

from stepfold_engine.core import timers
from stepfold_engine.core.decide.crons import cron_due
from stepfold_engine.core.decide.debounces import debounce_due
from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import cancel_run
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.core.timers import Due
from stepfold_schemas.entries import (
    Entry,
    Error,
    InvokeFailed,
    SignalFreed,
    SignalWaitEnded,
    SleepEnded,
    TimerFired,
    WaitTimedOut,
)
from stepfold_schemas.ids import home_of
from stepfold_schemas.messages import SignalWaitClosed


@dataclass(frozen=True, slots=True)
class Retry:
    """Nothing to record: a step's (or, with an empty step, the run's) next attempt may begin."""

    run: bytes
    step: bytes
    attempt: int


def timer_due(
    state: Partition, due: Due, matching: Matching, now_ms: int, *, live: bool
) -> list[Entry] | Retry:
    """Return what follows from a timer that came due; an empty list if it means nothing any more.

    ``live``: the run's code was given to a worker, so it no longer waits to start.
    """
    due_ms, key, what = due
    if key == timers.CRON:
        return cron_due(state, what.decode(), due_ms, matching, now_ms)
    run = state.runs.get(key)
    if run is None:
        return []
    if len(what) == 1:
        return _of_run(state, run, due_ms, what, live=live)
    operation = run.operations.get(what)
    if operation is None or operation.due_ms != due_ms:
        return []
    match operation.kind:
        case "sleep":
            return [SleepEnded(run.id, what)]
        case "timer":
            return [TimerFired(run.id, what)]
        case "step":
            return Retry(run.id, what, operation.attempt + 1)
        case "invoke":
            text = f"{operation.target} did not end before the timeout of step {operation.name!r}"
            return [InvokeFailed(run.id, what, Error("InvokeTimeoutError", text))]
        case _:
            return []


def _of_run(
    state: Partition, run: Run, due_ms: int, what: bytes, *, live: bool
) -> list[Entry] | Retry:
    draft = Draft(state)
    if what == timers.RUN_DUE and run.due_ms == due_ms and not run.begun:
        return Retry(run.id, b"", run.attempt)
    if what == timers.RUN_RETRY and run.retry_at_ms == due_ms:
        return Retry(run.id, b"", run.attempt)
    if what == timers.RUN_START_BY and run.start_by_ms == due_ms and not run.begun and not live:
        cancel_run(draft, run, "it did not start within its start timeout", state.count)
    if what == timers.RUN_FINISH_BY and run.finish_by_ms == due_ms:
        cancel_run(draft, run, "it did not end within its finish timeout", state.count)
    return draft.entries


def held_timer_due(state: Partition, due: Due, matching: Matching, now_ms: int) -> list[Entry]:
    """Return what follows from the end of a wait, once all that was appended before it is read."""
    due_ms, key, what = due
    if key == timers.DEBOUNCE:
        return debounce_due(state, what.decode(), due_ms, matching, now_ms)
    if not key:
        return _signal_timed_out(state, what.decode(), due_ms)
    run = state.runs.get(key)
    operation = run.operations.get(what) if run is not None else None
    if run is None or operation is None or operation.due_ms != due_ms or operation.held:
        return []
    if operation.kind == "signal":
        return [SignalWaitEnded(run.id, what, "timed-out", b"")]
    return [WaitTimedOut(run.id, what)]


def _signal_timed_out(state: Partition, signal: str, due_ms: int) -> list[Entry]:
    holder = state.signals.get(signal)
    if holder is None or holder.due_ms != due_ms:
        return []
    draft = Draft(state)
    draft.add(SignalFreed(signal))
    closed = SignalWaitClosed(holder.run, holder.step, "timed-out", b"")
    draft.send(home_of(holder.run), closed)
    return draft.entries
