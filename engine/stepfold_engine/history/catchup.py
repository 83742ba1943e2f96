"""Reading a journal from where the index stands, counting only what the fold counts."""

from collections.abc import Sequence

from stepfold_engine.core.fold import accepts, claim_in
from stepfold_engine.core.partition import Partition
from stepfold_engine.history.store import Place
from stepfold_engine.log.base import Record
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision


class Follower:
    """Follows one journal without making its state: epoch and seq say what counts."""

    def __init__(self, number: int, count: int, place: Place | None, *, at_start: bool) -> None:
        """Begin behind ``place``, or at the journal's first record.

        Args:
            number: the partition's.
            count: how many partitions there are.
            place: where to begin; None for the first record read.
            at_start: the first record read is the journal's very first, not one of a round.
        """
        self._state = Partition(number, count)
        self._place = place
        self._begun = place is None and at_start

    @property
    def seq(self) -> int:
        """The seq of the last decision that counted; -1 before the first record."""
        if self._place is not None and not self._begun:
            return self._place.seq
        return self._state.seq if self._begun else -1

    def take(self, records: Sequence[Record]) -> list[Decision]:
        """Return the decisions among these records that count, in order.

        Raises:
            UndecodableError: a record is damaged.
            LookupError: the place to begin at is not in the journal: it is another one.
        """
        found: list[Decision] = []
        for record in records:
            decision = codec.decode_decision(record.value)
            if not self._begun:
                self._begin(decision)
                if self._place is not None:
                    continue
            if self._counts(decision):
                found.append(decision)
        return found

    def _begin(self, decision: Decision) -> None:
        place, state = self._place, self._state
        if place is None:
            state.epoch, state.seq, self._begun = decision.epoch, decision.seq - 1, True
        elif claim_in(decision) is None and decision.seq >= place.seq:
            same = (decision.seq, decision.epoch, decision.at_ms)
            if same == (place.seq, place.epoch, place.at_ms):
                state.epoch, state.seq, self._begun = place.epoch, place.seq, True
            elif decision.seq > place.seq:
                raise LookupError(f"journal/{state.number} has no decision {place}")

    def _counts(self, decision: Decision) -> bool:
        state = self._state
        if not accepts(state, decision):
            if decision.epoch == state.epoch and decision.seq > state.seq + 1:
                state.broken = True
            return False
        if (claim := claim_in(decision)) is not None:
            state.epoch, state.broken = claim.epoch, False
            return False
        state.seq = decision.seq
        return True
