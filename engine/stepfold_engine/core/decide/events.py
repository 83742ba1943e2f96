"""An event arrived: it starts runs here if this is its home, and wakes or cancels any of ours."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha1

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import cancel_run, fail_run, start_run
from stepfold_engine.core.inputs import EventArrived, LookbackEnded
from stepfold_engine.core.limits import DAY_MS
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.patterns import matches
from stepfold_engine.core.run import Run, started
from stepfold_engine.core.waits import Ref
from stepfold_engine.errors import InvalidOptionError
from stepfold_schemas.entries import (
    Cancellation,
    CancelOn,
    Entry,
    Error,
    EventMatched,
    FunctionSpec,
    LookbackFinished,
    RunStarted,
    WaitRef,
)
from stepfold_schemas.ids import key_of, partition_of, run_key, time_of
from stepfold_schemas.messages import RunRequested

REFS_A_DECISION_MAX = 2_000
"""How many waits one record wakes; an event that wakes more is decided in parts."""

LARGE_EVENT_BYTES = 16 * 1024
"""From here on every run that an event starts is a part of its own, since each holds the event."""

KEY_CHARS_MAX = 200
"""An idempotency key that is longer stands for itself by its digest."""

CANCEL_TIMEOUT_MS = 366 * DAY_MS
"""How long an event may cancel a run when its author gave no limit."""


def event_arrived(
    state: Partition, arrived: EventArrived, matching: Matching, now_ms: int, part: int = 0
) -> Iterator[list[Entry]]:
    """Yield the decisions that follow from an event, in parts.

    The caller applies each part before it asks for the next, and may begin at a later part after
    a recovery: what the parts before did is in the state, so it is not found again.
    """
    draft = Draft(state)
    large = len(arrived.raw) > LARGE_EVENT_BYTES
    if arrived.home and (part == 0 or large):
        for spec in state.triggered_by(arrived.event.name):
            if _accepts(spec, arrived, matching):
                _start(draft, state, spec, arrived, matching, now_ms)
            if large and draft.entries:
                yield draft.entries
                draft = Draft(state)
    refs: list[Ref] = []
    if state.waits.wants(arrived.event.name):
        refs = state.waits.candidates(arrived.event.name, arrived.values, matching.term_value)
    while True:
        chunk, refs = refs[:REFS_A_DECISION_MAX], refs[REFS_A_DECISION_MAX:]
        _wake(draft, state, arrived, chunk, matching)
        yield draft.entries
        if not refs:
            return
        draft = Draft(state)


def _accepts(spec: FunctionSpec, arrived: EventArrived, matching: Matching) -> bool:
    return any(
        matches(t.event, arrived.event.name) and matching.accepts(t.expression, arrived.values)
        for t in spec.triggers
    )


def _start(
    draft: Draft,
    state: Partition,
    spec: FunctionSpec,
    arrived: EventArrived,
    matching: Matching,
    now_ms: int,
) -> None:
    """Start a run, here or at the home of its idempotency key."""
    # The start of a later part may be tried again by the next owner, when this run has ended.
    remembered = arrived.remembered or len(arrived.raw) > LARGE_EVENT_BYTES
    home, cause = state.number, f"event {arrived.id}"
    if spec.idempotency:
        try:
            value = matching.key(spec.idempotency, arrived.values)
        except InvalidOptionError:
            # The event does not have what the key is made of: it is its own key.
            pass
        else:
            if len(value) > KEY_CHARS_MAX:
                value = sha1(value.encode(), usedforsecurity=False).hexdigest()
            home, cause = partition_of(f"{spec.id}\0{value}", state.count), f"key {value}"
            remembered = True
    key = run_key(home, spec.id, cause)
    if home != state.number:
        due_ms = max(arrived.event.ts, 0)
        draft.send(home, RunRequested(spec.id, key, cause, [arrived.raw], due_ms, spec=spec))
    elif not state.knows(key):
        start_run(
            draft,
            spec,
            key,
            [arrived.raw],
            now_ms=now_ms,
            due_ms=arrived.event.ts,
            event_ids=[arrived.id],
            remembered=remembered,
        )
        if spec.cancel_on:
            add_cancellations(draft, state, spec, arrived.values, matching)


def add_cancellations(
    draft: Draft,
    state: Partition,
    spec: FunctionSpec,
    values: Mapping[str, object],
    matching: Matching,
) -> None:
    """Bind a function's cancellations to the event that started the draft's last run.

    A run that could not be cancelled as its author said does not go on: it fails.
    """
    entry = draft.entries[-1]
    assert isinstance(entry, RunStarted), "just added"
    now_ms = time_of(entry.run)
    try:
        bound = [_cancellation(option, values, matching, now_ms) for option in spec.cancel_on]
    except InvalidOptionError as error:
        refused = Error("InvalidOptionError", f"function {spec.id}: cancel_on: {error}")
        fail_run(draft, state, started(entry, now_ms), refused, now_ms, entry.events)
    else:
        draft.entries[-1] = replace(entry, cancellations=bound)


def _cancellation(
    option: CancelOn, values: Mapping[str, object], matching: Matching, now_ms: int
) -> Cancellation:
    condition = matching.bind(option.event, option.expression, "", values)
    return Cancellation(condition, now_ms + (option.timeout_ms or CANCEL_TIMEOUT_MS))


def _wake(
    draft: Draft, state: Partition, arrived: EventArrived, refs: list[Ref], matching: Matching
) -> None:
    waits: list[WaitRef] = []
    cancelled: set[bytes] = set()
    for key, step in refs:
        run = state.runs.get(key)
        if run is None or arrived.id in run.received or key in cancelled:
            continue
        if not step:
            if _cancels(run, arrived, matching):
                cancelled.add(key)
                cancel_run(draft, run, f"event {arrived.event.name}", state.count)
        elif _wakes(run, step, arrived, matching):
            waits.append(WaitRef(run.id, step))
    waits = [w for w in waits if key_of(w.run) not in cancelled]
    if waits:
        draft.add(EventMatched(arrived.raw, arrived.id, waits))


def _cancels(run: Run, arrived: EventArrived, matching: Matching) -> bool:
    return any(
        arrived.at_ms < c.expires_ms
        and matches(c.condition.event, arrived.event.name)
        and matching.holds(c.condition, arrived.values)
        for c in run.cancellations
    )


def _wakes(run: Run, step: bytes, arrived: EventArrived, matching: Matching) -> bool:
    operation = run.operations.get(step)
    if operation is None or operation.condition is None or operation.held:
        return False
    return matching.holds(operation.condition, arrived.values)


def lookback_ended(state: Partition, ended: LookbackEnded) -> list[Entry]:
    """Decide what a search of the log means for the wait, or the run, that asked for it."""
    draft = Draft(state)
    run = state.runs.get(key_of(ended.run))
    if run is None:
        return []
    if not ended.step:
        if ended.event is not None:
            cancel_run(draft, run, f"event {ended.event_name}", state.count)
        return draft.entries
    if ended.step not in run.operations:
        return []
    if ended.event is None or ended.event_id in run.received:
        return [LookbackFinished(run.id, ended.step)]
    return [EventMatched(ended.event, ended.event_id, [WaitRef(run.id, ended.step)])]
