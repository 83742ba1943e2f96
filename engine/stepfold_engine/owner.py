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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from stepfold.port import Fact
from stepfold_engine.alarms import Alarms
from stepfold_engine.clock import Clock
from stepfold_engine.core.apply import apply
from stepfold_engine.core.decide.events import event_arrived, found_another, lookback_ended
from stepfold_engine.core.decide.messages import message_arrived
from stepfold_engine.core.decide.reports import run_reported
from stepfold_engine.core.decide.restate import history_copied
from stepfold_engine.core.decide.timers import Retry, held_timer_due, timer_due
from stepfold_engine.core.ending import ENDS, json_bytes
from stepfold_engine.core.inputs import (
    EventArrived,
    HistoryCopied,
    LookbackEnded,
    MessageArrived,
    RunReported,
)
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.errors import (
    AppendUnknownError,
    FencedError,
    InvalidOptionError,
    LogError,
)
from stepfold_engine.log.base import INBOX, Log, Record
from stepfold_engine.ownership import Claimant, Reading, claim, recover
from stepfold_engine.settings import Settings
from stepfold_engine.writer import CLAIM_RETRY_S, JournalWriter, in_epoch
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    MessageQueued,
    MessagesSent,
    PartitionReleased,
    Position,
    RunParked,
    RunStopped,
)
from stepfold_schemas.ids import key_of

_log = logging.getLogger("stepfold")
_T = TypeVar("_T")

DECISIONS_IN_FLIGHT_MAX = 5_000
"""How far state may run ahead of the log before inputs wait."""

CLAIMS_MAX = 5
"""How often a partition is claimed at the start, if others claim it at the same time."""

LAZY_MS = 1_000
"""How long an entry that nobody waits for may wait for a decision to ride on."""


class Effects(Protocol):
    """What the owner asks of the world, once what caused it is confirmed."""

    def decided(self, owner: "Owner", decision: Decision) -> None:
        """Act on a confirmed decision: runs start, go on or end; messages go; answers arrive."""
        ...

    def retry(self, owner: "Owner", retry: Retry) -> None:
        """A step's, or a run's, next attempt may begin."""
        ...

    def search_on(self, owner: "Owner", ended: LookbackEnded) -> None:
        """Search the log from where a look-back ended up to what was read meanwhile."""
        ...

    def is_live(self, run: bytes) -> bool:
        """Say whether a run's code was given to a worker of this process."""
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """An input that only moves a read position."""


@dataclass(frozen=True, slots=True)
class EventsElsewhere:
    """Events in a row whose home is another partition: here, those matter that are waited for.

    Which these are is decided in their turn, for an input before may be what begins to wait.

    Attributes:
        events: names and records.
        read: gives an event, None if it cannot be read; its home deals with that.
    """

    events: Sequence[tuple[str, Record]]
    read: Callable[[Record], EventArrived | None]


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries that the shell itself wants recorded; ``done`` hears the last seq decided."""

    make: Callable[[Partition], list[Entry]]
    done: Callable[[int], None] | None = None
    always: bool = False


Met = EventArrived | MessageArrived | RunReported | LookbackEnded | HistoryCopied | Moved | Entries
Input = Met | EventsElsewhere

Place = tuple[str, int, int]
"""Behind an input: topic, partition, next offset."""


class Owner:
    """Owns one partition: its state, its inputs, and what is to be written.

    Attributes:
        state: the fold of all decisions, also of those that are not confirmed yet.
        recovered: what recovery read of the runs that were going on, by key, until they start.
        ended: by id, the runs whose end is decided and not confirmed: the state has them no more.
        recovery_s: how long the recovery took, in seconds.
        events_read: how many events were read here whose home this is.
    """

    def __init__(
        self, log: Log, clock: Clock, matching: Matching, effects: Effects, settings: Settings
    ) -> None:
        self._log, self._clock, self._matching = log, clock, matching
        self._effects, self._settings = effects, settings
        self._limits = settings.limits
        self.recovered: dict[bytes, list[Fact]] = {}
        self.ended: dict[bytes, Run] = {}
        self.fold_from = 0
        self.trial_open = False
        self.round_at_seq = 0
        self.round_due = asyncio.Event()
        self.running = False
        self.events_read = 0
        self._gone = False
        self._inputs: deque[tuple[Input, Place | None]] = deque()
        self._own: deque[MessageArrived] = deque()
        self._outgoing: list[Decision] = []
        self._moved: dict[tuple[str, int], tuple[int, int]] = {}
        self._moved_inputs = 0
        self._moved_since_ms = 0
        self._lazy: list[Entry] = []
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._settling: set[asyncio.Future[None]] = set()
        self._has_outgoing = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._pump_scheduled = False
        self._timers_wait = False
        self._came_due: dict[bytes, dict[bytes, int]] = {}

    # Taking over and letting go.

    async def open(
        self, number: int, count: int, claimant: Claimant, events: Sequence[tuple[str, int]]
    ) -> Reading:
        """Recover the partition and claim it.

        Args:
            number: which partition, of ``count``.
            count: how many there are.
            claimant: who claims it.
            events: every partition that events are read from, as topic and number.

        Raises:
            FencedError: another process claimed it at the same time, again and again.
            LogError: the log could not be read or written.
        """
        self._loop = asyncio.get_running_loop()
        begun_s = self._loop.time()
        reading = await self._recover(number, count)
        for _ in range(CLAIMS_MAX):
            try:
                if await claim(self._log, reading, claimant, self._clock.now_ms()):
                    break
            except AppendUnknownError as error:
                _log.warning("partition %d cannot be claimed yet: %s", number, error)
            await asyncio.sleep(CLAIM_RETRY_S)
            reading = await self._recover(number, count)
        else:
            other = reading.state
            raise FencedError(f"partition {number}: epoch {other.epoch} belongs to {other.node}")
        self.recovery_s = self._loop.time() - begun_s
        self.state = reading.state
        self.recovered = reading.facts
        self.fold_from = reading.state.fold_from
        self._writer = JournalWriter(self._log, self._clock, reading, claimant, self._confirmed)
        look_ms, inputs = self._settings.look_at_clock_every_ms, [*events, (INBOX, number)]
        self._alarms = Alarms(self._log, self.state, self._schedule_pump, look_ms, inputs)
        return reading

    async def _recover(self, number: int, count: int) -> Reading:
        reading = await recover(self._log, number, count)
        if reading.state.arriving:
            text = "a move into this namespace has not ended; run stepfold log move again"
            raise LogError(f"partition {number}: {text}")
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
                epoch = self.state.epoch
                await self._writer.write([in_epoch(d, epoch) for d in batch])
                if len(self._inputs) < self._settings.inputs_max:
                    self._has_room.set()
                if self._inputs or self._own or self._timers_wait:
                    self._schedule_pump()
        finally:
            self.running = False
            self._leave()

    def _leave(self) -> None:
        """The partition is lost: whoever waits for something to be recorded hears of it."""
        self._gone = True
        self._alarms.close()
        self._inputs.clear()
        for done in list(self._settling):
            if not done.done():
                done.set_exception(self._lost())

    def _lost(self) -> FencedError:
        return FencedError(f"partition {self.state.number} is not owned by this process any more")

    async def release(self) -> None:
        """Write that the partition is let go cleanly. Nothing may be running any more."""
        self.submit(Entries(lambda _: [PartitionReleased()]))
        await self.settled()

    @property
    def confirmed_seq(self) -> int:
        """The seq of the last confirmed decision."""
        return self._writer.confirmed_seq

    @property
    def stalled(self) -> bool:
        """The log takes nothing at the moment; what is decided is kept."""
        return self._writer.stalled

    def now_ms(self) -> int:
        """Return the owner's time, milliseconds since 1970."""
        return self._clock.now_ms()

    # Inputs.

    def begin_at(self, places: Sequence[Place]) -> None:
        """Note where inputs are read first, all of them in the record of the next decision."""
        for place in places:
            self._move(place)

    def submit(self, given: Input, place: Place | None = None) -> None:
        """Take an input. It is decided in its turn; nothing is awaited.

        When the partition is lost, inputs are for its next owner, who reads or is told them.
        """
        if self._gone:
            return
        self._inputs.append((given, place))
        if not self._pump_scheduled:
            self._schedule_pump()

    async def room(self) -> None:
        """Wait until inputs may be taken: readers, whose source can wait, call this."""
        if len(self._inputs) >= self._settings.inputs_max:
            self._has_room.clear()
        await self._has_room.wait()

    def stop_run(self, run: bytes, report: dict[str, object]) -> None:
        """Stop a run until a person lets it go on."""
        self.submit(Entries(lambda _: [RunStopped(run, json_bytes(report))]))

    def messages_sent(self, destination: int, through: int) -> None:
        """Note, with one of the next decisions, that messages lie in another inbox."""
        self._record_lazily([MessagesSent(destination, through)])

    def note_fold_from(self) -> None:
        """Write a decision that carries a new ``fold_from``, although nothing was decided."""
        self.submit(Entries(lambda _: [], always=True))

    def resume_own_messages(self) -> None:
        """Take the messages to this partition itself that were queued, but not taken, before."""
        own = self.state.unsent.get(self.state.number, {})
        for number, data in sorted(own.items()):
            message = codec.decode_message(data)
            self._own.append(MessageArrived(self.state.number, number, b"", message))
        self._schedule_pump()

    async def query(self, ask: Callable[[Partition], _T]) -> _T:
        """Ask the state, and answer once all that it holds is confirmed."""
        answer = ask(self.state)
        await self.settled()
        return answer

    async def settled(self) -> None:
        """Wait until everything submitted so far is decided and confirmed.

        Raises:
            FencedError: the partition was lost before.
        """
        if self._gone:
            raise self._lost()
        if not self._inputs and not self._own and self.state.seq <= self.confirmed_seq:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._settling.add(done)
        done.add_done_callback(self._settling.discard)

        def wait_for(seq: int) -> None:
            if seq > self.confirmed_seq:
                self._waiting.append((seq, done))
            elif not done.done():
                done.set_result(None)

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
        self._drain(now_ms)
        self._fire(now_ms)
        if self._own:
            self._drain(now_ms)
        self._note_positions(now_ms)
        if self._outgoing:
            self._has_outgoing.set()
        self._timers_wait = self.stalled
        if self.stalled:
            # Nothing is to come due before the log takes something; ``run`` goes on then.
            self._alarms.cancel_next()
            return
        due_ms = self._moved_since_ms + self._settings.positions_every_ms
        self._alarms.set(now_ms, due_ms if self._moved else None)

    def _drain(self, now_ms: int) -> None:
        """Decide the inputs that wait."""
        while self._inputs or self._own:
            if len(self._outgoing) >= DECISIONS_IN_FLIGHT_MAX:
                break
            # What this partition told itself comes first, in the order of its numbers.
            given, place = (self._own.popleft(), None) if self._own else self._inputs.popleft()
            if isinstance(given, EventsElsewhere) and place is not None:
                given, place = self._next_wanted(given, place)
            try:
                self._take(_read(given), place, now_ms)
            except Exception:  # noqa: BLE001 - a task boundary: reported, and the rest goes on
                # No decision was made: state is as before. One bad input must not stop all.
                _log.exception("partition %d: an input failed: %r", self.state.number, given)
                self._move(place)

    def _next_wanted(self, given: EventsElsewhere, place: Place) -> tuple[Input, Place]:
        """Return the first event that is waited for; those behind it are an input of their own."""
        wants, events = self.state.waits.wants, given.events
        number = next((n for n, (name, _) in enumerate(events) if wants(name)), len(events))
        self._moved_inputs += min(number, len(events) - 1)
        if number == len(events):
            return Moved(), place
        left = events[number + 1 :]
        if left:
            self._inputs.appendleft((replace(given, events=left), place))
            place = (place[0], place[1], events[number][1].offset + 1)
        return replace(given, events=events[number : number + 1]), place

    def _take(self, met: Met, place: Place | None, now_ms: int) -> None:  # noqa: C901 - a case each
        state, matching = self.state, self._matching
        if isinstance(met, EventArrived):
            self._take_event(met, place, now_ms)
            return
        self._move(place)
        match met:
            case RunReported():
                self._decide(run_reported(state, met, matching, self._limits, now_ms), now_ms)
            case MessageArrived():
                self._decide(message_arrived(state, met, matching, now_ms), now_ms)
            case LookbackEnded():
                if found_another(state, met) or self._passed(met.through):
                    # Events were read while the search went on, and the held wait did not see
                    # them; or what was found has meanwhile come to another wait of the run.
                    self._effects.search_on(self, met)
                else:
                    self._decide(lookback_ended(state, met), now_ms)
            case HistoryCopied():
                self._decide(history_copied(state, met), now_ms)
            case Moved():
                pass
            case Entries():
                if self._lazy:
                    # What is made of the state must not be older than what goes before it: a
                    # message would be restated behind the entry that says it was sent.
                    self._record([], now_ms)
                entries = met.make(state)
                if entries or met.always:
                    self._record(entries, now_ms)
                if met.done is not None:
                    met.done(state.seq)

    def _passed(self, through: Mapping[tuple[str, int], int]) -> bool:
        """Say whether events were read beyond these offsets."""
        return any(self.position(*place) > offset for place, offset in through.items())

    def _take_event(self, event: EventArrived, place: Place | None, now_ms: int) -> None:
        """Decide an event, in parts: the position behind it is reached with the last one."""
        part = 0
        if place is not None:
            offset, read = self.state.positions.get((place[0], place[1]), (0, 0))
            part = read if offset == place[2] - 1 else 0
        pieces = event_arrived(self.state, event, self._matching, now_ms, part)
        entries = next(pieces)
        for following in pieces:
            if place is not None:
                part += 1
                self._moved[place[0], place[1]] = (place[2] - 1, part)
            self._decide(entries, now_ms)
            entries = following
        self._move(place)
        self.events_read += event.home
        self._decide(entries, now_ms)

    def _move(self, place: Place | None) -> None:
        if place is not None:
            self._moved[place[0], place[1]] = (place[2], 0)
            self._moved_inputs += 1

    def _decide(self, entries: list[Entry], now_ms: int) -> None:
        if len(entries) == 1 and isinstance(entries[0], RunParked):
            # Nobody waits to hear that a run is parked.
            self._record_lazily(entries)
        elif entries:
            self._record(entries, now_ms)

    def _record_lazily(self, entries: list[Entry]) -> None:
        """Record entries that nobody waits for with one of the next decisions."""
        if not self._lazy:
            self._loop.call_later(LAZY_MS / 1000, self._flush_lazy)
        self._lazy.extend(entries)

    def _flush_lazy(self) -> None:
        if self._lazy:
            self.submit(Entries(lambda _: []))

    def _record(self, entries: list[Entry], now_ms: int) -> None:
        """Make a decision of these entries: number it, apply it, and queue it to be written."""
        if self._lazy:
            entries = [*self._lazy, *entries]
            self._lazy = []
        state = self.state
        positions = [Position(t, p, o, part) for (t, p), (o, part) in self._moved.items()]
        decision = Decision(state.epoch, state.seq + 1, now_ms, self.fold_from, positions, entries)
        self._moved.clear()
        self._moved_inputs = 0
        for entry in entries:
            if isinstance(entry, ENDS) and (run := state.runs.get(key_of(entry.run))) is not None:
                self.ended[run.id] = run
        apply(state, decision)
        self._outgoing.append(decision)
        for entry in entries:
            if isinstance(entry, MessageQueued) and entry.destination == state.number:
                message = codec.decode_message(entry.message)
                self._own.append(MessageArrived(state.number, entry.number, b"", message))

    def _note_positions(self, now_ms: int) -> None:
        """Record read positions now and then although nothing was decided."""
        if not self._moved:
            self._moved_since_ms = now_ms
            return
        old = now_ms - self._moved_since_ms >= self._settings.positions_every_ms
        if old or self._moved_inputs >= self._settings.positions_every_inputs:
            self._record([], now_ms)
            self._moved_since_ms = now_ms

    def _fire(self, now_ms: int) -> None:
        """Decide what came due. While the log takes nothing, no attempt is begun."""
        if self.stalled:
            return
        for due in self._alarms.due(now_ms):
            run = self.state.runs.get(due[1])
            live = run is not None and self._effects.is_live(run.id)
            try:
                found = timer_due(self.state, due, self._matching, now_ms, live=live)
            except InvalidOptionError:
                _log.exception("partition %d: what came due cannot be done", self.state.number)
                continue
            if isinstance(found, Retry):
                self._came_due.setdefault(found.run, {})[found.step] = due[0]
                self._effects.retry(self, found)
            elif found:
                self._record(found, now_ms)
        for due in self._alarms.held_due(now_ms, self.position):
            if entries := held_timer_due(self.state, due, self._matching, now_ms):
                self._record(entries, now_ms)

    def may_begin(self, run: Run) -> bool:
        """Say whether a run's code may begin, or begin again."""
        return self.is_due(run.id, b"", run.waits_until_ms)

    def is_due(self, run: bytes, step: bytes, due_ms: int) -> bool:
        """Say whether the time of the next attempt of a step, or of the run's code, has come.

        Its timer fires once, so what came due stays due, although the clock may go back.
        """
        return due_ms <= self.now_ms() or self._came_due.get(run, {}).get(step) == due_ms

    def position(self, topic: str, partition: int) -> int:
        """Return up to where an input was read."""
        return self.known(topic, partition) or 0

    def known(self, topic: str, partition: int) -> int | None:
        """Return up to where an input was read, None if it was never begun."""
        where = (topic, partition)
        found = self._moved.get(where) or self.state.positions.get(where)
        return None if found is None else found[0]

    def _confirmed(self, decision: Decision) -> None:
        self._effects.decided(self, decision)
        for entry in decision.entries:
            if isinstance(entry, ENDS):
                self.ended.pop(entry.run, None)
                self._came_due.pop(entry.run, None)
        if decision.seq >= self.round_at_seq:
            self.round_due.set()
        while self._waiting and self._waiting[0][0] <= decision.seq:
            _, done = self._waiting.popleft()
            if not done.done():
                done.set_result(None)


def _read(given: Input) -> Met:
    """Read an event of another partition that is waited for here."""
    if isinstance(given, EventsElsewhere):
        return given.read(given.events[0][1]) or Moved()
    return given
