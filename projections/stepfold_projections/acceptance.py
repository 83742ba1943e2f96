"""Which records of a journal count, decided for many at once: the rule of the engine's fold.

A claim counts if its epoch is the current one plus 1. A decision counts if its epoch is the current
one and its seq exactly the next; a hole voids the rest of that epoch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a partition of a topic was taken in. All but ``offset`` is a journal's.

    Attributes:
        offset: where to read next.
        epoch: the term of the last record that counted.
        seq: its number.
        broken: something of that epoch was missing, so the rest of it is void.
        partial: the reading began at a round's start that has not finished yet: facts may
            concern runs that began before it.
    """

    offset: int = 0
    epoch: int = 0
    seq: int = 0
    broken: bool = False
    partial: bool = False


def accepted(cursor: Cursor, epochs: Numbers, seqs: Numbers, claims: Flags) -> tuple[Flags, Cursor]:
    """Say which records count, and return the cursor behind them (its offset unchanged)."""
    count = len(epochs)
    plain = (
        not cursor.broken
        and not claims.any()
        and bool((epochs == cursor.epoch).all())
        and bool((seqs == np.arange(cursor.seq + 1, cursor.seq + 1 + count)).all())
    )
    if plain:
        last = Cursor(cursor.offset, cursor.epoch, cursor.seq + count, False, cursor.partial)
        return np.ones(count, dtype=np.bool_), last
    epoch, seq, broken = cursor.epoch, cursor.seq, cursor.broken
    counts = np.zeros(count, dtype=np.bool_)
    for i, (e, s, claim) in enumerate(
        zip(epochs.tolist(), seqs.tolist(), claims.tolist(), strict=True)
    ):
        if claim and e == epoch + 1:  # a claim's record has the epoch that it asks for
            epoch, broken, counts[i] = e, False, True
        elif e == epoch:
            if not claim and not broken and s == seq + 1:
                seq, counts[i] = s, True
            elif s > seq + 1:
                broken = True
    return counts, Cursor(cursor.offset, epoch, seq, broken, cursor.partial)
