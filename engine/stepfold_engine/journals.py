"""A run's journal, found in its partition's by reading that from its start.

For processes that do not own the partition and keep no index. What counts is told by epoch and
seq, which every record has in a header: only records that name the run are decoded.
"""

from dataclasses import replace

from stepfold.port import Fact
from stepfold_engine.core.apply import apply
from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import CorruptLogError, RequestRefusedError
from stepfold_engine.facts import facts_of
from stepfold_engine.log.base import JOURNAL, Log, Record
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Decision, Entry, EventMatched, PartitionClaimed
from stepfold_schemas.ids import key_of, ulid_text

_CLAIM = codec.encode(PartitionClaimed(0, b"", "", ""))[:10]
"""The bytes with which an encoded claim begins."""


async def read_run(log: Log, partition: int, run: bytes) -> list[Fact]:
    """Return the entries of a run's journal, in order.

    Raises:
        RequestRefusedError: there is no such run, or its journal is no longer kept (404).
        CorruptLogError: a record is damaged.
        LogError: the log cannot be read.
    """
    bounds = await log.bounds(JOURNAL, partition)
    finder, offset = _Finder(partition, run), bounds.start
    while offset < bounds.end:
        batch = await log.read(JOURNAL, partition, offset)
        if batch.start > offset:
            # Trimmed while it was read: what lies before is restated from its new start on.
            finder, offset = _Finder(partition, run), batch.start
        if not batch.records:
            break
        for record in batch.records:
            finder.take(record)
        offset = batch.next_offset
    return finder.facts()


class _Finder:
    """Follows a journal and keeps what concerns one run."""

    def __init__(self, partition: int, run: bytes) -> None:
        self._partition, self._run = partition, run
        self._cursor: Cursor | None = None
        # A fold of this run alone says in which order its decisions count, copies included.
        self._state = Partition(partition, partition + 1)
        self._seqs: list[int] = []
        self._by_seq: dict[int, list[Fact]] = {}

    def take(self, record: Record) -> None:
        """Take the journal's next record."""
        named = self._run in record.value
        decision = self._decoded(record, whole=named or _CLAIM in record.value)
        claims = claim_in(decision) is not None
        if self._cursor is None:
            self._cursor = Cursor(decision.epoch - claims, decision.seq - 1 + claims)
        if follow(self._cursor, decision) and named and not claims:
            self._keep(decision)

    def facts(self) -> list[Fact]:
        """Return what was found, in the order of the run's journal.

        Raises:
            RequestRefusedError: nothing was, or a part of it is missing.
        """
        text = f"run {ulid_text(self._run)}"
        if not self._seqs:
            why = f"{text}: the log holds no such run, or no longer"
            raise RequestRefusedError(404, why)
        if not self._by_seq.keys() >= set(self._seqs):
            raise RequestRefusedError(404, f"{text}: a part of its journal is no longer kept")
        return [fact for seq in self._seqs for fact in self._by_seq[seq]]

    def _keep(self, decision: Decision) -> None:
        entries = [entry for entry in decision.entries if self._concerns(entry)]
        if not entries:
            return
        apply(self._state, replace(decision, positions=[], entries=entries))
        found = [fact for run, fact in facts_of(decision) if run == self._run]
        if found:
            self._by_seq[decision.seq] = found
        state = self._state.runs.get(key_of(self._run))
        if state is not None:
            self._seqs = list(state.seqs)
        elif found and self._seqs:
            self._seqs.append(decision.seq)

    def _concerns(self, entry: Entry) -> bool:
        if isinstance(entry, EventMatched):
            return any(ref.run == self._run for ref in entry.waits)
        return getattr(entry, "run", b"") == self._run

    def _decoded(self, record: Record, *, whole: bool) -> Decision:
        place = dict(record.headers).get("seq", b"")
        if not whole and place:
            epoch, _, seq = place.partition(b"/")
            return Decision(int(epoch), int(seq), 0, 0, [], [])
        try:
            return codec.decode_decision(record.value)
        except UndecodableError as error:
            raise CorruptLogError(JOURNAL, self._partition, record.offset, str(error)) from error
