"""A message arrived, of another partition, of this one itself, or as a request of a node."""

from collections.abc import Callable
from typing import Any

from stepfold_engine.core.decide.arrival import Arrival
from stepfold_engine.core.decide.crons import schedule_crons
from stepfold_engine.core.decide.debounces import take
from stepfold_engine.core.decide.reruns import rerun_requested
from stepfold_engine.core.decide.starting import add_cancellations
from stepfold_engine.core.ending import cancel_run, start_run, values_of
from stepfold_engine.core.inputs import MessageArrived
from stepfold_engine.core.limits import MESSAGE_BYTES_MAX
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition, digest_of
from stepfold_engine.core.run import Run
from stepfold_engine.errors import InvalidOptionError
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    Error,
    FunctionsDeclared,
    FunctionsHeld,
    FunctionSpec,
    InvokeCompleted,
    InvokeFailed,
    MessageTaken,
    RunResumed,
    SignalFreed,
    SignalHeld,
    SignalReceived,
    SignalWaitEnded,
)
from stepfold_schemas.ids import home_of, key_of, ulid_text
from stepfold_schemas.messages import (
    CancelRequested,
    DebounceRequested,
    FunctionsAnnounced,
    FunctionsSubmitted,
    FunctionsTaken,
    InvocationEnded,
    Message,
    MessageUndeliverable,
    RerunRequested,
    ResumeRequested,
    RunRequested,
    SignalDelivered,
    SignalSent,
    SignalWaitClosed,
    SignalWaitRequested,
    SignalWaitWithdrawn,
)

DECLARATION_BYTES_MAX = 8 * 1024 * 1024
"""An app's functions, once for each partition: one decision announces them to all."""

REPLACED_MAX = 100
"""How many replaced declarations of an app are remembered."""


def message_arrived(
    state: Partition, arrived: MessageArrived, matching: Matching, now_ms: int
) -> list[Entry]:
    """Return the decision that follows; nothing for a message that is not the next of its source.

    A request that was answered before has its answer in the state.
    """
    arrival = Arrival(state, arrived.request, matching, now_ms)
    if arrived.source >= 0:
        if arrived.number != state.taken.get(arrived.source, 0) + 1:
            return []
        arrival.draft.add(MessageTaken(arrived.source, arrived.number))
    elif arrived.request in state.requests:
        return []
    _HANDLERS[type(arrived.message)](arrival, arrived.message)
    return arrival.draft.entries


# Runs.


def _run_requested(a: Arrival, m: RunRequested) -> None:
    spec = a.state.functions.get(m.function) or m.spec
    if spec is None:
        if m.invoker is not None:
            text = f"could not find function with ID: {m.function}"
            error = Error("FunctionNotFoundError", text)
            ended = InvocationEnded(m.invoker.run, m.invoker.step, b"null", error)
            a.draft.send(home_of(m.invoker.run), ended)
        return
    if a.state.knows(m.key):
        return
    event = codec.decode_event(m.events[0])
    start_run(
        a.draft,
        spec,
        m.key,
        m.events,
        now_ms=a.now_ms,
        due_ms=m.due_ms,
        event_ids=[event.id or event.internal],
        remembered=m.invoker is None,
        invoker=m.invoker,
    )
    if spec.cancel_on:
        add_cancellations(a.draft, a.state, spec, values_of(event), a.matching)


def _debounce_requested(a: Arrival, m: DebounceRequested) -> None:
    take(a.draft, a.state, m, a.matching, a.now_ms)


def _pending(a: Arrival, run: bytes, step: bytes, kind: str) -> Run | None:
    found = a.state.runs.get(key_of(run))
    if found is None or found.id != run:
        return None
    operation = found.operations.get(step)
    return found if operation is not None and operation.kind == kind else None


def _invocation_ended(a: Arrival, m: InvocationEnded) -> None:
    if _pending(a, m.run, m.step, "invoke") is None:
        return
    if m.error is not None:
        a.draft.add(InvokeFailed(m.run, m.step, m.error))
    else:
        a.draft.add(InvokeCompleted(m.run, m.step, m.data))


def _cancel_requested(a: Arrival, m: CancelRequested) -> None:
    run = a.state.runs.get(key_of(m.run))
    if run is None or run.id != m.run:
        a.answer(404, {"error": f"no unfinished run {ulid_text(m.run)}"})
        return
    cancel_run(a.draft, run, m.reason, a.state.count)
    a.answer(200, {"run_id": ulid_text(m.run)})


def _resume_requested(a: Arrival, m: ResumeRequested) -> None:
    run = a.state.runs.get(key_of(m.run))
    if run is None or run.id != m.run:
        a.answer(404, {"error": f"no unfinished run {ulid_text(m.run)}"})
    elif not run.stopped:
        a.answer(409, {"error": f"run {ulid_text(m.run)} is not stopped"})
    else:
        a.draft.add(RunResumed(m.run, m.asked_by, m.why))
        a.answer(200, {"run_id": ulid_text(m.run)})


# Signals. The home of a signal's name keeps its one waiter.


def _signal_wait_requested(a: Arrival, m: SignalWaitRequested) -> None:
    holder = a.state.signals.get(m.signal)
    if holder is not None and (holder.run, holder.step) == (m.run, m.step):
        return
    if holder is not None and m.on_conflict != "replace":
        closed = SignalWaitClosed(m.run, m.step, "refused", holder.run)
        a.draft.send(home_of(m.run), closed)
        return
    if holder is not None:
        replaced = SignalWaitClosed(holder.run, holder.step, "replaced", m.run)
        a.draft.send(home_of(holder.run), replaced)
    a.draft.add(SignalHeld(m.signal, m.run, m.step, m.due_ms))


def _signal_wait_withdrawn(a: Arrival, m: SignalWaitWithdrawn) -> None:
    holder = a.state.signals.get(m.signal)
    if holder is not None and (holder.run, holder.step) == (m.run, m.step):
        a.draft.add(SignalFreed(m.signal))


def _signal_sent(a: Arrival, m: SignalSent) -> None:
    holder = a.state.signals.get(m.signal)
    if len(m.data) > MESSAGE_BYTES_MAX:
        text = f"signal {m.signal!r}: {len(m.data)} bytes, the limit is {MESSAGE_BYTES_MAX}"
        a.answer(413, {"error": text})
        return
    if holder is None:
        a.answer(404, {"error": f"no run waits for the signal {m.signal!r}"})
        return
    a.draft.add(SignalFreed(m.signal))
    a.draft.send(home_of(holder.run), SignalDelivered(holder.run, holder.step, m.data))
    a.answer(200, {"run_id": ulid_text(holder.run)})


def _signal_delivered(a: Arrival, m: SignalDelivered) -> None:
    if _pending(a, m.run, m.step, "signal") is not None:
        a.draft.add(SignalReceived(m.run, m.step, m.data))


def _signal_wait_closed(a: Arrival, m: SignalWaitClosed) -> None:
    if _pending(a, m.run, m.step, "signal") is not None:
        a.draft.add(SignalWaitEnded(m.run, m.step, m.reason, m.holder))


# Functions. The home of an app numbers its declarations and tells all partitions.


def _functions_submitted(a: Arrival, m: FunctionsSubmitted) -> None:
    if refused := _refusal(a, m):
        a.answer(400, {"error": refused})
        return
    current = a.state.declarations.get(m.app)
    old = current.functions if current is not None else []
    functions = _merged(old, m)
    digest = digest_of(functions)
    everybody = list(range(a.state.count))
    if current is not None and digest == digest_of(old):
        if current.held_by == everybody:
            a.answer(200, {"number": current.number, "modified": False})
        else:
            # Some partition has not said yet that it holds them; it will be asked again.
            _announce(a, m.app, current.number, functions, list(current.replaced))
        return
    replaced = list(current.replaced) if current is not None else []
    if digest in replaced and not m.forced:
        text = f"app {m.app}: these functions were replaced by newer ones; force it to go back"
        a.answer(409, {"error": text})
        return
    if current is not None:
        replaced = [*[r for r in replaced if r != digest][-REPLACED_MAX:], digest_of(old)]
    number = current.number + 1 if current is not None else 1
    _declare(a, FunctionsDeclared(m.app, number, functions, replaced))
    _announce(a, m.app, number, functions, replaced)


def _refusal(a: Arrival, m: FunctionsSubmitted) -> str:
    """Say what is wrong with the functions, "" if nothing is. Matchers must never find out."""
    for spec in m.functions:
        asked = [(t.event, t.expression) for t in spec.triggers]
        asked += [(c.event, c.expression) for c in spec.cancel_on]
        for event, expression in (*asked, ("any", spec.idempotency), ("any", _key_of(spec))):
            try:
                a.matching.bind(event, expression, "", {})
            except InvalidOptionError as error:
                return f"function {spec.id}: {error}"
        if refused := _cron_refusal(a, spec):
            return f"function {spec.id}: {refused}"
    size = len(codec.encode(m)) * a.state.count
    if size > DECLARATION_BYTES_MAX:
        return (
            f"app {m.app}: its functions take {size} bytes in {a.state.count} partitions together;"
            f" the limit is {DECLARATION_BYTES_MAX}. Shorten expressions, or split the app"
        )
    return ""


def _key_of(spec: FunctionSpec) -> str:
    return spec.debounce.key if spec.debounce is not None else ""


def _cron_refusal(a: Arrival, spec: FunctionSpec) -> str:
    for cron in spec.crons:
        try:
            if not a.matching.cron_after(cron, a.now_ms):
                return f"cron {cron!r} never comes due"
        except InvalidOptionError as error:
            return str(error)
    return ""


def _declare(a: Arrival, declared: FunctionsDeclared) -> None:
    a.draft.add(declared)
    schedule_crons(a.draft, a.state, declared.app, declared.functions, a.matching, a.now_ms)


def _announce(
    a: Arrival, app: str, number: int, functions: list[FunctionSpec], replaced: list[bytes]
) -> None:
    others = [p for p in range(a.state.count) if p != a.state.number]
    a.draft.add(FunctionsHeld(app, number, a.request, [a.state.number]))
    for partition in others:
        announced = FunctionsAnnounced(app, number, functions, replaced, a.state.number)
        a.draft.send(partition, announced)
    if not others:
        a.answer(200, {"number": number, "modified": True})


def _merged(old: list[FunctionSpec], m: FunctionsSubmitted) -> list[FunctionSpec]:
    kept = {} if m.complete else {f.id: f for f in old}
    kept |= {f.id: f for f in m.functions}
    return [kept[i] for i in sorted(kept)]


def _functions_announced(a: Arrival, m: FunctionsAnnounced) -> None:
    current = a.state.declarations.get(m.app)
    if current is None or m.number > current.number:
        _declare(a, FunctionsDeclared(m.app, m.number, m.functions, m.replaced))
    a.draft.send(m.home, FunctionsTaken(m.app, m.number, a.state.number))


def _functions_taken(a: Arrival, m: FunctionsTaken) -> None:
    declaration = a.state.declarations.get(m.app)
    if declaration is None or declaration.number != m.number:
        return
    request = declaration.request
    a.draft.add(FunctionsHeld(m.app, m.number, request, [m.partition]))
    held = {*declaration.held_by, m.partition}
    if len(held) == a.state.count and request and request not in a.state.requests:
        a.answer(200, {"number": m.number, "modified": True}, request)


def _undeliverable(_: Arrival, _m: MessageUndeliverable) -> None:
    """Its number is taken; the sender has reported what was lost."""


_HANDLERS: dict[type[Message], Callable[[Arrival, Any], None]] = {
    RunRequested: _run_requested,
    DebounceRequested: _debounce_requested,
    InvocationEnded: _invocation_ended,
    CancelRequested: _cancel_requested,
    ResumeRequested: _resume_requested,
    RerunRequested: rerun_requested,
    SignalWaitRequested: _signal_wait_requested,
    SignalWaitWithdrawn: _signal_wait_withdrawn,
    SignalSent: _signal_sent,
    SignalDelivered: _signal_delivered,
    SignalWaitClosed: _signal_wait_closed,
    FunctionsSubmitted: _functions_submitted,
    FunctionsAnnounced: _functions_announced,
    FunctionsTaken: _functions_taken,
    MessageUndeliverable: _undeliverable,
}
