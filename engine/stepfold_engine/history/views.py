"""Runs as people ask for them: the index's row and the live state, in one word."""

from dataclasses import dataclass

from stepfold_engine.core.run import Run
from stepfold_engine.history.store import CANCELLED, COMPLETED, FAILED, RUNNING, Row
from stepfold_schemas.entries import Error, Operation

SCHEDULED, WAITING, RETRYING = "scheduled", "waiting", "retrying"
STOPPED, WITHOUT_CODE = "stopped", "waiting-for-code"
LIVE_STATUSES = (SCHEDULED, RUNNING, WAITING, RETRYING, STOPPED, WITHOUT_CODE)
STATUSES = (*LIVE_STATUSES, COMPLETED, FAILED, CANCELLED)

_STEP_KINDS = ("step", "running")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that a run waits for.

    Attributes:
        kind: ``sleep``, ``timer``, ``wait``, ``signal``, ``invoke``, ``step`` (to be tried
            again) or ``running`` (an attempt).
        name: the step's.
        target: the event's name, the signal, or the function.
        until_ms: when the wait ends at the latest; 0 if never.
    """

    kind: str
    name: str
    target: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as a caller sees it; ``ended_ms`` is 0 while it is unfinished.

    Attributes:
        failures: how many attempts of its steps, and of its own code, failed.
        events: internal ids of the events that started it; ``event`` is the first one's name.
        attempt: the attempt of the function's own code, from 1; 0 for an ended run.
        seqs: the decisions of its journal.
        waits_for: the version of its function that no process here has; "" if it waits for none.
    """

    id: bytes
    function: str
    status: str
    partition: int
    started_ms: int
    ended_ms: int
    failures: int
    event: str
    events: list[str]
    attempt: int
    waiting: list[Waiting]
    seqs: list[int]
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are asked for. "" and 0 mean any; ``before`` is a run's id, for the next page."""

    status: str = ""
    function: str = ""
    since_ms: int = 0
    limit: int = 20
    before: bytes = b"\xff" * 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an ended run returned (JSON), its error, or why it was cancelled."""

    data: bytes = b"null"
    error: Error | None = None
    reason: str = ""


def ended_view(row: Row) -> RunView:
    """Return the view of a run that has ended, or whose end is on its way."""
    return RunView(
        row.id,
        row.function,
        row.status,
        row.partition,
        row.started_ms,
        row.ended_ms,
        row.failures,
        row.event,
        row.events,
        0,
        [],
        row.seqs,
    )


def live_view(run: Run, row: Row | None, partition: int, now_ms: int, *, served: bool) -> RunView:
    """Return the view of an unfinished run. The index may not know it yet."""
    return RunView(
        run.id,
        run.function,
        status_of(run, now_ms, served=served),
        partition,
        run.started_ms,
        0,
        row.failures if row is not None else 0,
        row.event if row is not None else "",
        row.events if row is not None else list(run.received[:1]),
        run.attempt,
        [_waiting(o) for o in run.operations.values()],
        list(run.seqs),
        "" if served else run.version,
    )


def status_of(run: Run, now_ms: int, *, served: bool) -> str:
    """Say in one word where an unfinished run stands."""
    if run.stopped:
        return STOPPED
    if not run.begun and run.due_ms > now_ms:
        return SCHEDULED
    if not served:
        return WITHOUT_CODE
    if run.retry_at_ms > now_ms:
        return RETRYING
    kinds = {o.kind for o in run.operations.values()}
    if "step" in kinds and "running" not in kinds and not kinds - {"step", "timer"}:
        return RETRYING
    return WAITING if run.parked or kinds - set(_STEP_KINDS) else RUNNING


def _waiting(operation: Operation) -> Waiting:
    condition = operation.condition
    target = condition.event if condition is not None else operation.target
    return Waiting(operation.kind, operation.name, target, operation.due_ms)
