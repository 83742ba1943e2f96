"""Suspects: which runs go on after the process died, and which one is to blame."""

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import fail_run
from stepfold_engine.core.limits import Limits
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_schemas.entries import (
    Entry,
    Error,
    Operation,
    StepFailed,
    SuspectsCleared,
    SuspectsResumed,
)
from stepfold_schemas.ids import key_of


def next_trial(state: Partition) -> list[Entry]:
    """Return the decision that lets the next suspects go on, or nothing."""
    trials = state.trials
    if trials.running or not trials.suspects:
        return []
    keys = list(trials.suspects)[: trials.width]
    runs = [run.id for key in keys if (run := state.runs.get(key)) is not None]
    return [SuspectsResumed(runs, trials.width)]


def clear(state: Partition, keys: list[bytes]) -> list[Entry]:
    """Return the decision that these suspects got on (they survived for long enough)."""
    runs = [run.id for key in keys if (run := state.runs.get(key)) is not None]
    return [SuspectsCleared(runs)] if runs else []


def condemned(state: Partition, limits: Limits) -> Run | None:
    """Return a run under which the process died too often, or None."""
    for key in state.trials.suspects:
        run = state.runs.get(key)
        if run is not None and run.deaths >= limits.deaths:
            return run
    return None


def condemn(state: Partition, run: Run, now_ms: int, events: list[bytes]) -> list[Entry]:
    """Return the decision that fails what kills the process: the step under way, else the run.

    Nothing follows if the run has ended since it was found.
    """
    if key_of(run.id) not in state.runs:
        return []
    running = [o for o in run.operations.values() if o.kind == "running"]
    if len(running) == 1:
        step = running[0]
        text = _message(run, f"step {step.name!r}")
        error = Error("ProcessDiedError", text)
        failed = StepFailed(run.id, step.step, step.name, step.attempt, now_ms, error)
        return [failed, SuspectsCleared([run.id])]
    draft = Draft(state)
    error = Error("ProcessDiedError", _message(run, _what(running)))
    fail_run(draft, state, run, error, now_ms, events)
    return draft.entries


def _what(running: list[Operation]) -> str:
    if not running:
        return "the function's own code"
    return "one of the steps " + ", ".join(repr(o.name) for o in running)


def _message(run: Run, what: str) -> str:
    return (
        f"the process died {run.deaths} times while nothing but this run was going on, in {what}."
        " It was killed from inside (a crash of native code, os._exit) or from outside for what it"
        " used (memory); it is not tried again."
    )
