"""An event starts a run of a function: here, or at the home of its idempotency key."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha1

from stepfold_engine.core.draft import Draft
from stepfold_engine.core.ending import fail_run, start_run
from stepfold_engine.core.limits import DAY_MS
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition, keyed
from stepfold_engine.core.run import started
from stepfold_engine.errors import InvalidOptionError
from stepfold_schemas.entries import Cancellation, CancelOn, Error, FunctionSpec, RunStarted
from stepfold_schemas.ids import partition_of, run_key, time_of
from stepfold_schemas.messages import RunRequested

KEY_CHARS_MAX = 200
"""A key that is longer stands for itself by its digest."""

CANCEL_TIMEOUT_MS = 366 * DAY_MS
"""How long an event may cancel a run when its author gave no limit."""


@dataclass(frozen=True, slots=True)
class Starter:
    """An event that is to start a run.

    Attributes:
        raw: the event as bytes.
        id: its id.
        ts: the run's code does not begin before.
        values: the event as plain values.
        remembered: it may come again after the run's end, and must not start another one.
    """

    raw: bytes
    id: str
    ts: int
    values: Mapping[str, object] = field(hash=False)
    remembered: bool

    @property
    def cause(self) -> str:
        """The event, in words: of the same cause a function starts once."""
        return f"event {self.id}"


def start(  # noqa: PLR0913 - the parts of one fact
    draft: Draft,
    state: Partition,
    spec: FunctionSpec,
    starter: Starter,
    matching: Matching,
    *,
    now_ms: int,
    key: bytes = b"",
) -> bytes:
    """Start a run, here or at the home of its idempotency key; return the run's key.

    ``key`` is what the run's key is if the event itself does not decide it.
    """
    remembered = starter.remembered
    home, cause = state.number, starter.cause
    key = key or run_key(home, spec.id, cause)
    if spec.idempotency:
        value = key_value(spec.idempotency, starter.values, matching)
        # An event that does not have what the key is made of is its own key.
        if value is not None:
            home, cause = partition_of(keyed(spec.id, value), state.count), f"key {value}"
            key, remembered = run_key(home, spec.id, cause), True
    if home != state.number:
        due_ms = max(starter.ts, 0)
        draft.send(home, RunRequested(spec.id, key, cause, [starter.raw], due_ms, spec=spec))
    elif not state.knows(key):
        start_run(
            draft,
            spec,
            key,
            [starter.raw],
            now_ms=now_ms,
            due_ms=starter.ts,
            event_ids=[starter.id],
            remembered=remembered,
        )
        if spec.cancel_on:
            add_cancellations(draft, state, spec, starter.values, matching)
    return key


def key_value(expression: str, values: Mapping[str, object], matching: Matching) -> str | None:
    """Return the value of a key expression, or its digest; None if the event has none."""
    try:
        value = matching.key(expression, values)
    except InvalidOptionError:
        return None
    if len(value) > KEY_CHARS_MAX:
        value = sha1(value.encode(), usedforsecurity=False).hexdigest()
    return value


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
