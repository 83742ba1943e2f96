"""A worker reported what a run's code did: outcomes of attempts, new operations, its end.

What is late, or was decided already, is passed over without a word: an attempt that is not the
current one, an outcome of a finished step, anything of an ended run.
"""

from collections.abc import Callable
from typing import Any

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import INVOKED_EVENT, complete_run, fail_run
from stepfold_engine.core.inputs import RunReported
from stepfold_engine.core.limits import CONDITIONS_BYTES_MAX, DAY_MS, NAME_CHARS_MAX, Limits
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.retry import retry_delay_ms
from stepfold_engine.core.run import Run
from stepfold_engine.errors import InvalidOptionError
from stepfold_schemas import codec, strict
from stepfold_schemas.entries import (
    AttemptStarted,
    Condition,
    Entry,
    Error,
    InvokeBegan,
    Invoker,
    OperationsAbandoned,
    RunAttemptFailed,
    RunParked,
    RunStopped,
    SignalWaitBegan,
    SleepBegan,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerSet,
    VersionChosen,
    WaitBegan,
)
from stepfold_schemas.events import EVENT_BYTES_MAX, Event
from stepfold_schemas.ids import invocation_cause, key_of, partition_of, run_key
from stepfold_schemas.messages import RunRequested, SignalWaitRequested, SignalWaitWithdrawn
from stepfold_schemas.reports import (
    AskAbandon,
    AskInvoke,
    AskSignal,
    AskSleep,
    AskTimer,
    AskWait,
    AttemptFailed,
    AttemptRunning,
    AttemptSucceeded,
    ReportItem,
    RunDiverged,
    RunIdle,
    RunRaised,
    RunReturned,
    VersionAsked,
)

TIMER_MS_MAX = 1_000 * 366 * DAY_MS
"""An asyncio timer is not a wait and may be set for ever: that is a thousand years."""

START_OF_RUN = -1
"""``AskWait.since_ms``: look back to what started the run."""


class _Report:
    """What the handlers of a report's items share while they gather its decision."""

    __slots__ = (
        "conditions_bytes",
        "draft",
        "events",
        "fresh",
        "limits",
        "matching",
        "now_ms",
        "over",
        "run",
        "state",
    )

    def __init__(
        self,
        state: Partition,
        run: Run,
        reported: RunReported,
        matching: Matching,
        limits: Limits,
    ) -> None:
        self.state = state
        self.run = run
        self.events = reported.events
        self.matching = matching
        self.limits = limits
        self.draft = Draft(state)
        self.now_ms = 0
        self.fresh: set[bytes] = set()
        self.conditions_bytes = -1
        self.over = False

    def is_new(self, step: bytes) -> bool:
        """Say whether an operation was not asked for before."""
        run = self.run
        return step not in run.done and step not in run.operations and step not in self.fresh

    def fail(self, name: str, message: str) -> None:
        """End the run: it broke a limit."""
        error = Error(name, message)
        fail_run(self.draft, self.state, self.run, error, self.now_ms, self.events)
        self.over = True


def run_reported(
    state: Partition, reported: RunReported, matching: Matching, limits: Limits, now_ms: int
) -> list[Entry]:
    """Return the decision that follows from a report."""
    run = state.runs.get(key_of(reported.run))
    if run is None:
        return []
    report = _Report(state, run, reported, matching, limits)
    report.now_ms = now_ms
    for item in reported.items:
        _HANDLERS[type(item)](report, item)
        if report.over:
            break
    return report.draft.entries


def current_attempt(run: Run, step: bytes) -> int:
    """Return the number of the attempt of a step that runs, or comes next."""
    operation = run.operations.get(step)
    if operation is None:
        return 1
    return operation.attempt + 1 if operation.kind == "step" else max(operation.attempt, 1)


def _counts(report: _Report, item: AttemptSucceeded | AttemptFailed | AttemptRunning) -> bool:
    run = report.run
    if item.step in run.done or item.step in report.fresh:
        return False
    return item.attempt == current_attempt(run, item.step)


def _within_steps(report: _Report, name: str) -> bool:
    steps = report.run.steps + len(report.fresh)
    if steps < report.limits.steps:
        return True
    report.fail(
        "StepLimitError",
        f"step {name!r} would be number {steps + 1} of this run; the limit is"
        f" {report.limits.steps} steps a run. Split the function: invoke others for parts of it,"
        " or do more in one step.",
    )
    return False


def _succeeded(report: _Report, item: AttemptSucceeded) -> None:
    if not _counts(report, item):
        return
    known = item.step in report.run.operations
    if not known and not _within_steps(report, item.name):
        return
    size = report.run.state_bytes + len(item.data)
    if size > report.limits.state_bytes:
        report.fail(
            "StateLimitError",
            f"step {item.name!r} returned {len(item.data)} bytes, with which this run's outcomes"
            f" take {size} bytes; the limit is {report.limits.state_bytes}. Return references to"
            " large data, not the data.",
        )
        return
    report.fresh.add(item.step)
    report.draft.add(
        StepCompleted(report.run.id, item.step, item.name, item.attempt, item.started_ms, item.data)
    )


def _failed(report: _Report, item: AttemptFailed) -> None:
    if not _counts(report, item):
        return
    if item.step not in report.run.operations and not _within_steps(report, item.name):
        return
    report.fresh.add(item.step)
    run, policy = report.run, item.policy or report.run.retry
    if item.permanent or item.attempt > policy.retries:
        report.draft.add(
            StepFailed(run.id, item.step, item.name, item.attempt, item.started_ms, item.error)
        )
        return
    delay = item.retry_after_ms
    if delay < 0:
        delay = retry_delay_ms(policy, item.attempt, run.id + item.step)
    report.draft.add(
        StepAttemptFailed(
            run.id,
            item.step,
            item.name,
            item.attempt,
            item.started_ms,
            item.error,
            report.now_ms + delay,
        )
    )


def _running(report: _Report, item: AttemptRunning) -> None:
    if item.step and not _counts(report, item):
        return
    report.draft.add(
        AttemptStarted(report.run.id, item.step, item.name, item.attempt, item.started_ms)
    )


def _asked(report: _Report, step: bytes, name: str) -> bool:
    if not report.is_new(step) or not _within_steps(report, name):
        return False
    report.fresh.add(step)
    return True


def _sleep(report: _Report, item: AskSleep) -> None:
    if _asked(report, item.step, item.name):
        due_ms = item.until_ms or report.now_ms + item.duration_ms
        due_ms = min(due_ms, report.now_ms + report.limits.wait_ms)
        report.draft.add(SleepBegan(report.run.id, item.step, item.name, due_ms))


def _timer(report: _Report, item: AskTimer) -> None:
    if report.is_new(item.step):
        report.fresh.add(item.step)
        due_ms = report.now_ms + min(max(item.delay_ms, 0), TIMER_MS_MAX)
        report.draft.add(TimerSet(report.run.id, item.step, item.name, due_ms))


def _wait(report: _Report, item: AskWait) -> None:
    if not _asked(report, item.step, item.name):
        return
    run, now_ms = report.run, report.now_ms
    try:
        condition = report.matching.bind(item.event, item.expression, item.match, item.trigger)
        _check_conditions(report, condition)
    except (InvalidOptionError, ValueError) as error:
        _refuse(report, item, error)
        return
    since_ms = _trigger_ms(report) if item.since_ms == START_OF_RUN else item.since_ms
    due_ms = now_ms + min(item.timeout_ms, report.limits.wait_ms)
    report.draft.add(WaitBegan(run.id, item.step, item.name, condition, due_ms, since_ms))


def _trigger_ms(report: _Report) -> int:
    """Return when what started the run was taken in.

    The run's own beginning was decided later, after a pause of the process much later: what was
    appended in between came after the trigger.
    """
    times_ms = [codec.decode_event(event).received_ms for event in report.events]
    return max(1, min([report.run.started_ms, *times_ms]))


def _refuse(report: _Report, item: AskWait | AskSignal | AskInvoke, error: Exception) -> None:
    """Fail an operation that cannot begin: its code gets an error that says why."""
    refused = Error("InvalidOptionError", f"step {item.name!r}: {error}")
    failed = StepFailed(report.run.id, item.step, item.name, 1, report.now_ms, refused)
    report.draft.add(failed)


def _check_conditions(report: _Report, new: Condition) -> None:
    if report.conditions_bytes < 0:
        old = [o.condition for o in report.run.operations.values() if o.condition is not None]
        report.conditions_bytes = sum(map(_size, old))
    report.conditions_bytes += _size(new)
    if report.conditions_bytes > CONDITIONS_BYTES_MAX:
        raise ValueError(
            f"the conditions of this run's waits take {report.conditions_bytes} bytes together;"
            f" the limit is {CONDITIONS_BYTES_MAX}. Compare less, or wait for fewer at once"
        )


def _size(condition: Condition) -> int:
    terms = sum(len(term.path) + len(term.value) for term in condition.terms)
    return len(condition.event) + len(condition.expression) + len(condition.bindings) + terms


def _signal(report: _Report, item: AskSignal) -> None:
    if not _asked(report, item.step, item.name):
        return
    try:
        strict.check_name("the signal's name", item.signal, NAME_CHARS_MAX)
    except ValueError as error:
        _refuse(report, item, error)
        return
    run = report.run
    due_ms = report.now_ms + min(item.timeout_ms, report.limits.wait_ms)
    report.draft.add(
        SignalWaitBegan(run.id, item.step, item.name, item.signal, due_ms, item.on_conflict)
    )
    report.draft.send(
        partition_of(item.signal, report.state.count),
        SignalWaitRequested(run.id, item.step, item.signal, due_ms, item.on_conflict),
    )


def _invoke(report: _Report, item: AskInvoke) -> None:
    if not _asked(report, item.step, item.name):
        return
    run, now_ms = report.run, report.now_ms
    try:
        _check_invocation(item)
    except ValueError as error:
        _refuse(report, item, error)
        return
    due_ms = now_ms + min(item.timeout_ms, report.limits.wait_ms)
    report.draft.add(InvokeBegan(run.id, item.step, item.name, item.function, due_ms))
    cause = invocation_cause(run.id, item.step)
    home = partition_of(cause, report.state.count)
    event = Event(INVOKED_EVENT, item.data, cause, now_ms, received_ms=now_ms)
    key = run_key(home, item.function, cause)
    invoker, spec = Invoker(run.id, item.step), report.state.functions.get(item.function)
    message = RunRequested(item.function, key, cause, [codec.encode(event)], 0, invoker, spec)
    report.draft.send(home, message)


def _check_invocation(item: AskInvoke) -> None:
    strict.check_name("the function's id", item.function, NAME_CHARS_MAX)
    if len(item.data) > EVENT_BYTES_MAX:
        msg = f"the data takes {len(item.data)} bytes of JSON, the limit is {EVENT_BYTES_MAX}"
        raise ValueError(msg)
    try:
        strict.read_object(item.data)
    except ValueError as error:
        raise ValueError(f"the data cannot be sent: {error}") from error


def _abandon(report: _Report, item: AskAbandon) -> None:
    run = report.run
    if item.step in run.done:
        return
    operation = run.operations.get(item.step)
    if operation is None and item.step not in report.fresh:
        # Nothing was recorded of it, and nothing will be: its late outcome must not count.
        report.fresh.add(item.step)
    report.draft.add(OperationsAbandoned(run.id, [item.step]))
    if operation is not None and operation.kind == "signal" and operation.target:
        home = partition_of(operation.target, report.state.count)
        report.draft.send(home, SignalWaitWithdrawn(run.id, item.step, operation.target))


def _idle(report: _Report, item: RunIdle) -> None:
    run = report.run
    if not run.parked and run.seqs[-1] <= item.seen:
        report.draft.add(RunParked(run.id))


def _returned(report: _Report, item: RunReturned) -> None:
    complete_run(report.draft, report.run, item.data, report.state.count)
    report.over = True


def _raised(report: _Report, item: RunRaised) -> None:
    run = report.run
    if item.attempt != run.attempt:
        return
    if item.permanent or item.attempt > run.retry.retries:
        fail_run(report.draft, report.state, run, item.error, report.now_ms, report.events)
        report.over = True
        return
    delay = item.retry_after_ms
    if delay < 0:
        delay = retry_delay_ms(run.retry, item.attempt, run.id)
    report.draft.add(RunAttemptFailed(run.id, item.attempt, item.error, report.now_ms + delay))


def _version(report: _Report, item: VersionAsked) -> None:
    report.draft.add(VersionChosen(report.run.id, item.name, item.chosen))


def _diverged(report: _Report, item: RunDiverged) -> None:
    if not report.run.stopped:
        report.draft.add(RunStopped(report.run.id, item.report))
    report.over = True


_HANDLERS: dict[type[ReportItem], Callable[[_Report, Any], None]] = {
    AttemptSucceeded: _succeeded,
    AttemptFailed: _failed,
    AttemptRunning: _running,
    AskSleep: _sleep,
    AskTimer: _timer,
    AskWait: _wait,
    AskSignal: _signal,
    AskInvoke: _invoke,
    AskAbandon: _abandon,
    RunIdle: _idle,
    RunReturned: _returned,
    RunRaised: _raised,
    VersionAsked: _version,
    RunDiverged: _diverged,
}
