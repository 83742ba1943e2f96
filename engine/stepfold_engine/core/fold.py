"""fold: which records of a journal count, and the state that they make.

The acceptance rule is the fencing of stepfold. A claim counts if its epoch is the current one plus
1. A decision counts if its epoch is the current one and its seq exactly the next; a hole voids the
rest of that epoch. So duplicates, records after a hole and a zombie's late appends are void for
every reader, for ever, by the log's own order.
"""

from stepfold_engine.core.apply import apply
from stepfold_engine.core.partition import Partition
from stepfold_schemas.entries import Decision, PartitionClaimed, PartitionRestated, SeqPlace

PLACES_MAX = 1_000
"""How many shifts between seq and offset are kept; older ones merge into an earlier hint."""


def claim_in(decision: Decision) -> PartitionClaimed | None:
    """Return the claim that this record is, or None."""
    entries = decision.entries
    if entries and isinstance(entries[0], PartitionClaimed):
        return entries[0]
    return None


def accepts(state: Partition, decision: Decision) -> bool:
    """Say whether a record counts in this state."""
    if (claim := claim_in(decision)) is not None:
        return claim.epoch == state.epoch + 1
    return decision.epoch == state.epoch and not state.broken and decision.seq == state.seq + 1


def fold(state: Partition, decision: Decision, offset: int) -> bool:
    """Apply a record of the journal if it counts; say whether it did."""
    if not accepts(state, decision):
        if decision.epoch == state.epoch and decision.seq > state.seq + 1:
            state.broken = True
        return False
    if claim_in(decision) is None:
        note_place(state, decision.seq, offset)
    apply(state, decision)
    return True


def begin(state: Partition, decision: Decision) -> None:
    """Take epoch and seq from the first record of a fold that starts at a round's start."""
    assert isinstance(decision.entries[0], PartitionRestated), "a log begins with a round"
    state.epoch, state.seq = decision.epoch, decision.seq - 1
    state.released = False


def note_place(state: Partition, seq: int, offset: int) -> None:
    """Remember where a confirmed record lies, if that does not follow from those before."""
    delta = offset - seq
    places = state.places
    if places and places[-1][1] == delta:
        return
    places.append((seq, delta))
    if len(places) > PLACES_MAX:
        # An earlier delta is a lower bound for later records, so a middle one may go.
        del places[PLACES_MAX // 2]


def places_of(state: Partition) -> list[SeqPlace]:
    """Return the places as they are restated."""
    return [SeqPlace(seq, delta) for seq, delta in state.places]
