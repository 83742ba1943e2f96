"""Arrival: one partition of the log that is moved into, and how much of it is there already.

The decisions of a move are the same each time. So those that a move wrote before it was killed are
compared with those that it would write, and passed over.
"""

from dataclasses import dataclass, field
from hashlib import sha1

from stepfold_engine.clock import Clock
from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import FencedError, LogError
from stepfold_engine.log.base import INBOX, JOURNAL, Log
from stepfold_engine.ownership import Claimant, claim, recover
from stepfold_engine.writer import JournalWriter, in_epoch
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, Entry, RoundFinished

BATCH_BYTES = 1 << 20


class NotFreshError(LogError):
    """The log that is to be moved into was used for something else."""


@dataclass(slots=True)
class Found:
    """What lies in a journal: digests of the move's decisions, and whether they are all there."""

    digests: list[bytes] = field(default_factory=list[bytes])
    begun: bool = False
    finished: bool = False


async def look(log: Log, number: int, move: str) -> Found:
    """Look what of a move lies in a partition.

    Raises:
        NotFreshError: the partition was used, or is used, by somebody else.
    """
    bounds, found, cursor = await log.bounds(JOURNAL, number), Found(), Cursor()
    if bounds.start > 0:
        raise _used(number, "its journal was trimmed")
    if bounds.end == 0 and (await log.bounds(INBOX, number)).end > 0:
        raise _used(number, "its journal is empty, but not its inbox")
    offset = 0
    while offset < bounds.end and not found.finished:
        batch = await log.read(JOURNAL, number, offset)
        for record in batch.records:
            decision = codec.decode_decision(record.value)
            if not follow(cursor, decision) or found.finished:
                continue
            claimed = claim_in(decision)
            if claimed is None:
                found.digests.append(_digest(decision.entries))
                found.finished = isinstance(decision.entries[0], RoundFinished)
            elif claimed.incarnation != move:
                raise _used(number, f"process {claimed.node} owned it")
            found.begun = True
        offset = max(batch.next_offset, offset + 1)
    return found


def _used(number: int, why: str) -> NotFreshError:
    text = f"partition {number} of the journal was used already: {why}"
    return NotFreshError(f"{text}. A move needs a namespace of its own: make its topics anew")


def _digest(entries: list[Entry]) -> bytes:
    whole = sha1(usedforsecurity=False)
    for entry in entries:
        whole.update(codec.encode(entry))
    return whole.digest()


class Arrival:
    """Writes the decisions of a move into one partition, each once."""

    def __init__(self, log: Log, number: int, count: int, clock: Clock, found: Found) -> None:
        self._log, self._number, self._count, self._clock = log, number, count, clock
        self._found = found
        self._given = 0
        self._batch: list[Decision] = []
        self._size = 0
        self._writer: JournalWriter | None = None
        self._state = Partition(number, count)

    @property
    def finished(self) -> bool:
        """An earlier move wrote all of it; somebody may own it by now."""
        return self._found.finished

    async def open(self, claimant: Claimant) -> None:
        """Claim the partition.

        Raises:
            NotFreshError: somebody else did.
            LogError: the log cannot be used.
        """
        if self._found.finished:
            return
        reading = await recover(self._log, self._number, self._count)
        accepted = await claim(self._log, reading, claimant, self._clock.now_ms())
        if not accepted or reading.state.seq != len(self._found.digests):
            raise _used(self._number, f"process {reading.state.node} claimed it")
        self._state = reading.state
        self._writer = JournalWriter(self._log, self._clock, reading, claimant, lambda _: None)

    async def put(self, entries: list[Entry]) -> None:
        """Write the next decision, unless it is there.

        Raises:
            NotFreshError: another one is there, or somebody else claimed the partition.
        """
        index, self._given = self._given, self._given + 1
        if index < len(self._found.digests):
            if self._found.digests[index] != _digest(entries):
                text = "it holds what another release, or another state, wrote"
                raise _used(self._number, text)
            return
        now_ms = self._clock.now_ms()
        epoch = self._state.epoch
        self._batch.append(Decision(epoch, self._given, now_ms, 0, [], entries))
        self._size += sum(len(codec.encode(entry)) for entry in entries)
        if self._size >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Return when all is durable and counts."""
        batch, self._batch, self._size = self._batch, [], 0
        if not batch or self._writer is None:
            return
        try:
            await self._writer.write([in_epoch(d, self._state.epoch) for d in batch])
        except FencedError as error:
            raise _used(self._number, str(error)) from error
