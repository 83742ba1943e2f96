"""An event arrived: it starts runs here if this is its home, and wakes or cancels any of ours."""

from collections.abc import Iterator

from stepfold_engine.core.decide.debounces import put_forward
from stepfold_engine.core.decide.starting import Starter, start
from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import cancel_run
from stepfold_engine.core.inputs import EventArrived, LookbackEnded
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.patterns import matches
from stepfold_engine.core.run import Run
from stepfold_engine.core.waits import Ref
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    FunctionSpec,
    LookbackFinished,
    WaitRef,
)
from stepfold_schemas.ids import key_of

REFS_A_DECISION_MAX = 2_000
"""How many waits one record wakes; an event that wakes more is decided in parts."""

LARGE_EVENT_BYTES = 16 * 1024
"""From here on every run that an event starts is a part of its own, since each holds the event."""


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
                _begin(draft, state, spec, arrived, matching, now_ms)
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


def _begin(
    draft: Draft,
    state: Partition,
    spec: FunctionSpec,
    arrived: EventArrived,
    matching: Matching,
    now_ms: int,
) -> None:
    """Start a run, now or when the function's debounce says so."""
    # The start of a later part may be tried again by the next owner, when this run has ended.
    remembered = arrived.remembered or len(arrived.raw) > LARGE_EVENT_BYTES
    starter = Starter(arrived.raw, arrived.id, arrived.event.ts, arrived.values, remembered)
    if spec.debounce is not None:
        put_forward(draft, state, spec, starter, matching, now_ms=now_ms)
    else:
        start(draft, state, spec, starter, matching, now_ms=now_ms)


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


def found_another(state: Partition, ended: LookbackEnded) -> bool:
    """Say whether a wait's search found what the run has received in the meantime.

    An event comes to a run once: the search for this wait goes on.
    """
    run = state.runs.get(key_of(ended.run))
    return bool(
        ended.step and ended.event_id and run is not None and ended.event_id in run.received
    )


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
    if ended.event is None:
        return [LookbackFinished(run.id, ended.step)]
    return [EventMatched(ended.event, ended.event_id, [WaitRef(run.id, ended.step)])]
