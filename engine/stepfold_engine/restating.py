"""Restating and trimming: the journal is its own snapshot.

In rounds the owner writes what is still alive into the journal again, a few pieces with every
batch. When the whole round is confirmed, recovery may begin at its start, and what lies before
may be trimmed, once it is older than readers may expect.
"""

import asyncio
import logging
from collections import deque

from stepfold_engine.clock import Clock
from stepfold_engine.core.decide.restate import (
    Piece,
    begin_round,
    finish_round,
    pieces,
    restate,
)
from stepfold_engine.core.inputs import HistoryCopied
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import LogError
from stepfold_engine.facts import facts_of
from stepfold_engine.histories import read_decision
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, INBOX, JOURNAL, Log
from stepfold_engine.owner import Entries, Owner
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import Entry, HistoryItem, RoundPlace
from stepfold_schemas.ids import key_of

_log = logging.getLogger("stepfold")

PIECES_A_TURN = 64
PIECE_BYTES = 256 * 1024
"""About how much one record of a round holds."""

RETRY_S = 10.0
RUNS_FACTOR = 4
ROUNDS_MAX = 200
SAMPLES = 16
RECORD_OVERHEAD = 40
"""What a record takes besides its value, about."""


class Restating:
    """Restates one partition, round after round, and trims its journal and its inbox."""

    def __init__(self, log: Log, owner: Owner, clock: Clock, settings: Settings) -> None:
        self._log, self._owner, self._clock, self._settings = log, owner, clock, settings
        self._rounds = list(owner.state.rounds)
        if owner.fold_from:
            self._rounds.append(RoundPlace(owner.fold_from, owner.state.round_at_ms))
        # Counted over restarts: a process that never lives long must restate, too.
        state = owner.state
        self._begun_at_seq = 0 if state.round_open else state.round_at_seq
        self._cut = 0

    async def run(self) -> None:
        """Restate and trim until cancelled."""
        owner = self._owner
        while True:
            self._plan_next()
            await owner.round_due.wait()
            runs = len(owner.state.runs)
            if owner.state.seq - self._begun_at_seq < RUNS_FACTOR * runs:
                continue
            try:
                await self.round()
            except LogError as error:
                number = owner.state.number
                _log.warning("partition %d: restating begins again later: %s", number, error)
                await asyncio.sleep(RETRY_S)

    def _plan_next(self) -> None:
        """Let the next round begin when so much was written that it is worth it."""
        owner = self._owner
        least = max(self._settings.round_records_min, RUNS_FACTOR * len(owner.state.runs))
        owner.round_at_seq = self._begun_at_seq + least
        owner.round_due.clear()

    async def round(self) -> None:
        """Write one whole round, let recovery begin at it, and trim what nobody needs."""
        owner = self._owner
        self._begun_at_seq = owner.state.seq
        started: list[int] = []
        plan: list[Piece] = []
        rounds = list(self._rounds)

        def begin(state: Partition) -> list[Entry]:
            plan.extend(pieces(state))
            return begin_round(state, rounds, owner.confirmed_seq)

        owner.submit(Entries(begin, started.append))
        await owner.settled()
        start = RoundPlace(await self._exact(started[0]), self._clock.now_ms())
        self._cut = await self._next_cut(start)
        for index in range(0, len(plan), PIECES_A_TURN):
            await self._restate(plan[index : index + PIECES_A_TURN])
        owner.submit(Entries(finish_round))
        await owner.settled()
        owner.fold_from = start.start
        self._rounds.append(start)
        if len(self._rounds) > ROUNDS_MAX:
            # Fewer places to cut at is all that is lost.
            self._rounds = self._rounds[::2]
        # The next decision carries the new start; only behind it may the log be cut.
        owner.note_fold_from()
        await self._trim()

    async def _exact(self, seq: int) -> int:
        offset, _ = await read_decision(self._log, self._owner, seq)
        return offset

    async def _next_cut(self, new: RoundPlace) -> int:
        """Choose where the journal may begin after this round: at the start of a finished one.

        The newest of those that are older than readers may expect; if the journal is larger than
        it may be, the newest that makes it small enough, or this round itself.
        """
        settings, number = self._settings, self._owner.state.number
        bounds = await self._log.bounds(JOURNAL, number)
        record_bytes = await average_bytes(self._log, JOURNAL, number)
        kept_max = settings.journal_keep_bytes / max(record_bytes, 1.0)
        old = self._clock.now_ms() - settings.journal_keep_ms
        cut = 0
        for place in [*self._rounds, new]:
            too_many = bounds.end - max(cut, bounds.start) > kept_max
            if place.at_ms <= old or too_many:
                cut = place.start
        return cut

    async def _restate(self, some: list[Piece]) -> None:
        owner = self._owner
        for kind, which in some:
            if kind == "run" and isinstance(which, bytes):
                await self._copy_history(which)

        left = deque(some)

        def make(state: Partition) -> list[Entry]:
            entries: list[Entry] = []
            size = 0
            while left and size < PIECE_BYTES:
                for entry in restate(state, left.popleft()):
                    entries.append(entry)
                    size += len(codec.encode(entry))
            return entries

        while left:
            owner.submit(Entries(make))
            await owner.settled()

    async def _copy_history(self, key: bytes) -> None:
        """Copy what trimming will cut of a run's history."""
        owner = self._owner
        run = owner.state.runs.get(key)
        if run is None or not self._cut:
            return
        # An earlier copy, which stands first, may lie behind what is to be copied now.
        old = [i for i, seq in enumerate(run.seqs) if owner.state.places.hint(seq) < self._cut]
        if not old:
            return
        first, last, seqs = old[0], old[-1], list(run.seqs)
        items: list[HistoryItem] = []
        copied, pieces_made = first, 0
        for index in range(first, last + 1):
            _, decision = await read_decision(self._log, owner, seqs[index])
            items.extend(
                HistoryItem(fact.at_ms, codec.encode(fact.entry))
                for of, fact in facts_of(decision)
                if key_of(of) == key
            )
            full = sum(len(item.entry) for item in items) >= PIECE_BYTES
            if full or index == last:
                replaces = index + 1 - copied
                owner.submit(HistoryCopied(run.id, first + pieces_made, replaces, items))
                copied, pieces_made, items = index + 1, pieces_made + 1, []

    async def _trim(self) -> None:
        owner, number = self._owner, self._owner.state.number
        read = owner.state.positions.get((INBOX, number), (0, 0))[0]
        # State runs ahead: what it has read may be cut only when that is in the journal.
        await owner.settled()
        if self._cut:
            await self._log.trim(JOURNAL, number, self._cut)
            self._rounds = [r for r in self._rounds if r.start >= self._cut]
            self._owner.state.places.forget(self._cut)
        await self._log.trim(INBOX, number, read)


async def trim_events(log: Log, owners: list[Owner], clock: Clock, settings: Settings) -> None:
    """Trim events, and dead letters, that are older, or more, than are kept.

    Events that some owner has not read stay.
    """
    old_ms = clock.now_ms() - settings.events_keep_ms
    for partition in range(await log.partitions(EVENTS)):
        bounds = await log.bounds(EVENTS, partition)
        kept = settings.events_keep_bytes / max(await average_bytes(log, EVENTS, partition), 1.0)
        cut = max(await log.offset_at(EVENTS, partition, old_ms), bounds.end - int(kept))
        read = [o.state.positions.get((EVENTS, partition), (0, 0))[0] for o in owners]
        for owner in owners:
            await owner.settled()
        await log.trim(EVENTS, partition, min([cut, *read]))
    for owner in owners:
        number = owner.state.number
        await log.trim(DEAD_LETTERS, number, await log.offset_at(DEAD_LETTERS, number, old_ms))


async def average_bytes(log: Log, topic: str, partition: int) -> float:
    """Estimate a record's size from a few, evenly spread over the partition."""
    bounds = await log.bounds(topic, partition)
    sizes: list[int] = []
    for index in range(SAMPLES):
        offset = bounds.start + (bounds.end - bounds.start) * index // SAMPLES
        batch = await log.read(topic, partition, offset, bytes_max=1)
        sizes += [len(record.value) + RECORD_OVERHEAD for record in batch.records]
    return sum(sizes) / len(sizes) if sizes else 0.0
