"""Debounce: of events that come in quick succession only the last one starts a run.

The home of an event puts it forward to the home of its key, which is a partition that follows from
the function and the key's value. There the events of a key are a group: it holds the one with the
latest time stamp, and when it starts a run. Rules:

* An event is put forward once, also if it is sent again: its home remembers its id for a day.
* Every event of a group moves its time on, up to the function's timeout. Then, once all that was
  appended before is read, the event that the group holds starts a run, in the way it would have
  without debounce.
* Each entry names the group, which is the run's key (unless an idempotency key makes another), so
  that one can say of each event which run it was superseded by.
"""

from stepfold_engine.core.decide.starting import Starter, key_value, start
from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import values_of
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import HOUR_MS, Partition, keyed
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    DebounceEnded,
    Entry,
    EventDebounced,
    FunctionSpec,
    IdsRemembered,
)
from stepfold_schemas.ids import partition_of, run_key
from stepfold_schemas.messages import DebounceRequested


def put_forward(
    draft: Draft,
    state: Partition,
    spec: FunctionSpec,
    starter: Starter,
    matching: Matching,
    *,
    now_ms: int,
) -> None:
    """Put an event forward to the home of its key, which may be here."""
    assert spec.debounce is not None, "asked for those only"
    once = run_key(state.number, spec.id, starter.cause)
    if state.knows(once):
        return
    if starter.remembered:
        draft.add(IdsRemembered(now_ms // HOUR_MS, once))
    key = ""
    if spec.debounce.key:
        value = key_value(spec.debounce.key, starter.values, matching)
        key = starter.cause if value is None else f"key {value}"
    asked = DebounceRequested(spec.id, key, starter.raw, starter.id, spec)
    home = partition_of(keyed(spec.id, key), state.count)
    if home == state.number:
        take(draft, state, asked, matching, now_ms)
    else:
        draft.send(home, asked)


def take(
    draft: Draft, state: Partition, asked: DebounceRequested, matching: Matching, now_ms: int
) -> None:
    """Take an event into the group of its key."""
    spec = state.functions.get(asked.function) or asked.spec
    if spec.debounce is None:
        # The function has been declared without, meanwhile.
        start(draft, state, spec, _starter(asked.event, asked.event_id), matching, now_ms=now_ms)
        return
    holder = state.debounces.get(keyed(asked.function, asked.key))
    event, event_id, superseded = asked.event, asked.event_id, ""
    if holder is None:
        first_ms = now_ms
        cause = f"debounce {first_ms} {asked.key} {event_id}"
        group = run_key(state.number, asked.function, cause)
    else:
        first_ms, group, superseded = holder.first_ms, holder.group, holder.event_id
        if _time_of(event) < _time_of(holder.event):
            event, event_id, superseded = holder.event, holder.event_id, event_id
    due_ms = now_ms + spec.debounce.period_ms
    if spec.debounce.timeout_ms:
        due_ms = min(due_ms, first_ms + spec.debounce.timeout_ms)
    # Only a declaration that is still on its way to this partition has to be kept.
    kept = None if asked.function in state.functions else spec
    draft.add(
        EventDebounced(
            asked.function, asked.key, group, event, event_id, superseded, first_ms, due_ms, kept
        )
    )


def debounce_due(
    state: Partition, name: str, due_ms: int, matching: Matching, now_ms: int
) -> list[Entry]:
    """Return what follows when no other event of a key came for long enough: a run."""
    held = state.debounces.get(name)
    if held is None or held.due_ms != due_ms:
        return []
    draft = Draft(state)
    spec = state.functions.get(held.function) or held.spec
    begun = b""
    if spec is not None:
        starter = _starter(held.event, held.event_id)
        begun = start(draft, state, spec, starter, matching, now_ms=now_ms, key=held.group)
    draft.add(DebounceEnded(held.function, held.key, held.group, held.event_id, begun))
    return draft.entries


def _time_of(raw: bytes) -> int:
    """Return when an event happened, as far as its producer, or who took it in, has said."""
    event = codec.decode_event(raw)
    return event.ts or event.received_ms


def _starter(raw: bytes, event_id: str) -> Starter:
    event = codec.decode_event(raw)
    return Starter(raw, event_id, event.ts, values_of(event), remembered=False)
