"""Ownership of a journal partition: recover it, claim it, read one's own claim back.

The algorithm is fencing by the log's own order (ARCHITECTURE.md): a claim with a fresh nonce is
appended with the next epoch; who reads the journal up to that claim and finds it accepted owns the
partition until a claim with a higher epoch is accepted.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from stepfold.port import Fact
from stepfold_engine.core.fold import begin, claim_in, fold
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import (
    AppendUnknownError,
    CorruptLogError,
    LogError,
    NewerReleaseError,
)
from stepfold_engine.facts import facts_of
from stepfold_engine.log.base import JOURNAL, Log, NewRecord
from stepfold_schemas import codec
from stepfold_schemas.codec import NewerSchemaError, UndecodableError
from stepfold_schemas.entries import Decision, PartitionClaimed, PartitionRestated
from stepfold_schemas.ids import key_of

READ_BYTES = 4 * 1024 * 1024
FACTS_KEPT_BYTES = 64 * 1024 * 1024
"""How much of the history read on recovery is kept for the runs that go on at once."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims partitions.

    Attributes:
        node: the process's name, for people.
        incarnation: names this life of the process; a restarted one has another.
        entropy: gives so many random bytes.
    """

    node: str
    incarnation: str
    entropy: Callable[[int], bytes] = secrets.token_bytes


@dataclass(slots=True)
class Reading:
    """A partition's journal, folded up to ``end``.

    Attributes:
        state: the fold.
        end: the offset to read on from.
        read: how many records were read.
        void: how many of them did not count.
        facts: what was read of the unfinished runs, by key; only whole histories.
    """

    state: Partition
    end: int = 0
    read: int = 0
    void: int = 0
    facts: dict[bytes, list[Fact]] = field(default_factory=dict[bytes, list[Fact]])
    facts_bytes: int = 0


async def recover(log: Log, number: int, count: int) -> Reading:
    """Fold a partition's journal from the last record's ``fold_from``, or the log's start.

    Raises:
        CorruptLogError: a record is damaged, or the log does not begin with a round.
        NewerReleaseError: a newer release wrote one.
    """
    while True:
        bounds = await log.bounds(JOURNAL, number)
        reading = Reading(Partition(number, count), bounds.start)
        if bounds.end == bounds.start:
            return reading
        last = await last_decision(log, number, bounds.end)
        reading.end = max(bounds.start, last.fold_from)
        if await read_up_to(log, reading, bounds.end, first=reading.end > 0):
            _keep_unfinished(reading)
            return reading
        # Trimmed while it was read: begin again from the new start.


async def last_decision(log: Log, number: int, end: int) -> Decision:
    """Return a journal's last record, which may be void.

    Raises:
        CorruptLogError: it is damaged.
        LogError: it cannot be read.
    """
    batch = await log.read(JOURNAL, number, end - 1)
    if not batch.records:
        raise LogError(f"journal/{number}: offset {end - 1} cannot be read")
    return decision_in(number, batch.records[0].offset, batch.records[0].value)


async def read_up_to(log: Log, reading: Reading, end: int, *, first: bool = False) -> bool:
    """Fold everything below ``end``; return False if it was trimmed away meanwhile."""
    state = reading.state
    while reading.end < end:
        batch = await log.read(JOURNAL, state.number, reading.end, bytes_max=READ_BYTES, wait_ms=0)
        if batch.start > reading.end:
            return False
        for record in batch.records:
            if record.offset >= end:
                break
            decision = decision_in(state.number, record.offset, record.value)
            if first:
                _begin(state, decision, record.offset)
                first = False
            _take(reading, decision, record.offset, len(record.value))
        if not batch.records:
            break
        reading.end = min(end, batch.next_offset)
    return True


def _begin(state: Partition, decision: Decision, offset: int) -> None:
    if not decision.entries or not isinstance(decision.entries[0], PartitionRestated):
        text = "the journal does not begin with a round; records before it are missing"
        raise CorruptLogError(JOURNAL, state.number, offset, text)
    begin(state, decision)


def _take(reading: Reading, decision: Decision, offset: int, size: int) -> None:
    reading.read += 1
    if not fold(reading.state, decision, offset):
        reading.void += 1
        return
    if claim_in(decision) is not None or reading.facts_bytes > FACTS_KEPT_BYTES:
        return
    reading.facts_bytes += size
    for run, fact in facts_of(decision):
        key = key_of(run)
        if key in reading.state.runs:
            reading.facts.setdefault(key, []).append(fact)
        else:
            reading.facts.pop(key, None)


def _keep_unfinished(reading: Reading) -> None:
    """Keep only histories that are whole: as many decisions as the run's state counts."""
    state = reading.state
    whole: dict[bytes, list[Fact]] = {}
    for key in state.runs.active_keys():
        facts, run = reading.facts.get(key), state.runs.get(key)
        if facts and run is not None and {f.seq for f in facts} >= set(run.seqs):
            whole[key] = facts
    reading.facts = whole


def decision_in(number: int, offset: int, value: bytes) -> Decision:
    """Return the decision that a record of a journal is.

    Raises:
        CorruptLogError: it is none.
        NewerReleaseError: a newer release wrote it.
    """
    try:
        return codec.decode_decision(value)
    except NewerSchemaError as error:
        raise NewerReleaseError(JOURNAL, number, offset, error.fingerprint) from error
    except UndecodableError as error:
        raise CorruptLogError(JOURNAL, number, offset, str(error)) from error


async def claim(log: Log, reading: Reading, claimant: Claimant, now_ms: int) -> bool:
    """Claim the partition; return whether the claim was accepted.

    On return the state is folded up to the claim, accepted or not.

    Raises:
        LogError: the claim could not be appended, or may have been.
    """
    state = reading.state
    epoch, nonce = state.epoch + 1, claimant.entropy(16)
    entry = PartitionClaimed(epoch, nonce, claimant.node, claimant.incarnation)
    decision = Decision(epoch, state.seq, now_ms, state.fold_from, [], [entry])
    record = NewRecord(codec.encode(decision), headers=headers_of(decision))
    await log.append(JOURNAL, state.number, [record])
    while True:
        batch = await log.read(JOURNAL, state.number, reading.end, bytes_max=READ_BYTES)
        if not batch.records:
            raise LogError(f"journal/{state.number}: the claim of epoch {epoch} is missing")
        if batch.start > reading.end:
            text = f"journal/{state.number} was trimmed by another owner while it was claimed"
            raise AppendUnknownError(text)
        for item in batch.records:
            found = decision_in(state.number, item.offset, item.value)
            reading.end = item.offset + 1
            accepted = fold(state, found, item.offset)
            claimed = claim_in(found)
            if claimed is not None and claimed.nonce == nonce:
                return accepted


def headers_of(decision: Decision) -> tuple[tuple[str, bytes], ...]:
    """Return a journal record's headers: what it is about, readable with any Kafka tool."""
    return (("seq", b"%d/%d" % (decision.epoch, decision.seq)),)
