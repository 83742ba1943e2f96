"""What the beginning and the end of a run entail, wherever they are decided."""

import json
from collections.abc import Mapping, Sequence

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_schemas import codec, strict
from stepfold_schemas.entries import (
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


ENDS = (RunCompleted, RunFailed, RunCancelled)
"""The entries that end a run."""


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
            [],
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
    parts = {
        b"function_id": json_bytes(run.function),
        b"run_id": json_bytes(text),
        b"event": _written(codec.decode_event(events[0])) if events else b"null",
        b"error": json_bytes({"name": error.name, "message": error.message, "stack": error.stack}),
    }
    return Event(FAILED_EVENT, _joined(parts), f"failure-{text}", now_ms, received_ms=now_ms)


def _written(event: Event) -> bytes:
    """Write an event as JSON. Its data stays as it is: written anew it might be far longer."""
    parts = {
        b"name": json_bytes(event.name),
        b"data": event.data,
        b"id": json_bytes(event.id or event.internal),
        b"ts": b"%d" % event.ts,
        b"user": event.user,
    }
    return _joined(parts)


def _joined(parts: Mapping[bytes, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % part for part in parts.items()) + b"}"


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
    """Return an event as plain values, as expressions and functions see it.

    Raises:
        ValueError: its data, or its user, is not a JSON object that everybody can read.
    """
    return {
        "name": event.name,
        "data": _object(event, "data", event.data),
        "id": event.id or event.internal,
        "ts": event.ts,
        "user": _object(event, "user", event.user),
    }


def _object(event: Event, field: str, data: bytes) -> dict[str, object]:
    try:
        return strict.read_object(data)
    except ValueError as error:
        raise ValueError(f"event {event.name}: {field}: {error}") from error


def json_bytes(value: object) -> bytes:
    """Write plain values as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
