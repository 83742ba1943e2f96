"""A partition's journal: which of its records count, by the rule of DESIGN.md 4, applied anew.

A claim counts if its epoch is the current one plus 1. Any other record counts if its epoch is the
current one, nothing of that epoch was missing so far, and its seq is exactly the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Decision, PartitionClaimed
from tests.simulation.audit.findings import OWNER, Findings
from tests.simulation.ledger import Written

Positions = Mapping[tuple[str, int], tuple[int, int]]
"""Where inputs are read next: (topic, partition) to (offset, part)."""

_NOWHERE: Positions = {}


@dataclass(slots=True)
class Kept:
    """A record that counts.

    Attributes:
        partition: the journal's.
        index: its number among the records of the journal that count, from 0.
        offset: where it lies.
        order: its place in the ledger: durable from there on.
        log_ms: the log's time of it.
        by: who wrote it.
        decision: what it says.
        before: the read positions before it.
        positions: the read positions behind it.
    """

    partition: int
    index: int
    offset: int
    order: int
    log_ms: int
    by: str
    decision: Decision
    before: Positions
    positions: Positions

    @property
    def claims(self) -> bool:
        """Say whether it begins a term."""
        entries = self.decision.entries
        return bool(entries) and type(entries[0]) is PartitionClaimed

    def position(self, topic: str, partition: int) -> int:
        """Return up to where an input was read when this was decided."""
        return self.positions.get((topic, partition), (0, 0))[0]

    def __str__(self) -> str:
        d = self.decision
        return f"journal/{self.partition} offset {self.offset} (epoch {d.epoch}, seq {d.seq})"


@dataclass(slots=True)
class Void:
    """A record that does not count."""

    written: Written
    decision: Decision


@dataclass(slots=True)
class Journal:
    """All records of one partition's journal, in order.

    Attributes:
        number: the partition.
        records: all that can be read: their offset, what they say, and whether they count.
        kept: those that count.
        void: those that do not.
        claims: those that count and begin a term.
    """

    number: int
    records: list[tuple[int, Decision, bool]] = field(
        default_factory=list[tuple[int, Decision, bool]]
    )
    kept: list[Kept] = field(default_factory=list[Kept])
    void: list[Void] = field(default_factory=list[Void])
    claims: list[Kept] = field(default_factory=list[Kept])

    def last_before(self, order: int) -> Kept | None:
        """Return the last record that counts and was durable at this place of the ledger."""
        low, high = 0, len(self.kept)
        while low < high:
            middle = (low + high) // 2
            if self.kept[middle].order < order:
                low = middle + 1
            else:
                high = middle
        return self.kept[low - 1] if low else None

    def passing(self, topic: str, partition: int, offset: int) -> Kept | None:
        """Return the first record behind which this input has been read."""
        where = (topic, partition)
        low, high = 0, len(self.kept)
        while low < high:
            middle = (low + high) // 2
            if self.kept[middle].positions.get(where, (0, 0))[0] > offset:
                high = middle
            else:
                low = middle + 1
        return self.kept[low] if low < len(self.kept) else None


def read_journal(number: int, records: list[Written], findings: Findings) -> Journal:
    """Decode a journal's records, each once, and tell those that count from the void."""
    journal = Journal(number)
    epoch, seq, broken = 0, 0, False
    positions = _NOWHERE
    for written in records:
        try:
            decision = codec.decode_decision(written.value)
        except UndecodableError as error:
            text = f"journal/{number} offset {written.offset} cannot be read: {error}"
            findings.add(OWNER, text, order=written.order)
            continue
        first = decision.entries[0] if decision.entries else None
        if type(first) is PartitionClaimed:
            counts = first.epoch == epoch + 1
        else:
            counts = decision.epoch == epoch and not broken and decision.seq == seq + 1
        journal.records.append((written.offset, decision, counts))
        if not counts:
            broken = broken or (decision.epoch == epoch and decision.seq > seq + 1)
            journal.void.append(Void(written, decision))
            continue
        before = positions
        if decision.positions:
            moved = {(p.topic, p.partition): (p.offset, p.part) for p in decision.positions}
            positions = {**positions, **moved}
        kept = Kept(
            number,
            len(journal.kept),
            written.offset,
            written.order,
            written.at_ms,
            written.by,
            decision,
            before,
            positions,
        )
        journal.kept.append(kept)
        if type(first) is PartitionClaimed:
            epoch, broken = first.epoch, False
            journal.claims.append(kept)
        else:
            seq = decision.seq
    return journal
