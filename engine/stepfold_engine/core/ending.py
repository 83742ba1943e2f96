"""What the beginning and the end of a run entail, wherever they are decided."""

import json
from collections.abc import Sequence

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Cancellation,
    Error,
    FunctionSpec,
    Invoker,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import home_of, partition_of, run_id, run_key, ulid_text
from stepfold_schemas.messages import InvocationEnded, SignalWaitWithdrawn

FAILED_EVENT = "stepfold/function.failed"
INVOKED_EVENT = "stepfold/function.invoked"


def start_run(  # noqa: PLR0913 - the parts of one fact
    draft: Draft,
    spec: FunctionSpec,
    key: bytes,
    events: list[bytes],
    *,
    now_ms: int,
    due_ms: int = 0,
    event_ids: list[str] | None = None,
    remembered: bool = False,
    cancellations: list[Cancellation] | None = None,
    invoker: Invoker | None = None,
) -> None:
    """Add the entry that a run of this function exists; its code begins at ``due_ms``."""
    begin_ms = max(now_ms, due_ms)
    draft.add(
        RunStarted(
            run_id(now_ms, key),
            spec.id,
            spec.version,
            spec.fingerprint,
            events,
            event_ids or [],
            remembered,
            due_ms if due_ms > now_ms else 0,
            begin_ms + spec.start_timeout_ms if spec.start_timeout_ms else 0,
            begin_ms + spec.finish_timeout_ms if spec.finish_timeout_ms else 0,
            spec.retry,
            cancellations or [],
            spec.on_failure,
            invoker,
        )
    )


def complete_run(draft: Draft, run: Run, data: bytes, count: int) -> None:
    """Add a run's end with a result, and what follows from it."""
    draft.add(RunCompleted(run.id, data))
    _tell_others(draft, run, data, None, count)


def fail_run(
    draft: Draft, state: Partition, run: Run, error: Error, now_ms: int, events: Sequence[bytes]
) -> None:
    """Add a run's end with an error, and what follows: its invoker and its handler hear of it.

    ``events`` are what started the run; its handler gets the first.
    """
    draft.add(RunFailed(run.id, error))
    _tell_others(draft, run, b"null", error, state.count)
    spec = state.functions.get(run.on_failure)
    if spec is None:
        return
    key = run_key(state.number, spec.id, f"failure of {run.id.hex()}")
    if not state.knows(key):
        event = failure_event(run, error, now_ms, events)
        start_run(draft, spec, key, [codec.encode(event)], now_ms=now_ms)


def cancel_run(draft: Draft, run: Run, reason: str, count: int) -> None:
    """Add a run's end by cancellation, and what follows from it."""
    draft.add(RunCancelled(run.id, reason))
    error = Error("RunCancelledError", f"the invoked run was cancelled: {reason}")
    _tell_others(draft, run, b"null", error, count)


def failure_event(run: Run, error: Error, now_ms: int, events: Sequence[bytes]) -> Event:
    """Make the event that a failure handler gets."""
    text = ulid_text(run.id)
    data = {
        "function_id": run.function,
        "run_id": text,
        "event": values_of(codec.decode_event(events[0])) if events else None,
        "error": {"name": error.name, "message": error.message, "stack": error.stack},
    }
    return Event(FAILED_EVENT, json_bytes(data), f"failure-{text}", now_ms, received_ms=now_ms)


def _tell_others(draft: Draft, run: Run, data: bytes, error: Error | None, count: int) -> None:
    for operation in run.operations.values():
        if operation.kind == "signal" and operation.target:
            home = partition_of(operation.target, count)
            draft.send(home, SignalWaitWithdrawn(run.id, operation.step, operation.target))
    if run.invoker is not None:
        invoker = run.invoker
        ended = InvocationEnded(invoker.run, invoker.step, data, error)
        draft.send(home_of(invoker.run), ended)


def values_of(event: Event) -> dict[str, object]:
    """Return an event as plain values, as expressions and functions see it."""
    return {
        "name": event.name,
        "data": json.loads(event.data),
        "id": event.id or event.internal,
        "ts": event.ts,
        "user": json.loads(event.user),
    }


def json_bytes(value: object) -> bytes:
    """Write plain values as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
