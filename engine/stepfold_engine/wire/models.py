"""The JSON forms of events, runs and entries."""

from dataclasses import fields, is_dataclass

from stepfold.port import Fact
from stepfold_engine.history import Outcome, RunView, Waiting
from stepfold_engine.wire.replies import rfc3339
from stepfold_schemas import codec, strict
from stepfold_schemas.entries import Error
from stepfold_schemas.events import Event
from stepfold_schemas.ids import ulid_text

ACCOUNT = "00000000-0000-4000-a000-000000000000"
ENVIRONMENT = "00000000-0000-4000-b000-000000000000"
"""The fixed ids of a server for development."""

_TITLES = {
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "scheduled": "Scheduled",
}

JSON_FIELDS = frozenset({"data", "report", "bindings"})
_RUN_FIELDS = frozenset({"run", "holder", "origin", "seed"})


def event_row(event: Event) -> dict[str, object]:
    """Return an event as the v1 API shows it."""
    return {
        "internal_id": event.internal,
        "account_id": ACCOUNT,
        "environment_id": ENVIRONMENT,
        "source": "",
        "source_id": None,
        "received_at": rfc3339(event.received_ms),
        "id": event.id or event.internal,
        "name": event.name,
        "data": loaded(event.data),
        "user": loaded(event.user),
        "ts": event.ts,
    }


def run_row(view: RunView, outcome: Outcome | None) -> dict[str, object]:
    """Return a run as the v1 API shows it."""
    row: dict[str, object] = {
        "run_id": ulid_text(view.id),
        "run_started_at": rfc3339(view.started_ms),
        "function_id": view.function,
        "function_version": 1,
        "environment_id": ENVIRONMENT,
        "event_id": view.events[0] if view.events else "",
        "status": _TITLES.get(view.status, "Running"),
        "ended_at": rfc3339(view.ended_ms) if view.ended_ms else None,
    }
    if outcome is not None:
        row["output"] = output_of(outcome)
    return row


def output_of(outcome: Outcome) -> object:
    """Return what a run's end left: its result, its error, or nothing if it was cancelled."""
    return loaded(outcome.data) if outcome.error is None else error_body(outcome.error)


def error_body(error: Error) -> dict[str, object]:
    """Return an error as plain values."""
    body: dict[str, object] = {"name": error.name, "message": error.message}
    if error.stack:
        body["stack"] = error.stack
    if error.data != b"null":
        body["data"] = loaded(error.data)
    return body


def run_body(view: RunView) -> dict[str, object]:
    """Return a run as our own API shows it: one word for where it stands, and what it waits for."""
    return {
        "id": ulid_text(view.id),
        "function": view.function,
        "status": view.status,
        "partition": view.partition,
        "started_ms": view.started_ms,
        "ended_ms": view.ended_ms,
        "failures": view.failures,
        "attempt": view.attempt,
        "event": view.event,
        "events": view.events,
        "waiting": [waiting_body(w) for w in view.waiting],
        "decisions": len(view.seqs),
        "waits_for_version": view.waits_for,
    }


def waiting_body(waiting: Waiting) -> dict[str, object]:
    """Return something that a run waits for."""
    return {
        "kind": waiting.kind,
        "name": waiting.name,
        "target": waiting.target,
        "until_ms": waiting.until_ms,
    }


def outcome_body(outcome: Outcome) -> dict[str, object]:
    """Return how a run ended, in our own words."""
    if outcome.error is not None:
        return {"error": error_body(outcome.error)}
    if outcome.reason:
        return {"reason": outcome.reason}
    return {"data": loaded(outcome.data)}


def fact_body(run: bytes, fact: Fact, function: str = "") -> dict[str, object]:
    """Return an entry of a run's journal: its type, its time, its fields as plain values."""
    body: dict[str, object] = {"at_ms": fact.at_ms, "seq": fact.seq, "run": ulid_text(run)}
    if function:
        body["function"] = function
    body["type"] = type(fact.entry).__name__
    for f in fields(fact.entry):
        if f.name != "run":
            body[f.name] = _plain(f.name, getattr(fact.entry, f.name))
    return body


def _plain(name: str, value: object) -> object:
    if isinstance(value, bytes):
        return _plain_bytes(name, value)
    if isinstance(value, Error):
        return error_body(value)
    if isinstance(value, list):
        items: list[object] = [*value]  # pyright: ignore[reportUnknownArgumentType] - any items
        return [_plain(name, item) for item in items]
    if is_dataclass(value):
        return {f.name: _plain(f.name, getattr(value, f.name)) for f in fields(value)}
    return value


def _plain_bytes(name: str, value: bytes) -> object:
    if name in JSON_FIELDS:
        return loaded(value)
    if name in ("event", "events"):
        return event_row(codec.decode_event(value))
    if name in _RUN_FIELDS and len(value) == 16:
        return ulid_text(value)
    return value.hex()


def loaded(data: bytes) -> object:
    """Read JSON; bytes that are none, or that an answer could not hold, are shown as text."""
    try:
        return strict.read(data)
    except ValueError:
        return data.decode(errors="replace")
