"""fold: which records of a journal count, and the state that they make.

The acceptance rule is the fencing of stepfold. A claim counts if its epoch is the current one plus
1. A decision counts if its epoch is the current one and its seq exactly the next; a hole voids the
rest of that epoch. So duplicates, records after a hole and a zombie's late appends are void for
every reader, for ever, by the log's own order.
"""

from dataclasses import dataclass
from typing import Protocol

from stepfold_engine.core.apply import apply
from stepfold_engine.core.partition import Partition
from stepfold_schemas.entries import Decision, PartitionClaimed, PartitionRestated


class Term(Protocol):
    """What says which record counts next: the epoch, its last seq, and whether it has a hole."""

    epoch: int
    seq: int
    broken: bool


@dataclass(slots=True)
class Cursor:
    """A reader's term: it knows which records count without making the state."""

    epoch: int = 0
    seq: int = 0
    broken: bool = False


def claim_in(decision: Decision) -> PartitionClaimed | None:
    """Return the claim that this record is, or None."""
    entries = decision.entries
    if entries and isinstance(entries[0], PartitionClaimed):
        return entries[0]
    return None


def accepts(term: Term, decision: Decision) -> bool:
    """Say whether a record counts in this term."""
    if (claim := claim_in(decision)) is not None:
        return claim.epoch == term.epoch + 1
    return decision.epoch == term.epoch and not term.broken and decision.seq == term.seq + 1


def notes_hole(term: Term, decision: Decision) -> bool:
    """Say whether a record that does not count shows that others before it are missing."""
    return decision.epoch == term.epoch and decision.seq > term.seq + 1


def follow(cursor: Cursor, decision: Decision) -> bool:
    """Move a reader's cursor over a record; say whether the record counts."""
    if not accepts(cursor, decision):
        cursor.broken |= notes_hole(cursor, decision)
        return False
    if (claim := claim_in(decision)) is not None:
        cursor.epoch, cursor.broken = claim.epoch, False
    else:
        cursor.seq = decision.seq
    return True


def fold(state: Partition, decision: Decision, offset: int) -> bool:
    """Apply a record of the journal if it counts; say whether it did."""
    if not accepts(state, decision):
        state.broken |= notes_hole(state, decision)
        return False
    if claim_in(decision) is None:
        state.places.note(decision.seq, offset)
    apply(state, decision)
    return True


def begin(state: Partition, decision: Decision) -> None:
    """Take epoch and seq from the first record of a fold that starts at a round's start."""
    assert isinstance(decision.entries[0], PartitionRestated), "a log begins with a round"
    state.epoch, state.seq = decision.epoch, decision.seq - 1
    state.released = False
