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
