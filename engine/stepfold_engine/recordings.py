"""Recordings: a run's history as a run file holds it, made of facts and turned into facts again."""

from collections.abc import Sequence
from dataclasses import replace

from stepfold.port import Fact
from stepfold_engine.facts import started_in
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    InvokeBegan,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunResumed,
    RunStarted,
    RunStopped,
)
from stepfold_schemas.ids import home_of, invocation_cause, partition_of, run_key
from stepfold_schemas.runfile import (
    CANCELLED,
    COMPLETED,
    FAILED,
    STOPPED,
    UNFINISHED,
    ExportedRun,
    JournalItem,
)

_STATUS: dict[type[Entry], str] = {
    RunCompleted: COMPLETED,
    RunFailed: FAILED,
    RunCancelled: CANCELLED,
    RunStopped: STOPPED,
    RunResumed: UNFINISHED,
}
ENDS = (RunCompleted, RunFailed, RunCancelled)

NO_BEGINNING = "its beginning is no longer in the log"


def recorded(facts: Sequence[Fact], *, asked: bool = True, gaps: str = "") -> ExportedRun:
    """Make a recording of a run's facts, which are in the order in which its code met them.

    Raises:
        LookupError: the run's start is not among them.
    """
    started = started_in(list(facts))
    if started is None:
        raise LookupError(NO_BEGINNING)
    status, ended_ms = UNFINISHED, 0
    for fact in facts:
        status = _STATUS.get(type(fact.entry), status)
        if isinstance(fact.entry, ENDS):
            ended_ms = fact.at_ms
    return ExportedRun(
        started.run,
        started.function,
        started.version,
        started.fingerprint,
        status,
        facts[0].at_ms,
        ended_ms,
        home_of(started.run),
        asked,
        gaps,
        [],
        started.invoker,
        [_item(fact, started.run) for fact in facts],
    )


def _item(fact: Fact, run: bytes) -> JournalItem:
    entry = fact.entry
    if isinstance(entry, EventMatched):
        # It may have woken runs of other people, too.
        entry = replace(entry, waits=[ref for ref in entry.waits if ref.run == run])
    encoded = codec.encode(entry)
    return JournalItem(fact.seq, fact.place, fact.at_ms, type(entry).__name__, encoded)


def facts_in(run: ExportedRun) -> list[Fact]:
    """Return the facts of a recording.

    Raises:
        UndecodableError: an entry is damaged, or a newer release wrote it.
    """
    return [
        Fact(item.seq, item.place, item.at_ms, codec.decode_entry(item.entry))
        for item in run.journal
    ]


def start_of(facts: Sequence[Fact]) -> RunStarted:
    """Return the entry with which a whole history begins."""
    started = started_in(list(facts))
    assert started is not None, "a recording holds the run's start"
    return started


def missing_from(runs: Sequence[ExportedRun]) -> list[InvokeBegan]:
    """Return the invocations of runs whose own runs are not among them."""
    there = {(r.invoker.run, r.invoker.step) for r in runs if r.invoker is not None}
    return [
        entry
        for run in runs
        for fact in facts_in(run)
        if isinstance(entry := fact.entry, InvokeBegan) and (entry.run, entry.step) not in there
    ]


def invoked_by(facts: Sequence[Fact], partitions: int) -> list[tuple[InvokeBegan, int, bytes]]:
    """Return a run's invocations, with the home and the key of the run that each one started."""
    found: list[tuple[InvokeBegan, int, bytes]] = []
    for fact in facts:
        entry = fact.entry
        if isinstance(entry, InvokeBegan):
            cause = invocation_cause(entry.run, entry.step)
            home = partition_of(cause, partitions)
            found.append((entry, home, run_key(home, entry.function, cause)))
    return found
