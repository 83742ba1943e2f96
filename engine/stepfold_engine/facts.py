"""Facts: the entries of a journal as one run sees them."""

from collections.abc import Iterator
from typing import cast, get_args

from stepfold.port import Fact
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    EventMatched,
    HistoryRestated,
    LookbackFinished,
    RerunStarted,
    RunEntry,
    RunParked,
    RunRestated,
    RunStarted,
)

_HISTORY: frozenset[type] = frozenset(get_args(RunEntry)) - {
    RunRestated,
    RunParked,
    LookbackFinished,
}


def facts_of(decision: Decision) -> Iterator[tuple[bytes, Fact]]:
    """Yield (run id, fact) for every run that a decision concerns, in order."""
    for entry in decision.entries:
        if isinstance(entry, RerunStarted) and entry.times_ms:
            yield from _of_rerun(decision, entry)
            return
    yield from _as_decided(decision)


def _of_rerun(decision: Decision, rerun: RerunStarted) -> Iterator[tuple[bytes, Fact]]:
    """Yield the facts of a rerun's beginning; what is shared keeps the time it was recorded at."""
    begun, times = False, iter(rerun.times_ms)
    for run, fact in _as_decided(decision):
        if run == rerun.run and fact.entry is rerun:
            begun = False
        at_ms = next(times, fact.at_ms) if run == rerun.run and begun else fact.at_ms
        begun |= isinstance(fact.entry, RunStarted)
        yield run, Fact(fact.seq, fact.place, at_ms, fact.entry)


def _as_decided(decision: Decision) -> Iterator[tuple[bytes, Fact]]:
    for place, entry in enumerate(decision.entries):
        if isinstance(entry, EventMatched):
            fact = Fact(decision.seq, place, decision.at_ms, entry)
            for ref in entry.waits:
                yield ref.run, fact
        elif isinstance(entry, HistoryRestated):
            for index, item in enumerate(entry.items):
                copied = Fact(decision.seq, index, item.at_ms, codec.decode_entry(item.entry))
                yield entry.run, copied
        elif type(entry) in _HISTORY:
            run = cast("RunEntry", entry).run  # just checked
            yield run, Fact(decision.seq, place, decision.at_ms, entry)


def started_in(facts: list[Fact]) -> RunStarted | None:
    """Return the entry with which a run's history begins."""
    for fact in facts:
        if isinstance(fact.entry, RunStarted):
            return fact.entry
    return None
