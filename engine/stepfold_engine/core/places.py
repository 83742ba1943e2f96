"""Places: where in the journal the decision with a given seq lies.

Between a decision's seq and its record's offset lies a difference that grows with every record that
does not count: claims, a zombie's appends, duplicates. So a few pairs (seq, difference) say where
all of millions of decisions lie. A pair is exact for its own seq, and holds from there on up to
the next pair, with one exception: a pair with the same difference as the one before it is a mark.
Behind a mark, up to the next pair, the difference grew at a place that is not known, and who looks
for a decision there follows the journal from the mark on.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

PLACES_MAX = 10_000
"""How many pairs are kept; behind the first, decisions are found by following the journal."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where to look for a decision.

    Attributes:
        seq: of a decision at or before it, whose record lies exactly at ``offset``.
        at: the offset of the decision itself; -1 if it is found only by following the journal.
    """

    seq: int
    offset: int
    at: int


@dataclass(slots=True)
class Places:
    """The pairs of one journal, as far back as they are known."""

    pairs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    merged: bool = False

    def note(self, seq: int, offset: int) -> None:
        """Remember where a confirmed record lies, if that does not follow from those before."""
        delta, pairs = offset - seq, self.pairs
        if pairs and pairs[-1][1] == delta:
            return
        pairs.append((seq, delta))
        if len(pairs) > PLACES_MAX:
            del pairs[1]
            self.merged = True

    def find(self, seq: int) -> Found | None:
        """Say where to look for a decision; None if it is older than what is known."""
        pairs = self.pairs
        index = bisect_right(pairs, seq, key=lambda pair: pair[0]) - 1
        if index < 0:
            return None
        first, delta = pairs[index]
        is_mark = index > 0 and pairs[index - 1][1] == delta
        last = index == len(pairs) - 1
        unsure = first < seq and not last and (is_mark or (self.merged and index == 0))
        return Found(first, first + delta, -1 if unsure else seq + delta)

    def hint(self, seq: int) -> int:
        """Return an offset at or before that of a decision."""
        found = self.find(seq)
        return 0 if found is None else max(found.offset, found.at)

    def restated(self, confirmed: int) -> list[tuple[int, int]]:
        """Return the pairs as a round restates them, when ``confirmed`` is the last known place.

        What is decided, but not confirmed, lies at offsets that are not known yet: a mark says so.
        """
        kept: list[tuple[int, int]] = []
        for index, (seq, delta) in enumerate(self.pairs):
            is_mark = index > 0 and self.pairs[index - 1][1] == delta
            needless = index + 1 == len(self.pairs) or self.pairs[index + 1][1] == delta
            if not (is_mark and needless):
                kept.append((seq, delta))
        if kept and kept[-1][0] <= confirmed:
            kept.append((confirmed, kept[-1][1]))
        return kept

    def adopt(self, older: Iterable[tuple[int, int]], before: int) -> None:
        """Take over the pairs of a round, for what lies before the first known one."""
        first = self.pairs[0][0] if self.pairs else before
        known = [pair for pair in older if pair[0] < first]
        # Without a difference between the mark and what comes next nothing behind it is unsure.
        while len(known) > 1 and self.pairs and known[-1][1] == known[-2][1] == self.pairs[0][1]:
            del known[-1]
        if known and self.pairs and known[-1][1] == self.pairs[0][1]:
            del self.pairs[0]
        self.pairs[:0] = known

    def forget(self, before: int) -> None:
        """Forget what lies before an offset, at which the journal begins now."""
        pairs = self.pairs
        while len(pairs) > 1 and sum(pairs[1]) <= before:
            del pairs[0]
