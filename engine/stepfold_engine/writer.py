"""Writes a partition's decisions to its journal, and knows when they are confirmed.

A record is confirmed when it is durable and known to be unfenced: the record with the seq before
it is confirmed and lies at the offset before, or what lies between was read and holds no claim.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from stepfold_engine.clock import Clock
from stepfold_engine.core.fold import claim_in
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import (
    AppendRefusedError,
    CorruptLogError,
    FencedError,
    LogError,
    NewerReleaseError,
)
from stepfold_engine.log.base import JOURNAL, Log, NewRecord
from stepfold_engine.ownership import (
    Claimant,
    Reading,
    claim,
    decision_in,
    headers_of,
    read_up_to,
)
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision

_log = logging.getLogger("stepfold")

FULL_RETRY_S = 0.5
CLAIM_RETRY_S = 0.2


class JournalWriter:
    """Appends batches of decisions, one at a time.

    Attributes:
        confirmed_seq: the seq of the last confirmed decision.
        stalled: the log takes nothing (disk full); the batch is kept and tried again.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        reading: Reading,
        claimant: Claimant,
        confirmed: Callable[[Decision], None],
    ) -> None:
        self._log, self._clock, self._claimant = log, clock, claimant
        self._state = reading.state
        self._end: int = reading.end
        self._confirmed = confirmed
        self.confirmed_seq = reading.state.seq
        self.stalled = False

    async def write(self, batch: Sequence[Decision]) -> None:
        """Append decisions and confirm them, through everything that can be waited out.

        Raises:
            FencedError: another process owns the partition now.
        """
        left = list(batch)
        while left:
            left = await self._append(left)

    async def _append(self, batch: list[Decision]) -> list[Decision]:
        """Try to append a batch; return what is still to be appended."""
        records = [NewRecord(codec.encode(d), headers=headers_of(d)) for d in batch]
        try:
            base = await self._log.append(JOURNAL, self._state.number, records)
        except AppendRefusedError as error:
            if not self.stalled:
                _log.error("partition %d stands still: %s", self._state.number, error)
            self.stalled = True
            await asyncio.sleep(FULL_RETRY_S)
            return batch
        except CorruptLogError:
            raise
        except LogError as error:
            _log.warning("partition %d: %s; claiming again", self._state.number, error)
            left = await self._claim_again(batch)
            self._goes_on()  # the log took a claim
            return left
        self._goes_on()
        if base is not None and base == self._end:
            self._end = base + len(batch)
            self._state.places.note(batch[0].seq, base)
            self._confirm(batch)
        else:
            await self._read_back(batch)
        return []

    def _goes_on(self) -> None:
        if self.stalled:
            self.stalled = False
            _log.warning("partition %d goes on", self._state.number)

    def _confirm(self, batch: Sequence[Decision]) -> None:
        self.confirmed_seq = batch[-1].seq
        for decision in batch:
            self._confirmed(decision)

    async def _read_back(self, batch: Sequence[Decision]) -> None:
        """Read from the last confirmed record on: is there a claim before this batch?"""
        epoch, seq, last = self._state.epoch, self.confirmed_seq, batch[-1].seq
        while seq < last:
            found = await self._log.read(JOURNAL, self._state.number, self._end, wait_ms=1000)
            if found.start > self._end:
                # Only an owner trims: the claim of another one is among what is gone.
                raise FencedError(self._fenced_by(epoch, "an owner that trimmed the journal"))
            for record in found.records:
                self._end = record.offset + 1
                decision = decision_in(self._state.number, record.offset, record.value)
                if claim_in(decision) is not None and decision.epoch == epoch + 1:
                    raise FencedError(self._fenced_by(epoch, f"epoch {decision.epoch}"))
                if decision.epoch == epoch and decision.seq == seq + 1:
                    seq += 1
                    self._state.places.note(seq, record.offset)
                    if seq == last:
                        break
        self._confirm(batch)

    async def _claim_again(self, batch: Sequence[Decision]) -> list[Decision]:
        """Begin a new term after an append whose fate is not known.

        The batch that failed may still land, behind the new claim, and is void then. What landed
        before the claim counts and is confirmed; the rest is returned, for the new term.

        Raises:
            FencedError: another claim lies between.
        """
        state = self._state
        before = state.epoch
        shadow = Reading(Partition(state.number, state.count), self._end)
        shadow.state.epoch, shadow.state.seq = before, self.confirmed_seq
        shadow.state.node, shadow.state.incarnation = state.node, state.incarnation
        accepted = False
        while not accepted:
            try:
                bounds = await self._log.bounds(JOURNAL, state.number)
                if not await read_up_to(self._log, shadow, bounds.end):
                    raise FencedError(self._fenced_by(before, "an owner that trimmed the journal"))
                # A claim of this very process may have landed although its append failed.
                if shadow.state.incarnation != state.incarnation:
                    raise FencedError(self._fenced_by(before, f"epoch {shadow.state.epoch}"))
                now_ms = self._clock.now_ms()
                accepted = await claim(self._log, shadow, self._claimant, now_ms)
            except (CorruptLogError, NewerReleaseError):
                raise
            except LogError as error:
                _log.warning("partition %d cannot claim yet: %s", state.number, error)
                await asyncio.sleep(CLAIM_RETRY_S)
        state.epoch, self._end = shadow.state.epoch, shadow.end
        for seq, delta in shadow.state.places.pairs:
            state.places.note(seq, seq + delta)
        landed = [d for d in batch if d.seq <= shadow.state.seq]
        if landed:
            self._confirm(landed)
        return [in_epoch(d, state.epoch) for d in batch if d.seq > shadow.state.seq]

    def _fenced_by(self, epoch: int, by: str) -> str:
        return f"partition {self._state.number}: epoch {epoch} is fenced by {by}"


def in_epoch(decision: Decision, epoch: int) -> Decision:
    """Return the same decision for another term of the same owner."""
    if decision.epoch == epoch:
        return decision
    return Decision(
        epoch,
        decision.seq,
        decision.at_ms,
        decision.fold_from,
        decision.positions,
        decision.entries,
    )
