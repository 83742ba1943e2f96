"""A rerun was asked for: a new run that begins with what it shares with an old one."""

from dataclasses import replace
from typing import cast

from stepfold_engine.core.decide.arrival import Arrival
from stepfold_engine.core.decide.starting import add_cancellations
from stepfold_engine.core.ending import start_run, values_of
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    HistoryItem,
    RerunStarted,
    RunEntry,
    RunStarted,
    WaitBegan,
    WaitRef,
)
from stepfold_schemas.ids import run_key, ulid_text
from stepfold_schemas.messages import RerunRequested


def rerun_requested(a: Arrival, m: RerunRequested) -> None:
    """Decide a request for a rerun. The same request again is the same run."""
    spec = a.state.functions.get(m.function)
    if spec is None:
        a.answer(404, {"error": f"no function {m.function} is in force; declare it first"})
        return
    key = run_key(a.state.number, spec.id, f"rerun {a.request.hex()}")
    if a.state.knows(key):
        a.answer(409, {"error": "this rerun was asked for before, and the answer is forgotten"})
        return
    # To the rerun its events come now: what was sent since they first came, such as what cancelled
    # the old run, is not looked for.
    events = [replace(codec.decode_event(event), received_ms=a.now_ms) for event in m.events]
    start_run(
        a.draft,
        spec,
        key,
        [codec.encode(event) for event in events],
        now_ms=a.now_ms,
        event_ids=[event.id or event.internal for event in events],
        remembered=True,
    )
    first = a.draft.entries[-1]
    assert isinstance(first, RunStarted), "just added"
    if spec.cancel_on:
        add_cancellations(a.draft, a.state, spec, values_of(events[0]), a.matching)
    run = first.run
    if isinstance(a.draft.entries[-1], RunStarted):
        for item in m.items:
            a.draft.add(_shared(item, run))
    times_ms = [item.at_ms for item in m.items]
    a.draft.add(RerunStarted(run, m.run, m.from_step, m.seed, times_ms, m.asked_by, m.why))
    a.answer(200, {"run_id": ulid_text(run), "rerun_of": ulid_text(m.run)})


def _shared(item: HistoryItem, run: bytes) -> Entry:
    """Return a shared entry as one of the rerun's own journal."""
    entry = codec.decode_entry(item.entry)
    if isinstance(entry, EventMatched):
        return replace(entry, waits=[WaitRef(run, ref.step) for ref in entry.waits])
    if isinstance(entry, WaitBegan):
        # Its outcome follows: nothing is to be searched for.
        return replace(entry, run=run, since_ms=0)
    return replace(cast("RunEntry", entry), run=run)  # a request holds no others
