"""One function for each class of entries: the facts that they are, column by column."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stepfold_projections.arrow import pa, pc
from stepfold_projections.columns import NUMBER, TEXT, Rows, maybe_ulids, shaped, ulids
from stepfold_projections.decoding import Column, decode, flat

Fact = tuple[str, dict[str, Any]]


def _started(rows: Rows) -> list[Fact]:
    events = flat(rows.fields["events"])
    parents = pc.list_parent_indices(events).to_numpy()
    firsts = np.unique(parents, return_index=True)[1]
    raw = events.flatten().take(pa.array(firsts)).to_pylist()
    columns = rows.fact("function", "version", "due_ms", "event_ids", **_invoker(rows))
    if raw:
        of_row = np.full(len(events), 0, dtype=np.int64)
        has = np.zeros(len(events), dtype=np.bool_)
        of_row[parents[firsts]], has[parents[firsts]] = np.arange(len(raw)), True
        event = decode(raw, "Event").take(pa.array(of_row, mask=~has))
        columns["event_name"] = flat(event["name"])
        columns["input"] = flat(event["data"]).cast(TEXT)
        given, internal = flat(event["id"]), flat(event["internal"])
        columns["event_id"] = pc.if_else(pc.equal(internal, ""), given, internal)
    return [("started", columns)]


def _rerun(rows: Rows) -> list[Fact]:
    origin = ulids(flat(rows.fields["origin"]))
    return [("reruns", rows.fact("from_step", "asked_by", "why", origin=origin))]


def _invoker(rows: Rows) -> dict[str, Any]:
    invoker = flat(rows.fields["invoker"])
    if pa.types.is_null(invoker.type):
        return {}
    return {
        "invoker_run": maybe_ulids(pc.struct_field(invoker, "run")),
        "invoker_step": pc.struct_field(invoker, "step"),
    }


def _head(rows: Rows) -> list[Fact]:
    columns = rows.fact("function", "version", "due_ms", "stopped", "attempt", **_invoker(rows))
    columns["at_ms"] = flat(rows.fields["started_ms"])
    open_rows, items = rows.repeated("operations")
    facts: list[Fact] = [("heads", columns)]
    if len(items):
        facts += _open_operations(open_rows, items)
    return facts


def _open_operations(rows: Rows, items: Column) -> list[Fact]:
    """Say of operations that a head holds that they began; when is not known."""
    table = pa.Table.from_struct_array(items)
    columns = rows.fact(**{name: flat(table[name]) for name in ("step", "name", "due_ms")})
    kinds = flat(table["kind"])
    condition = flat(table["condition"])
    event = pc.struct_field(condition, "event")
    columns |= {
        "kind": kinds,
        "target": pc.coalesce(event, flat(table["target"])),
        "expression": pc.struct_field(condition, "expression"),
    }
    whole = shaped("began", columns)
    whole = whole.set_column(1, "at_ms", pa.nulls(len(whole), NUMBER))
    is_step = pc.is_in(kinds, pa.array(["step", "running"]))
    waits = whole.filter(pc.invert(is_step))
    tried = rows.fact(**{name: flat(table[name]) for name in ("step", "name", "due_ms", "attempt")})
    tried["failed"] = pc.equal(kinds, "step")
    tries = shaped("tried", tried).filter(is_step)
    return [
        ("began", {c: flat(waits[c]) for c in waits.column_names}),
        ("tried", {c: flat(tries[c]) for c in tries.column_names}),
    ]


def _finished(status: str) -> Callable[[Rows], list[Fact]]:
    def take(rows: Rows) -> list[Fact]:
        more: dict[str, Any] = {"status": status}
        if status == "completed":
            more["output"] = rows.text("data")
        elif status == "failed":
            more |= rows.error()
        else:
            more["reason"] = flat(rows.fields["reason"])
        return [("finished", rows.fact(**more))]

    return take


def _stopped(rows: Rows) -> list[Fact]:
    return [("marks", rows.fact(stopped=True, report=rows.text("report")))]


def _resumed(rows: Rows) -> list[Fact]:
    return [("marks", rows.fact(stopped=False))]


def _began(kind: str, target: str = "") -> Callable[[Rows], list[Fact]]:
    def take(rows: Rows) -> list[Fact]:
        more: dict[str, Any] = {"kind": kind}
        if kind == "wait":
            condition = flat(rows.fields["condition"])
            more["target"] = pc.struct_field(condition, "event")
            more["expression"] = pc.struct_field(condition, "expression")
        elif target:
            more["target"] = flat(rows.fields[target])
        return [("began", rows.fact("step", "name", "due_ms", **more))]

    return take


def _running(rows: Rows) -> list[Fact]:
    return [("tried", rows.fact("step", "name", "attempt", "started_ms", failed=False))]


def _attempt_failed(rows: Rows) -> list[Fact]:
    due = flat(rows.fields["retry_at_ms"])
    columns = rows.fact("step", "name", "attempt", "started_ms", failed=True, due_ms=due)
    return [("tried", columns | rows.error())]


def _run_attempt_failed(rows: Rows) -> list[Fact]:
    due = flat(rows.fields["retry_at_ms"])
    step = pa.repeat(pa.scalar(b"", pa.large_binary()), len(due))
    columns = rows.fact("attempt", failed=True, due_ms=due, step=step, name="")
    return [("tried", columns | rows.error())]


def _step_ended(status: str) -> Callable[[Rows], list[Fact]]:
    def take(rows: Rows) -> list[Fact]:
        more: dict[str, Any] = {"kind": "step", "status": status}
        more |= {"data": rows.text("data")} if status == "completed" else rows.error()
        return [("ended", rows.fact("step", "name", "attempt", "started_ms", **more))]

    return take


def _ended(kind: str, status: str) -> Callable[[Rows], list[Fact]]:
    def take(rows: Rows) -> list[Fact]:
        more: dict[str, Any] = {"kind": kind, "status": status}
        if "data" in rows.fields.column_names:
            more["data"] = rows.text("data")
        if "error" in rows.fields.column_names:
            more |= rows.error()
        return [("ended", rows.fact("step", **more))]

    return take


def _signal_ended(rows: Rows) -> list[Fact]:
    """``replaced`` is no outcome: the wait goes on to its timeout."""
    reasons = flat(rows.fields["reason"])
    whole = shaped("ended", rows.fact("step", kind="signal", status=reasons))
    outcomes = whole.filter(pc.not_equal(reasons, "replaced"))
    return [("ended", {c: flat(outcomes[c]) for c in outcomes.column_names})]


def _matched(rows: Rows) -> list[Fact]:
    data = decode(flat(rows.fields["event"]).to_pylist(), "Event")["data"]
    fields = rows.fields.append_column("data", flat(data).cast(TEXT))
    each, refs = rows.with_fields(fields).repeated("waits")
    each.fields = each.fields.append_column("run", pc.struct_field(refs, "run"))
    each.fields = each.fields.append_column("step", pc.struct_field(refs, "step"))
    return [("ended", each.fact("step", "event_id", "data", kind="wait", status="matched"))]


def _abandoned(rows: Rows) -> list[Fact]:
    each, steps = rows.repeated("steps")
    return [("ended", each.fact(step=steps, status="abandoned"))]


STAGERS: dict[str, Callable[[Rows], list[Fact]]] = {
    "RunStarted": _started,
    "RunRestated": _head,
    "RerunStarted": _rerun,
    "RunCompleted": _finished("completed"),
    "RunFailed": _finished("failed"),
    "RunCancelled": _finished("cancelled"),
    "RunStopped": _stopped,
    "RunResumed": _resumed,
    "RunAttemptFailed": _run_attempt_failed,
    "AttemptStarted": _running,
    "StepCompleted": _step_ended("completed"),
    "StepAttemptFailed": _attempt_failed,
    "StepFailed": _step_ended("failed"),
    "SleepBegan": _began("sleep"),
    "SleepEnded": _ended("sleep", "ended"),
    "TimerSet": _began("timer"),
    "TimerFired": _ended("timer", "ended"),
    "WaitBegan": _began("wait"),
    "WaitTimedOut": _ended("wait", "timed-out"),
    "EventMatched": _matched,
    "SignalWaitBegan": _began("signal", "signal"),
    "SignalReceived": _ended("signal", "received"),
    "SignalWaitEnded": _signal_ended,
    "InvokeBegan": _began("invoke", "function"),
    "InvokeCompleted": _ended("invoke", "completed"),
    "InvokeFailed": _ended("invoke", "failed"),
    "OperationsAbandoned": _abandoned,
}
