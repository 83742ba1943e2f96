"""Crons: when functions have new ones, and when one comes due.

The home of a cron is a partition that follows from the function and the expression. It keeps when
the cron comes due next, so that this is known again after a recovery, whenever that is. Of the
times that passed while nobody owned the partition only the last one starts a run.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from stepfold_engine.core.decide.starting import add_cancellations
from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import json_bytes, start_run, values_of
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Cron, Partition, keyed
from stepfold_engine.errors import InvalidOptionError
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    CronEnded,
    CronFired,
    CronScheduled,
    Entry,
    FunctionSpec,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of, run_id, run_key

CRON_EVENT = "stepfold/cron.fired"


def schedule_crons(
    draft: Draft,
    state: Partition,
    app: str,
    functions: Sequence[FunctionSpec],
    matching: Matching,
    now_ms: int,
) -> None:
    """Add what an app's new list of functions means for the crons whose home is here.

    One that was there before goes on as it was.
    """
    wanted = {keyed(f.id, c): (f.id, c) for f in functions for c in f.crons}
    declaration = state.declarations.get(app)
    for spec in declaration.functions if declaration is not None else ():
        for cron in spec.crons:
            name = keyed(spec.id, cron)
            if name in state.crons and name not in wanted:
                draft.add(CronEnded(spec.id, cron))
    for name, (function, cron) in sorted(wanted.items()):
        if name not in state.crons and partition_of(name, state.count) == state.number:
            try:
                due_ms = matching.cron_after(cron, now_ms)
            except InvalidOptionError:
                # The app's home could read it: this machine knows fewer time zones. Coming due, it
                # is reported.
                due_ms = now_ms
            if due_ms:
                draft.add(CronScheduled(function, cron, due_ms))


def cron_due(
    state: Partition, name: str, due_ms: int, matching: Matching, now_ms: int
) -> list[Entry]:
    """Return what follows from a cron that came due: a run, and when it comes due next.

    Raises:
        InvalidOptionError: this machine cannot read the expression.
    """
    cron = state.crons.get(name)
    if cron is None or cron.due_ms != due_ms:
        return []
    spec = state.functions.get(cron.function)
    if spec is None:
        return [CronEnded(cron.function, cron.cron)]
    fired_ms = matching.cron_until(cron.cron, due_ms, now_ms)
    next_ms = matching.cron_after(cron.cron, fired_ms)
    draft = Draft(state)
    key = run_key(state.number, spec.id, f"cron {cron.cron} {fired_ms}")
    run = b""
    if not state.knows(key):
        run, event = run_id(now_ms, key), cron_event(cron, fired_ms, now_ms)
        raw = codec.encode(event)
        start_run(draft, spec, key, [raw], now_ms=now_ms, event_ids=[event.id], remembered=True)
        if spec.cancel_on:
            add_cancellations(draft, state, spec, values_of(event), matching)
    draft.add(CronFired(cron.function, cron.cron, due_ms, fired_ms, next_ms, run))
    return draft.entries


def cron_event(cron: Cron, fired_ms: int, now_ms: int) -> Event:
    """Make the event with which a cron starts a run: the same one for the same time."""
    at = datetime.fromtimestamp(fired_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
    data = json_bytes({"cron": cron.cron, "scheduled_at": at})
    event_id = f"{cron.function} {cron.cron} {at}"
    return Event(CRON_EVENT, data, event_id, fired_ms, received_ms=now_ms)
