"""Read positions and trims: positions only move on, and only what nobody needs is removed."""

from stepfold_schemas.entries import InputRejected, PartitionRestated, PositionReset, RoundFinished
from tests.simulation.audit.findings import POSITION, TRIM
from tests.simulation.audit.journal import Journal
from tests.simulation.audit.world import EVENTS, INBOX, JOURNAL, World
from tests.simulation.ledger import Trimmed

RESET_FAULT = "trim"
"""A fault whose name has this word removes records that somebody still needs."""


def check(world: World) -> None:
    """Check all positions and trims."""
    _check_positions(world)
    _check_rejected(world)
    rounds = [_Rounds(journal) for journal in world.journals] if world.trims else []
    for trim in world.trims:
        if trim.before == 0:
            continue
        if trim.topic == JOURNAL:
            _check_journal_trim(world, rounds[trim.partition], trim)
        elif trim.topic == INBOX:
            _check_read(world, trim, [trim.partition])
        elif trim.topic == EVENTS:
            _check_read(world, trim, list(range(world.setup.partitions)))


def _check_positions(world: World) -> None:
    findings = world.findings
    for journal in world.journals:
        for kept in journal.kept:
            for p in kept.decision.positions:
                where, name = (p.topic, p.partition), f"{p.topic}/{p.partition}"
                before = kept.before.get(where, (0, 0))
                if (p.offset, p.part) < before:
                    text = f"{kept} moves the position in {name} back from {before[0]} to"
                    findings.add(POSITION, f"{text} {p.offset}", order=kept.order)
                end = world.topics[where].end_at(kept.order)
                if p.offset > end or (p.part and p.offset == end):
                    text = f"{kept} reads {name} up to {p.offset}, which ended at {end}"
                    findings.add(POSITION, text, order=kept.order)
    if not any(RESET_FAULT in fault.what for fault in world.faults):
        for fact in world.of(PositionReset):
            e, kept = fact.entry, fact.kept
            text = f"{kept}: the position {e.expected} in {e.topic}/{e.partition} lies before its"
            findings.add(POSITION, f"{text} start, {e.start}", order=kept.order)


def _check_rejected(world: World) -> None:
    for fact in world.of(InputRejected):
        e, kept = fact.entry, fact.kept
        if (e.topic, e.partition, e.offset) not in world.unreadable:
            text = f"{kept} rejects {e.topic}/{e.partition} offset {e.offset}, which can be read"
            world.findings.add(POSITION, f"{text}: {e.reason}", order=kept.order)


class _Rounds:
    """Where a journal may begin, and from when on.

    Attributes:
        starts: by the offset at which a round begins, its number.
        finished: by number, where in the ledger a round's end was durable.
        noted: where in the ledger a record was durable that says a later ``fold_from`` than those
            before, and that one; both grow.
    """

    def __init__(self, journal: Journal) -> None:
        self.starts: dict[int, int] = {}
        self.finished: dict[int, int] = {}
        self.noted: list[tuple[int, int]] = []
        last = 0
        for kept in journal.kept:
            if kept.decision.fold_from > last:
                last = kept.decision.fold_from
                self.noted.append((kept.order, last))
            for entry in kept.decision.entries:
                if isinstance(entry, PartitionRestated):
                    self.starts[kept.offset] = entry.round
                elif isinstance(entry, RoundFinished):
                    self.finished.setdefault(entry.round, kept.order)


def _check_journal_trim(world: World, rounds: _Rounds, trim: Trimmed) -> None:
    """A journal begins with a whole round that a durable record says recovery may begin with."""
    number = rounds.starts.get(trim.before)
    noted = (fold_from for order, fold_from in rounds.noted if order < trim.order)
    if number is None:
        why = "where no round begins"
    elif rounds.finished.get(number, trim.order) >= trim.order:
        why = f"the start of round {number}, which is not finished"
    elif max(noted, default=0) < trim.before:
        why = "but no durable record says yet that recovery may begin there"
    else:
        return
    text = f"journal/{trim.partition} is trimmed up to {trim.before}, {why}"
    world.findings.add(TRIM, text, order=trim.order)


def _check_read(world: World, trim: Trimmed, readers: list[int]) -> None:
    """Inputs are removed only when a durable record says that they were read."""
    for number in readers:
        last = world.journals[number].last_before(trim.order)
        read = last.position(trim.topic, trim.partition) if last is not None else 0
        if trim.before > read:
            text = (
                f"{trim.topic}/{trim.partition} is trimmed up to {trim.before}; partition {number}"
                f" is known to have read up to {read}"
            )
            world.findings.add(TRIM, text, order=trim.order)
