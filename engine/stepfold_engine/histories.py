"""Histories: a run's facts, read back from the journal."""

from collections.abc import Sequence
from typing import Protocol

from stepfold.port import Fact
from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.errors import CorruptLogError, LogError
from stepfold_engine.facts import facts_of
from stepfold_engine.log.base import JOURNAL, Log
from stepfold_engine.ownership import decision_in
from stepfold_schemas.entries import Decision
from stepfold_schemas.ids import key_of


class Folded(Protocol):
    """Who knows the state of a partition: its owner, or who has read its journal."""

    @property
    def state(self) -> Partition:
        """Return the fold."""
        ...


async def read_decision(log: Log, owner: Folded, seq: int) -> tuple[int, Decision]:
    """Read the accepted decision with this seq; return it with its offset.

    Where it lies is known from the partition's places, or follows from the journal behind a place
    that is known: records that do not count may bear the same seq.

    Raises:
        CorruptLogError: it is damaged, or no longer there.
    """
    number = owner.state.number
    start = (await log.bounds(JOURNAL, number)).start
    found = owner.state.places.find(seq)
    if found is not None and found.at >= start:
        batch = await log.read(JOURNAL, number, found.at, bytes_max=1)
        for record in batch.records[:1]:
            decision = decision_in(number, record.offset, record.value)
            if record.offset == found.at and decision.seq == seq and claim_in(decision) is None:
                return record.offset, decision
    # A journal begins with a round, whose first record counts.
    return await _follow_to(log, number, start if found is None else max(start, found.offset), seq)


async def _follow_to(log: Log, number: int, offset: int, seq: int) -> tuple[int, Decision]:
    """Find a decision by following the journal from an offset whose record counts."""
    cursor: Cursor | None = None
    while True:
        batch = await log.read(JOURNAL, number, offset)
        if not batch.records or batch.start > offset:
            raise _missing(number, offset, seq)
        for record in batch.records:
            decision = decision_in(number, record.offset, record.value)
            if cursor is None:
                claims = claim_in(decision) is not None
                cursor = Cursor(decision.epoch - claims, decision.seq - 1 + claims)
            if not follow(cursor, decision) or claim_in(decision) is not None:
                continue
            if decision.seq == seq:
                return record.offset, decision
            if decision.seq > seq:
                raise _missing(number, record.offset, seq)
        offset = batch.next_offset


def _missing(number: int, offset: int, seq: int) -> CorruptLogError:
    text = f"the record with seq {seq} is missing from the journal"
    return CorruptLogError(JOURNAL, number, offset, text)


def is_beginning(seqs: Sequence[int], through: int) -> bool:
    """Say whether a run's decisions up to ``through`` are a beginning of its history.

    The copy that a round makes of old decisions stands in their place from when it is decided, and
    may be all there is.

    >>> is_beginning([3, 7, 8, 12], 8), is_beginning([9, 7, 8], 8), is_beginning([9], 8)
    (True, False, False)
    """
    newest = next((i for i in reversed(range(len(seqs))) if seqs[i] <= through), 0)
    return all(seq <= through for seq in seqs[: newest + 1])


async def read_history(log: Log, owner: Folded, run: Run, through: int) -> list[Fact]:
    """Read the facts of a run from the decisions up to ``through``, in order.

    Raises:
        CorruptLogError: one of them is damaged, or no longer there.
        LogError: the log cannot be read now, or a copy of the history is being written.
    """
    while True:
        seqs = list(run.seqs)
        if not is_beginning(seqs, through):
            text = f"journal/{owner.state.number}: a copy of the history is being written"
            raise LogError(text)
        try:
            return await _facts(log, owner, run.id, [seq for seq in seqs if seq <= through])
        except CorruptLogError:
            # A round may have copied the history, and cut the log behind it, while it was read.
            now = owner.state.runs.get(key_of(run.id))
            if now is None or now.seqs[: len(seqs)] == seqs:
                raise
            run = now


async def _facts(log: Log, owner: Folded, run: bytes, seqs: list[int]) -> list[Fact]:
    facts: list[Fact] = []
    for seq in seqs:
        _, decision = await read_decision(log, owner, seq)
        facts.extend(fact for of, fact in facts_of(decision) if key_of(of) == key_of(run))
    return facts


def ordered(facts: list[Fact], run: Run) -> list[Fact]:
    """Return a run's facts in the order in which its code must see them; none if one is missing.

    A round may have copied some of them, so that they lie twice in what was read, the copies last.
    """
    by_seq: dict[int, list[Fact]] = {}
    for fact in facts:
        by_seq.setdefault(fact.seq, []).append(fact)
    if not all(seq in by_seq for seq in run.seqs):
        return []
    return [fact for seq in run.seqs for fact in by_seq[seq]]
