"""Reading a journal from where the index stands, counting only what the fold counts."""

from collections.abc import Sequence

from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.history.store import Place
from stepfold_engine.log.base import Record
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision


class Follower:
    """Follows one journal without making its state: epoch and seq say what counts."""

    def __init__(self, number: int, place: Place | None, *, at_start: bool) -> None:
        """Begin behind ``place``, or at the journal's first record.

        Args:
            number: the partition's.
            place: where to begin; None for the first record read.
            at_start: the first record read is the journal's very first, not one of a round.
        """
        self._number, self._cursor = number, Cursor()
        self._place = place
        self._begun = place is None and at_start

    @property
    def seq(self) -> int:
        """The seq of the last decision that counted; -1 before the first record."""
        if self._place is not None and not self._begun:
            return self._place.seq
        return self._cursor.seq if self._begun else -1

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
            if follow(self._cursor, decision) and claim_in(decision) is None:
                found.append(decision)
        return found

    def _begin(self, decision: Decision) -> None:
        place, cursor = self._place, self._cursor
        if place is None:
            cursor.epoch, cursor.seq, self._begun = decision.epoch, decision.seq - 1, True
        elif claim_in(decision) is None and decision.seq >= place.seq:
            same = (decision.seq, decision.epoch, decision.at_ms)
            if same == (place.seq, place.epoch, place.at_ms):
                cursor.epoch, cursor.seq, self._begun = place.epoch, place.seq, True
            elif decision.seq > place.seq:
                raise LookupError(f"journal/{self._number} has no decision {place}")
