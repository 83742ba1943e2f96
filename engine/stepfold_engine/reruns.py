"""Reruns: what a new run shares of the history of an old one.

Rules:

* A beginning of a journal is a state in which the run once was, so code that fits the journal
  fits it, too. What is shared is the beginning before the first entry about a step.
* What had begun there without an outcome begins anew: its time to wait counts from the rerun on.
* Failed attempts of steps are not shared, so that a step which is done anew has all its attempts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from stepfold.port import Fact
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.facts import started_in
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Began,
    Ended,
    Entry,
    EventMatched,
    HistoryItem,
    InvokeBegan,
    InvokeFailed,
    OperationsAbandoned,
    RerunStarted,
    RunAttemptFailed,
    RunFailed,
    RunStarted,
    SignalWaitEnded,
    StepFailed,
    VersionChosen,
)
from stepfold_schemas.ids import step_key, ulid_text
from stepfold_schemas.messages import RerunRequested

SHARED_BYTES_MAX = 4 * 1024 * 1024
"""What a rerun may share: it is one request and one decision."""

NAMES_SHOWN_MAX = 20

FROM_START, FROM_STEP, FROM_FAILURE = "start", "step", "failure"
"""Where a rerun begins: at the start, at a named step, or at what made the old run fail."""

_UNCHANGED = OperationsAbandoned | RunAttemptFailed | VersionChosen

Shared = Began | Ended | SignalWaitEnded | EventMatched | _UNCHANGED
"""An entry that a rerun may share with the run that it came from."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """A rerun that is asked for; asked for again, word for word, it is the same run.

    Attributes:
        run: the run that it is a rerun of.
        where: where it begins; with ``FROM_STEP`` at ``step``.
        data: JSON that takes the place of the event's data; None to keep it.
        tag: makes it another one than the same without it.
    """

    run: bytes
    where: str = FROM_START
    step: str = ""
    data: bytes | None = None
    tag: str = ""

    def request_id(self) -> bytes:
        """Return the id of the request, which depends on nothing but what is asked for."""
        data = b"" if self.data is None else b"\x01" + self.data
        parts = [self.run, self.where.encode(), self.step.encode(), data, self.tag.encode()]
        return sha256(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).digest()[:16]

    def message(self, facts: Sequence[Fact], asked_by: str, why: str) -> RerunRequested:
        """Return the request, made of the old run's journal.

        Raises:
            RequestRefusedError: the journal lacks its beginning or the step (404), or too much
                would be shared (413).
        """
        first = started_in(list(facts))
        if first is None:
            text = (
                f"run {ulid_text(self.run)}: how it began is no longer kept, so it cannot be rerun"
            )
            raise RequestRefusedError(404, text)
        shared = share(self.run, facts, self.where, self.step)
        events = list(first.events)
        if self.data is not None:
            event = replace(codec.decode_event(events[0]), data=self.data)
            events[0] = codec.encode(event)
        return RerunRequested(
            self.run,
            first.function,
            events,
            shared.from_step,
            shared.seed,
            shared.items,
            asked_by,
            why,
        )


@dataclass(frozen=True, slots=True)
class RerunAnswer:
    """The run that a rerun is, and whether it was asked for before."""

    run: bytes
    repeated: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What a rerun shares: the step it begins at ("" if none), the seed, and the entries."""

    from_step: str
    seed: bytes
    items: list[HistoryItem]


def share(run: bytes, facts: Sequence[Fact], where: str, step: str = "") -> Share:
    """Return what a rerun of a run shares with it.

    Raises:
        RequestRefusedError: the run has no such step (404), or it is too much (413).
    """
    if where == FROM_START:
        return Share("", b"", [])
    if where == FROM_STEP:
        cut = _first_of(run, facts, step)
    else:
        cut, step = _failure(facts)
    items = _items(run, facts[:cut])
    size = sum(len(item.entry) for item in items)
    if size > SHARED_BYTES_MAX:
        text = (
            f"run {ulid_text(run)}: a rerun would share {size} bytes of outcomes; the limit is"
            f" {SHARED_BYTES_MAX}. Begin at an earlier step, or at the start"
        )
        raise RequestRefusedError(413, text)
    seeds = [f.entry.seed for f in facts if isinstance(f.entry, RerunStarted) and f.entry.seed]
    return Share(step, (seeds[-1] if seeds else run) if items else b"", items)


def _first_of(run: bytes, facts: Sequence[Fact], step: str) -> int:
    key = step_key(step)
    for index, fact in enumerate(facts):
        if key in _steps(run, fact.entry) or getattr(fact.entry, "name", None) == step:
            return index
    names = [str(getattr(f.entry, "name", "")) for f in facts if _steps(run, f.entry)]
    known = list(dict.fromkeys(name for name in names if name))
    shown = ", ".join(known[:NAMES_SHOWN_MAX]) or "none yet"
    more = f" and {len(known) - NAMES_SHOWN_MAX} more" if len(known) > NAMES_SHOWN_MAX else ""
    text = f"run {ulid_text(run)} has no step {step!r}; its steps are: {shown}{more}"
    raise RequestRefusedError(404, text)


def _failure(facts: Sequence[Fact]) -> tuple[int, str]:
    """Return where the step lies, and its name, whose failure ended the run.

    If none did (its own code raised, or it was cancelled, stopped, or goes on) all is shared.
    """
    ends = [f.entry.error.message for f in facts if isinstance(f.entry, RunFailed)]
    names: dict[bytes, str] = {}
    found = len(facts), ""
    for index, fact in enumerate(facts):
        entry = fact.entry
        if isinstance(entry, InvokeBegan):
            names[entry.step] = entry.name
        if isinstance(entry, StepFailed | InvokeFailed):
            name = entry.name if isinstance(entry, StepFailed) else names.get(entry.step, "")
            # The text of the error that a function gets for a failed step names the step.
            if any(repr(name) in text and entry.error.message in text for text in ends):
                found = index, name
    return found


def _items(run: bytes, facts: Sequence[Fact]) -> list[HistoryItem]:
    closed = {step for fact in facts for step in _closed(run, fact.entry)}
    items: list[HistoryItem] = []
    for fact in facts:
        entry = fact.entry
        if isinstance(entry, EventMatched):
            waits = [ref for ref in entry.waits if ref.run == run]
            entry = replace(entry, waits=waits)
        elif not isinstance(entry, Shared) or _is_open(entry, closed):
            continue
        item = HistoryItem(fact.at_ms, codec.encode(entry))
        if items[-1:] != [item]:  # an event that woke two waits of the run is two facts
            items.append(item)
    while items and isinstance(codec.decode_entry(items[-1].entry), RunAttemptFailed):
        items.pop()
    return items


def _is_open(entry: Shared, closed: set[bytes]) -> bool:
    """Say whether an entry began something that has no outcome among what is shared."""
    return isinstance(entry, Began | SignalWaitEnded) and entry.step not in closed


def _closed(run: bytes, entry: Entry) -> list[bytes]:
    """Return the steps of which an entry is the outcome, or which it abandons."""
    match entry:
        case EventMatched(waits=waits):
            return [ref.step for ref in waits if ref.run == run]
        case OperationsAbandoned(steps=steps):
            return steps
        case SignalWaitEnded(reason="replaced"):
            return []
        case _ if isinstance(entry, Ended | SignalWaitEnded):
            return [entry.step]
        case _:
            return []


def _steps(run: bytes, entry: Entry) -> list[bytes]:
    """Return the steps that an entry is about."""
    if isinstance(entry, EventMatched):
        return [ref.step for ref in entry.waits if ref.run == run]
    step = getattr(entry, "step", b"")
    return [step] if step and not isinstance(entry, RunStarted) else []
