"""Decisions of a journal, staged: one Arrow table for each kind of fact that the tables fold.

Rules:

* ``n`` says where a fact lies: the offset of its record, and behind it its place there. So facts of
  a run, which all lie in one journal, have an order; those of different journals need none.
* Ids of runs are ULIDs as text. A step is its key (bytes) until its run has ended.
* What a round copies from before the log's start comes with negative numbers: the copy's, less
  ``COPIED``.
"""

# pyarrow's stubs are partly unknown; tables leave this module by name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingTypeArgument=false, reportCallIssue=false

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stepfold_projections.acceptance import Cursor, accepted
from stepfold_projections.arrow import ArrowTable, pa, pc
from stepfold_projections.columns import SHAPES, Numbers, Rows, empty, shaped
from stepfold_projections.decoding import Column, decode, entries_by_class, flat
from stepfold_projections.facts import STAGERS
from stepfold_schemas import codec

FACTS = frozenset(
    {
        "RunStarted", "RunCompleted", "RunFailed", "RunCancelled", "RunStopped", "RunResumed",
        "RunAttemptFailed", "RerunStarted", "AttemptStarted", "StepCompleted",
        "StepAttemptFailed", "StepFailed",
        "SleepBegan", "SleepEnded", "TimerSet", "TimerFired", "WaitBegan", "WaitTimedOut",
        "EventMatched", "SignalWaitBegan", "SignalReceived", "SignalWaitEnded", "InvokeBegan",
        "InvokeCompleted", "InvokeFailed", "OperationsAbandoned", "RoundFinished",
    }
)  # fmt: skip
PLACE_BITS = 20
"""Of ``n``: the place of an entry, or of a copied one, in its record of at most some megabytes."""

COPIED = 1 << 62
ROUND = frozenset({"RunRestated", "HistoryRestated"})
"""What a round writes again: needed only by who did not see it the first time."""


@dataclass(slots=True)
class Staged:
    """The facts of some records, and the cursor behind them."""

    cursor: Cursor
    facts: dict[str, list[ArrowTable]] = field(
        default_factory=lambda: {name: [] for name in SHAPES}
    )
    last_ms: int = 0
    finished_round: bool = False

    def tables(self) -> dict[str, ArrowTable]:
        """Return each kind of fact as one table."""
        return {name: _concat(name, parts) for name, parts in self.facts.items()}


def _concat(name: str, parts: Sequence[ArrowTable]) -> ArrowTable:
    return pa.concat_tables(parts) if parts else empty(name)


def stage(
    values: Sequence[bytes],
    offsets: Sequence[int],
    partition: int,
    cursor: Cursor,
    *,
    begun: bool,
) -> Staged:
    """Stage records of a journal.

    Args:
        values: the records' bytes, in order.
        offsets: where they lie.
        partition: the journal's number.
        cursor: how far it was taken in.
        begun: False if the first record is the first readable one of a trimmed journal.

    Raises:
        DamagedError: a record is damaged, or of a newer release.
    """
    decisions = decode(values, "Decision")
    column = flat(decisions["entries"])
    entries, parents = column.flatten(), pc.list_parent_indices(column).to_numpy()
    epochs, seqs = (flat(decisions[c]).to_numpy() for c in ("epoch", "seq"))
    if not begun:
        cursor = Cursor(cursor.offset, int(epochs[0]), int(seqs[0]) - 1, False, partial=True)
    claims = np.zeros(len(values), dtype=np.bool_)
    claims[parents[_places_of(entries, "PartitionClaimed")]] = True
    counts, after = accepted(cursor, epochs, seqs, claims)
    if not counts.all():
        kept = counts[parents]
        entries, parents = entries.filter(pa.array(kept)), parents[kept]
    if (seqs[parents[_places_of(entries, "PartitionRestated")]] == 1).any():
        # What lives was moved here: to begin with, all that there is was restated.
        after = Cursor(after.offset, after.epoch, after.seq, after.broken, partial=True)
    times = flat(decisions["at_ms"]).to_numpy()
    staged = Staged(after, last_ms=int(times[-1]))
    at_ms = times[parents]
    numbers = _numbered(np.array(offsets, dtype=np.int64)[parents])
    _take(staged, entries, numbers, at_ms, partition)
    if staged.finished_round:
        staged.cursor = Cursor(after.offset, after.epoch, after.seq, after.broken, partial=False)
    return staged


def _take(
    staged: Staged, entries: Column, numbers: Numbers, at_ms: Numbers, partition: int
) -> None:
    wanted = FACTS | ROUND if staged.cursor.partial else FACTS
    for cls, places, fields in entries_by_class(entries, wanted):
        if cls == "RoundFinished":
            staged.finished_round = True
        elif cls == "HistoryRestated":
            _take_copies(staged, fields, numbers[places], partition)
        else:
            rows = Rows(fields, numbers[places], at_ms[places], partition)
            for name, columns in STAGERS[cls](rows):
                staged.facts[name].append(shaped(name, columns))


def _numbered(offsets: Numbers) -> Numbers:
    """Return the number of each thing that lies in a record, in order, by the records' offsets."""
    first = np.searchsorted(offsets, offsets)
    return (offsets << PLACE_BITS) + np.arange(len(offsets), dtype=np.int64) - first


def _take_copies(staged: Staged, fields: ArrowTable, numbers: Numbers, partition: int) -> None:
    """Stage the facts that a round copied, as older than all others."""
    lists = flat(fields["items"])
    items = pc.list_flatten(lists)
    entries = flat(pc.struct_field(items, "entry"))
    if not len(entries):
        return
    offsets = numbers[pc.list_parent_indices(lists).to_numpy()] >> PLACE_BITS
    _take(
        staged,
        entries,
        _numbered(offsets) - COPIED,
        flat(pc.struct_field(items, "at_ms")).to_numpy(),
        partition,
    )


def _places_of(entries: Column, cls: str) -> Numbers:
    header = _HEADERS[cls]
    return np.flatnonzero(pc.starts_with(entries, header).to_numpy(zero_copy_only=False))


_HEADERS = {n.partition(".v")[0]: h for h, n in codec.schema_headers().items()}
