"""The owner of a partition: decide, append, apply, then act.

Rules:

* Everything happens on one event loop; no two decisions are made at the same time.
* State runs ahead of the log. What follows from a decision (``Effects``) is started only once the
  decision is confirmed: durable, and known to be unfenced; in the order of the journal.
* One batch is in flight; the next gathers meanwhile.
* Queries are answered from a state that is confirmed by the time they are answered.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from stepfold.port import Fact
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    MessageQueued,
    MessagesSent,
    PartitionReleased,
    PartitionRestated,
    Position,
    RoundFinished,
    RunStopped,
)
from stepfold_schemas.reports import RunIdle

from stepfold_engine.clock import Clock
from stepfold_engine.core.apply import apply
from stepfold_engine.core.decide.events import event_arrived, lookback_ended
from stepfold_engine.core.decide.messages import message_arrived
from stepfold_engine.core.decide.reports import run_reported
from stepfold_engine.core.decide.restate import history_copied
from stepfold_engine.core.decide.timers import Retry, held_timer_due, timer_due
from stepfold_engine.core.ending import json_bytes
from stepfold_engine.core.fold import note_place
from stepfold_engine.core.inputs import (
    EventArrived,
    HistoryCopied,
    LookbackEnded,
    MessageArrived,
    RunReported,
)
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import AppendRefusedError, FencedError, LogError
from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, Bounds, Log, NewRecord
from stepfold_engine.ownership import Reading, claim, headers_of, read_up_to, recover
from stepfold_engine.settings import Settings

_log = logging.getLogger("stepfold")
_T = TypeVar("_T")

DECISIONS_IN_FLIGHT_MAX = 5_000
"""How far state may run ahead of the log before inputs wait."""

DUE_AT_ONCE_MAX = 1_000
"""How many due timers are decided before other inputs have a turn."""

LAZY_MS = 1_000
"""How long an entry that nobody waits for may wait for a decision to ride on."""

FULL_RETRY_S = 0.5
CLAIM_RETRY_S = 0.2


class Effects(Protocol):
    """What the owner asks of the world, once what caused it is confirmed."""

    def decided(self, owner: "Owner", decision: Decision) -> None:
        """Act on a confirmed decision: runs start, go on or end; messages go; answers arrive."""
        ...

    def retry(self, owner: "Owner", retry: Retry) -> None:
        """A step's, or a run's, next attempt may begin."""
        ...

    def is_live(self, run: bytes) -> bool:
        """Say whether a run's code was given to a worker of this process."""
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """An input that only moves a read position."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries that the shell itself wants recorded."""

    make: Callable[[Partition], list[Entry]]
    done: Callable[[int], None] | None = None


Input = (
    EventArrived | MessageArrived | RunReported | LookbackEnded | HistoryCopied | Moved | Entries
)


@dataclass(frozen=True, slots=True)
class Placed:
    """An input and the position behind it: (topic, partition, next offset), or none."""

    input: Input
    position: tuple[str, int, int] | None = None


class Owner:
    """Owns one partition: its state, its inputs, and the batch that is being written."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        matching: Matching,
        effects: Effects,
        settings: Settings,
    ) -> None:
        self._log, self._clock, self._matching = log, clock, matching
        self._effects, self._settings = effects, settings
        self._limits = settings.limits
        self.state = Partition(0, 1)
        self.node, self.incarnation = "", ""
        self.confirmed_seq = 0
        self.recovered: dict[bytes, list[Fact]] = {}
        self.fold_from = 0
        self.stalled = False
        self.trial_open = False
        self._end = 0
        self._inputs: deque[Placed] = deque()
        self._outgoing: list[tuple[Decision, bytes]] = []
        self._moved: dict[tuple[str, int], tuple[int, int]] = {}
        self._moved_inputs = 0
        self._lazy: list[Entry] = []
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._has_outgoing = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._pump_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._mark: tuple[int, dict[tuple[str, int], int]] | None = None
        self._mark_task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self.running = False

    # Taking over and letting go.

    async def open(self, number: int, count: int, node: str, incarnation: str) -> Reading:
        """Recover the partition and claim it.

        Raises:
            FencedError: another process claimed it at the same time, twice in a row.
            LogError: the log could not be read or written.
        """
        self._loop = asyncio.get_running_loop()
        self.node, self.incarnation = node, incarnation
        reading = await recover(self._log, number, count)
        for _ in range(2):
            if await claim(self._log, reading, node, incarnation, self._clock.now_ms()):
                break
            await asyncio.sleep(CLAIM_RETRY_S)
        else:
            text = f"partition {number}: epoch {reading.state.epoch} belongs to {reading.state.node}"
            raise FencedError(text)
        self.state = reading.state
        self.recovered = reading.facts
        self.fold_from = reading.state.fold_from
        self.confirmed_seq = reading.state.seq
        self._end = reading.end
        return reading

    async def run(self) -> None:
        """Write what is decided until cancelled.

        Raises:
            FencedError: another process owns the partition now.
            LogError: the partition cannot go on.
        """
        self.running = True
        self._schedule_pump()
        try:
            while True:
                await self._has_outgoing.wait()
                self._has_outgoing.clear()
                batch, self._outgoing = self._outgoing, []
                if batch:
                    await self._write(batch)
                if len(self._inputs) < self._settings.inputs_max:
                    self._has_room.set()
                if self._inputs or self._timer is None:
                    self._schedule_pump()
        finally:
            self.running = False
            self._cancel_timers()

    async def release(self) -> None:
        """Write that the partition is let go cleanly. Nothing may be running any more."""
        self.submit(Entries(lambda _: [PartitionReleased()]))
        await self.settled()

    def _cancel_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._mark_task is not None:
            self._mark_task.cancel()

    # Inputs.

    def submit(self, given: Input, position: tuple[str, int, int] | None = None) -> None:
        """Take an input. It is decided in its turn; nothing is awaited."""
        self._inputs.append(Placed(given, position))
        if not self._pump_scheduled:
            self._schedule_pump()

    async def room(self) -> None:
        """Wait until inputs may be taken: readers, whose source can wait, call this."""
        if len(self._inputs) >= self._settings.inputs_max:
            self._has_room.clear()
        await self._has_room.wait()

    def record_lazily(self, entry: Entry) -> None:
        """Record an entry that nobody waits for with one of the next decisions."""
        self._lazy.append(entry)
        if len(self._lazy) == 1:
            self._loop.call_later(LAZY_MS / 1000, self._flush_lazy)

    def _flush_lazy(self) -> None:
        if self._lazy:
            self.submit(Entries(lambda _: []))

    async def query(self, ask: Callable[[Partition], _T]) -> _T:
        """Ask the state, and answer once all that it holds is confirmed."""
        answer = ask(self.state)
        await self.settled()
        return answer

    async def settled(self) -> None:
        """Wait until everything submitted so far is decided and confirmed."""
        done: asyncio.Future[None] = self._loop.create_future()

        def wait_for(seq: int) -> None:
            if seq <= self.confirmed_seq:
                done.set_result(None)
            else:
                self._waiting.append((seq, done))

        if not self._inputs and self.state.seq <= self.confirmed_seq:
            return
        self.submit(Entries(lambda _: [], wait_for))
        await done

    # Deciding.

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if not self.running:
            return
        now_ms = self._clock.now_ms()
        while self._inputs and len(self._outgoing) < DECISIONS_IN_FLIGHT_MAX:
            placed = self._inputs.popleft()
            try:
                self._take(placed, now_ms)
            except Exception:
                # The decision was not made: state is as before. One bad input must not stop all.
                _log.exception("partition %d: an input failed: %r", self.state.number, placed)
                self._move(placed.position)
        self._fire(now_ms)
        self._note_positions(now_ms)
        if self._outgoing:
            self._has_outgoing.set()
        self._set_timer(now_ms)

    def _take(self, placed: Placed, now_ms: int) -> None:
        given, position = placed.input, placed.position
        match given:
            case RunReported():
                entries = run_reported(
                    self.state, given, self._matching, self._limits, now_ms
                )
                self._decide(entries, now_ms, parked_only=_only_idle(given))
            case EventArrived():
                self._take_event(given, position, now_ms)
            case MessageArrived():
                self._move(position)
                self._decide(
                    message_arrived(self.state, given, self._matching, now_ms), now_ms
                )
            case LookbackEnded():
                self._decide(lookback_ended(self.state, given), now_ms)
            case HistoryCopied():
                self._decide(history_copied(self.state, given), now_ms)
            case Moved():
                self._move((given.topic, given.partition, given.offset))
            case Entries():
                self._decide(given.make(self.state), now_ms)
                if given.done is not None:
                    given.done(self.state.seq)

    def _take_event(
        self, event: EventArrived, position: tuple[str, int, int] | None, now_ms: int
    ) -> None:
        """Decide an event, in parts: the position behind it is reached with the last one."""
        part = 0
        if position is not None:
            topic, partition, after = position
            offset, read = self.state.positions.get((topic, partition), (0, 0))
            part = read if offset == after - 1 else 0
        pieces = event_arrived(self.state, event, self._matching, now_ms, part)
        entries = next(pieces)
        for following in pieces:
            if position is not None:
                part += 1
                self._moved[position[0], position[1]] = (position[2] - 1, part)
            self._decide(entries, now_ms)
            entries = following
        self._move(position)
        self._decide(entries, now_ms)

    def _move(self, position: tuple[str, int, int] | None) -> None:
        if position is not None:
            self._moved[position[0], position[1]] = (position[2], 0)
            self._moved_inputs += 1

    def _decide(self, entries: list[Entry], now_ms: int, *, parked_only: bool = False) -> None:
        """Make a decision of these entries: number it, apply it, and queue it to be written."""
        if not entries and not self._lazy:
            return
        if parked_only and not self._lazy:
            # Nobody waits to hear that a run is parked; it rides on the next decision.
            self._lazy.extend(entries)
            self._loop.call_later(LAZY_MS / 1000, self._flush_lazy)
            return
        if self._lazy and not _begins_round(entries):
            entries = [*self._lazy, *entries]
            self._lazy = []
        state = self.state
        positions = [Position(t, p, o, part) for (t, p), (o, part) in self._moved.items()]
        decision = Decision(
            state.epoch, state.seq + 1, now_ms, self.fold_from, positions, entries
        )
        data = codec.encode(decision)
        self._moved = {}
        self._moved_inputs = 0
        apply(state, decision)
        self._outgoing.append((decision, data))
        for entry in reversed(entries):
            if isinstance(entry, MessageQueued) and entry.destination == state.number:
                message = codec.decode_message(entry.message)
                own = MessageArrived(state.number, entry.number, b"", message)
                self._inputs.appendleft(Placed(own))

    def note_fold_from(self) -> None:
        """Write a decision that carries a new ``fold_from``, although nothing was decided."""
        self.submit(Entries(lambda state: [RoundFinished(state.round)]))

    def _note_positions(self, now_ms: int) -> None:
        """Record read positions now and then although nothing was decided."""
        if not self._moved:
            self._moved_since_ms = now_ms
            return
        old = now_ms - self._moved_since_ms >= self._settings.positions_every_ms
        if old or self._moved_inputs >= self._settings.positions_every_inputs:
            state = self.state
            positions = [Position(t, p, o, part) for (t, p), (o, part) in self._moved.items()]
            decision = Decision(
                state.epoch, state.seq + 1, now_ms, self.fold_from, positions, []
            )
            self._moved, self._moved_inputs = {}, 0
            apply(state, decision)
            self._outgoing.append((decision, codec.encode(decision)))

    _moved_since_ms = 0

    # Timers.

    def _fire(self, now_ms: int) -> None:
        timers = self.state.timers
        if self.stalled:
            return
        for due in timers.pop_free(now_ms, DUE_AT_ONCE_MAX):
            run = self.state.runs.get(due[1])
            live = run is not None and self._effects.is_live(run.id)
            found = timer_due(self.state, due, live=live)
            if isinstance(found, Retry):
                self._effects.retry(self, found)
            elif found:
                self._decide(found, now_ms)
        held_ms = timers.next_held_ms()
        if held_ms is None or held_ms > now_ms:
            return
        if self._mark is not None and self._caught_up(self._mark[1]):
            at_ms, self._mark = self._mark[0], None
            for due in timers.pop_held(at_ms, DUE_AT_ONCE_MAX):
                if entries := held_timer_due(self.state, due):
                    self._decide(entries, now_ms)
            held_ms = timers.next_held_ms()
        if self._mark is None and held_ms is not None and held_ms <= now_ms:
            self._fetch_mark(now_ms)

    def _caught_up(self, ends: dict[tuple[str, int], int]) -> bool:
        """Say whether all inputs are read up to these ends."""
        return all(self._position(*where) >= end for where, end in ends.items())

    def _position(self, topic: str, partition: int) -> int:
        moved = self._moved.get((topic, partition))
        if moved is None:
            moved = self.state.positions.get((topic, partition), (0, 0))
        return moved[0]

    def _fetch_mark(self, now_ms: int) -> None:
        """Ask where the inputs end, once, for all timeouts that are due by now."""
        if self._mark_task is None or self._mark_task.done():
            self._mark_task = self._loop.create_task(self._fetch_ends(now_ms))

    async def _fetch_ends(self, now_ms: int) -> None:
        ends: dict[tuple[str, int], int] = {}
        try:
            for partition in range(await self._log.partitions(EVENTS)):
                bounds: Bounds = await self._log.bounds(EVENTS, partition)
                ends[EVENTS, partition] = bounds.end
            ends[INBOX, self.state.number] = (
                await self._log.bounds(INBOX, self.state.number)
            ).end
        except LogError as error:
            _log.warning("partition %d: timeouts wait: %s", self.state.number, error)
            await asyncio.sleep(1)
        else:
            self._mark = (now_ms, ends)
        self._mark_task = None
        self._schedule_pump()

    def _set_timer(self, now_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        timers = self.state.timers
        times = [t for t in (timers.next_free_ms(), self._next_mark_ms()) if t is not None]
        if self._moved:
            times.append(self._moved_since_ms + self._settings.positions_every_ms)
        if times:
            delay = max(0.0, (min(times) - now_ms) / 1000)
            # A clock that jumped is looked at again in time.
            self._timer = self._loop.call_later(min(delay, 30.0), self._schedule_pump)

    def _next_mark_ms(self) -> int | None:
        if self._mark is not None or self._mark_task is not None:
            return None
        return self.state.timers.next_held_ms()

    # Writing.

    async def _write(self, batch: list[tuple[Decision, bytes]]) -> None:
        """Append a batch, confirm it and act on it; go on through what can be waited out."""
        while True:
            records = [NewRecord(data, headers=headers_of(d)) for d, data in batch]
            try:
                base = await self._log.append(JOURNAL, self.state.number, records)
            except AppendRefusedError as error:
                self._stall(error)
                await asyncio.sleep(FULL_RETRY_S)
                continue
            except LogError as error:
                _log.warning("partition %d: %s; claiming again", self.state.number, error)
                batch = await self._claim_again(batch)
                if batch:
                    continue
                return
            if self.stalled:
                self.stalled = False
                _log.warning("partition %d goes on", self.state.number)
                self._schedule_pump()
            break
        if base is None or base != self._end:
            await self._verify(batch)
        else:
            self._end = base + len(batch)
        self._confirm(batch)

    def _stall(self, error: AppendRefusedError) -> None:
        if not self.stalled:
            _log.error("partition %d stands still: %s", self.state.number, error)
        self.stalled = True

    async def _verify(self, batch: list[tuple[Decision, bytes]]) -> None:
        """Read what lies between the last confirmed record and this batch: was there a claim?"""
        last = batch[-1][0].seq
        epoch, seq = self.state.epoch, self.confirmed_seq
        while seq < last:
            found = await self._log.read(JOURNAL, self.state.number, self._end, wait_ms=1000)
            for record in found.records:
                self._end = record.offset + 1
                decision = codec.decode_decision(record.value)
                if decision.epoch > epoch:
                    text = f"partition {self.state.number}: epoch {epoch} is fenced by"
                    raise FencedError(f"{text} {decision.epoch}")
                if decision.epoch == epoch and decision.seq == seq + 1:
                    seq += 1
                    if seq == last:
                        return

    async def _claim_again(
        self, batch: list[tuple[Decision, bytes]]
    ) -> list[tuple[Decision, bytes]]:
        """Begin a new term after an append whose fate is not known.

        Returns:
            What of the batch is not in the journal, for the new term; what is was confirmed.

        Raises:
            FencedError: another claim lies between.
        """
        state = self.state
        shadow = Reading(Partition(state.number, state.count), self._end)
        shadow.state.epoch, shadow.state.seq = state.epoch, self.confirmed_seq
        shadow.state.node, shadow.state.incarnation = state.node, state.incarnation
        before, accepted = state.epoch, False
        while True:
            try:
                bounds = await self._log.bounds(JOURNAL, state.number)
                await read_up_to(self._log, shadow, bounds.end)
                now_ms = self._clock.now_ms()
                accepted = await claim(self._log, shadow, self.node, self.incarnation, now_ms)
                break
            except LogError as error:
                _log.warning("partition %d cannot claim yet: %s", state.number, error)
                await asyncio.sleep(CLAIM_RETRY_S)
        if not accepted or shadow.state.epoch != before + 1:
            text = f"partition {state.number}: epoch {before} is fenced by {shadow.state.epoch}"
            raise FencedError(text)
        state.epoch, self._end = shadow.state.epoch, shadow.end
        landed = [item for item in batch if item[0].seq <= shadow.state.seq]
        if landed:
            self._confirm(landed, places=shadow.state.places)
        again = [item[0] for item in batch if item[0].seq > shadow.state.seq]
        self._outgoing = [_in_epoch(d, state.epoch) for d, _ in self._outgoing]
        return [_in_epoch(d, state.epoch) for d in again]

    def _confirm(
        self,
        batch: list[tuple[Decision, bytes]],
        places: list[tuple[int, int]] | None = None,
    ) -> None:
        for seq, delta in places or [(batch[0][0].seq, self._end - len(batch) - batch[0][0].seq)]:
            note_place(self.state, seq, seq + delta)
        self.confirmed_seq = batch[-1][0].seq
        for decision, _ in batch:
            self._effects.decided(self, decision)
        while self._waiting and self._waiting[0][0] <= self.confirmed_seq:
            _, done = self._waiting.popleft()
            if not done.done():
                done.set_result(None)

    def offset_of(self, seq: int) -> int:
        """Return an offset at or before the record with this confirmed seq."""
        return self.state.offset_hint(seq)

    def resume_own_messages(self) -> None:
        """Take the messages to this partition itself that were queued, but not taken, before."""
        own = self.state.unsent.get(self.state.number, {})
        for number, data in sorted(own.items()):
            message = codec.decode_message(data)
            self.submit(MessageArrived(self.state.number, number, b"", message))

    def now_ms(self) -> int:
        """Return the owner's time, milliseconds since 1970."""
        return self._clock.now_ms()

    def stop_run(self, run: bytes, report: dict[str, object]) -> None:
        """Stop a run until a person lets it go on."""
        self.submit(Entries(lambda _: [RunStopped(run, json_bytes(report))]))

    def messages_sent(self, destination: int, through: int) -> None:
        """Note that messages lie in another partition's inbox."""
        self.record_lazily(MessagesSent(destination, through))


def _begins_round(entries: list[Entry]) -> bool:
    """Say whether these begin a round: recovery must find that entry first in its record."""
    return bool(entries) and isinstance(entries[0], PartitionRestated)


def _in_epoch(decision: Decision, epoch: int) -> tuple[Decision, bytes]:
    moved = Decision(
        epoch,
        decision.seq,
        decision.at_ms,
        decision.fold_from,
        decision.positions,
        decision.entries,
    )
    return moved, codec.encode(moved)


def _only_idle(reported: RunReported) -> bool:
    return len(reported.items) == 1 and isinstance(reported.items[0], RunIdle)
