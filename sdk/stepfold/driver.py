"""A life of a run: its coroutine from a start (or a replay) until it ends or is dropped.

Rules:

* The next outcome is given out only when no callback of the run is ready; so is everything that
  the code asked for meanwhile: steps are started, the rest is reported, in one report.
* What a timer or a cancellation alone would report rides on the next report, or waits a little.
* Once ``mute``, a life reports nothing and records nothing: it has ended, or is being dropped.
"""

import asyncio
import contextvars
import json
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from stepfold.asks import DurableTimer, Pending, TimerAsk, Where, parts_of
from stepfold.attempts import Attempt, AttemptRunner
from stepfold.closing import Closing
from stepfold.context import Context
from stepfold.divergence import describe
from stepfold.ending import raised, returned
from stepfold.errors import NonRetriableError, Parked
from stepfold.function import Function
from stepfold.loop import UserLoop
from stepfold.origins import frame_at
from stepfold.port import EnginePort, Fact, RunBrief
from stepfold.replay import (
    TIMER_ID,
    Ask,
    DivergedError,
    Divergence,
    Outcome,
    Replay,
    is_outcome,
)
from stepfold.scope import SCOPE, EngineFuture, Scope
from stepfold.steps import CURRENT
from stepfold.sync import SyncContext, ThreadBridge
from stepfold.threads import ThreadPool
from stepfold_schemas.entries import AttemptStarted, StepAttemptFailed
from stepfold_schemas.events import Event
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.reports import (
    AskAbandon,
    AskTimer,
    AttemptRunning,
    ReportItem,
    RunDiverged,
    RunIdle,
    RunRaised,
    RunReturned,
    VersionAsked,
)
from stepfold_schemas.strict import check_text

VERSION_CHARS_MAX = 255
VERSIONS_MAX = 100
"""How many changes the code of one run may ask about."""

LAZY_S = 1.0
"""How long a timer or a cancellation may wait for another report to ride on."""

TIMER_S_MAX = 1_000 * 366 * 86_400
"""A timer may be set for ever, or for infinity: that is a thousand years."""

SCAN_TASKS_MAX = 64
"""A run with more tasks than this is not looked through at every turn, only when it rests."""

MUTE_CALLS_MAX = 100
"""Durable calls of a life that is dropped raise, so often; then they hang, and so end a loop."""


class Desk(Protocol):
    """What a life needs of the worker that it lives in."""

    @property
    def loop(self) -> UserLoop:
        """The loop it runs on."""
        ...

    @property
    def engine(self) -> EnginePort:
        """Where it reports."""
        ...

    @property
    def attempts(self) -> AttemptRunner:
        """What runs the bodies of its steps."""
        ...

    @property
    def threads(self) -> ThreadPool:
        """Where plain functions run."""
        ...

    @property
    def outcome_bytes_max(self) -> int:
        """The largest result."""
        ...

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        ...

    def may_rest(self, life: "Life") -> None:
        """It waits, perhaps for long: ask ``rest`` of it after a while."""
        ...

    def rests(self, life: "Life") -> None:
        """It has reported that it is idle."""
        ...


class Life:
    """One life of a run's code.

    Attributes:
        run: the run's id.
        session: names this life to the engine.
        scope: what belongs to it on the loop.
        replay: the journal, as the code meets it.
        due: steps whose last attempt failed and whose next one (the number) may start.
        idle: it has reported that it awaits nothing but what is recorded.
        mute: it has ended or is being dropped: nothing it does counts.
    """

    def __init__(
        self, desk: Desk, function: Function[Any], brief: RunBrief, on_end: Callable[["Life"], None]
    ) -> None:
        self.desk, self.loop, self.brief = desk, desk.loop, brief
        self.run, self.session = brief.run, brief.session
        self.scope = Scope(self, function.origins, brief.run)
        self.replay = Replay(brief.run, brief.started_ms, attempt=brief.attempt)
        self.idle = self.mute = False
        self._function, self._on_end = function, on_end
        self._main: asyncio.Task[Any]
        self._silent_through = -1
        self._flying = 0
        self.due = dict(brief.retries_due)
        self._waking: dict[bytes, tuple[Pending, int]] = {}
        self._timers: list[TimerAsk] = []
        self._abandons: list[AskAbandon] = []
        self._versions: list[ReportItem] = []
        self._flush_handle: asyncio.TimerHandle | None = None
        self._diverged: Divergence | None = None
        self._closing: Closing | None = None
        self._mute_calls = 0
        self._in_turn = False
        self._place: Where

    # What the desk asks.

    def start(
        self,
        history: Sequence[Fact],
        *,
        repeated: int | None = None,
        answers: Iterable[tuple[str, bool]] = (),
    ) -> None:
        """Begin the code, with the facts that are known.

        Args:
            history: the run's journal so far.
            repeated: how many outcomes an earlier life of this process has seen already; None if
                that is not known, and the last outcome is taken to be new.
            answers: about versions that an earlier life gave, and that are on their way.
        """
        known = self.replay.load(history)
        for name, chosen in answers:
            if name not in self.replay.versions:
                self.replay.answer(name, chosen)
        self._silent_through = known - 1 if repeated is None else repeated
        context = contextvars.copy_context()
        context.run(SCOPE.set, self.scope)
        context.run(CURRENT.set, None)
        self._main = self.loop.create_task(self._call(), context=context)

    def receive(self, facts: Sequence[Fact]) -> None:
        """Take new facts."""
        if self.mute:
            return
        for fact in facts:
            if self.replay.add(fact):
                self._note(fact)
        self.scope.look()

    def retry(self, step: bytes, attempt: int) -> None:
        """Let the next attempt of a step begin."""
        self.due[step] = attempt
        if self.mute:
            return
        ask = self.replay.asked.get(step)
        if isinstance(ask, Pending):
            self._start_again(ask)

    def rest(self) -> None:
        """Report that the run is idle, if it is and has not said so."""
        if self._rests():
            self._send([], idle=True)

    def can_be_dropped(self) -> bool:
        """Say whether the run can be replayed later without losing anything."""
        return (
            not self.mute
            and not self.scope.ready
            and not self._main.done()
            and bool(self.replay.asked)
            and self.scope.blocked()
        )

    def is_recorded(self) -> bool:
        """Say whether the journal holds all that the code awaits, as far as facts have told."""
        asked = self.replay.asked.values()
        return not self.replay.unrecorded and all(a.recorded or a.cancelled for a in asked)

    def close(self, ended: Callable[[], None] = lambda: None) -> None:
        """Drop the code: end its tasks, report nothing, then call ``ended``."""
        if self._closing is not None:
            return
        self.mute = True
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        what = f"run {ulid_text(self.run)} of {self.function_id}"
        self._closing = Closing(self.scope, self.loop, what, ended)
        self._closing.begin()

    # What the context asks (``asks.Durable``).

    @property
    def seed(self) -> bytes:
        """What its random numbers are made of."""
        return self.brief.seed or self.run

    @property
    def attempt(self) -> int:
        """Which attempt of the function's own code this is."""
        return self.brief.attempt

    @property
    def events(self) -> Sequence[Event]:
        """What started the run."""
        return self.brief.events

    @property
    def has_thread(self) -> bool:
        """Whether it keeps a thread."""
        return not self._function.is_async

    @property
    def function_id(self) -> str:
        """The function's full id."""
        return self.brief.function

    @property
    def engine(self) -> EnginePort:
        """Where step bodies of our own publish events and send signals."""
        return self.desk.engine

    @property
    def silent(self) -> bool:
        """Whether what the code does now was done before."""
        return self.mute or self.replay.given <= self._silent_through

    def now_ms(self) -> int:
        """Return when the last outcome was recorded that the code got."""
        return self.replay.now_ms

    def wall_ms(self) -> int:
        """Return the wall clock."""
        return self.loop.now_ms()

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        return self.desk.decode_event(data)

    def begin(self, id: str) -> tuple[str, bytes]:  # noqa: A002 - the author's word
        """Count a use of an id by the run's own code."""
        if SCOPE.get() is not self.scope and not self.mute:
            raise NonRetriableError(_misplaced(id))
        if not isinstance(id, str) or not id:  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise TypeError(f"a step's id is text that is not empty, not {id!r}")
        frame = self.scope.caller or frame_at(2)
        self._place = frame.f_code, frame.f_lasti
        return self.replay.name(id)

    def version(self, name: str) -> bool:
        """Say on which side of a change the run is; decided once, and recorded."""
        known = self.replay.versions.get(name)
        if known is not None or self.mute:
            return known is not False
        if SCOPE.get() is not self.scope:
            raise NonRetriableError(_misplaced(name))
        check_text("a version's name", name, VERSION_CHARS_MAX)
        if not name or len(self.replay.versions) >= VERSIONS_MAX:
            what = "is empty" if not name else f"is one of more than {VERSIONS_MAX} in this run"
            raise NonRetriableError(f"a version's name {what}: give each change one short name")
        chosen = self.replay.choose(name)
        # Recorded before all that is asked for from here on, steps included.
        self._versions.append(VersionAsked(name, chosen))
        return chosen

    def perform(self, ask: Pending) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that asks for something durable and waits for its outcome."""
        ask.where = self._place
        return self._perform(ask)

    async def _perform(self, ask: Pending) -> Any:
        if self.mute:
            await self._refuse()
        self._ask(ask)
        ask.future = EngineFuture(loop=self.loop)
        try:
            entry = await ask.future
        finally:
            if not ask.delivered:
                self._abandon(ask)
        return ask.read(entry, ask)

    async def _refuse(self) -> None:
        self._mute_calls += 1
        if self._mute_calls <= MUTE_CALLS_MAX:
            raise Parked
        # Code that swallows the exception would go round for ever without letting others run.
        await EngineFuture(loop=self.loop)

    def _ask(self, ask: Pending | TimerAsk) -> None:
        try:
            self.replay.ask(ask)
        except DivergedError as error:
            self._diverged = error.divergence
            self.mute = True
            raise Parked from None

    def _abandon(self, ask: Pending | TimerAsk) -> None:
        if self.mute:
            return
        self.replay.cancel(ask)
        known = ask.recorded or ask.reported
        if isinstance(ask, Pending):
            if ask.started:
                known = True
                self._landed(ask)
            # An earlier life may have begun an attempt that goes on, and be heard of yet.
            known = self.desk.attempts.cancel(self.run, ask.key) or known
        if not known:
            self.replay.forget(ask)
        elif not self.replay.is_settled(ask):
            self._abandons.append(AskAbandon(ask.key))

    # What the loop asks (``scope.Host``).

    def time_s(self) -> float:
        """Return the loop's time as the run's own code sees it."""
        return self.replay.now_ms / 1000

    def set_timer(
        self,
        delay_s: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        """Set a durable timer for the run's own code."""
        if math.isnan(delay_s):
            raise ValueError("a timer's delay is NaN, which is no number of seconds")
        when_s = self.time_s() + delay_s
        name, key = self.replay.name(TIMER_ID)
        ask = TimerAsk(name, key, self.loop.real_time() + delay_s)
        ask.handle = DurableTimer(
            when_s, callback, args, self.loop, context, lambda: self._take_back(ask)
        )
        if not self.mute:
            ask.where = self._own_place()
            self._ask(ask)
        return ask.handle

    def _take_back(self, ask: TimerAsk) -> None:
        if not ask.delivered:
            self._abandon(ask)

    def _own_place(self) -> Where:
        frame = frame_at(2)
        while frame.f_back is not None and not self.scope.origins.is_own_file(frame):
            frame = frame.f_back
        return frame.f_code, frame.f_lasti

    def quiescent(self) -> None:
        """Go on: none of the run's callbacks is ready any more."""
        if self._in_turn:
            return
        self._in_turn = True
        try:
            if self._closing is not None:
                self._closing.look()
            elif self._diverged is not None:
                self._diverge(self._diverged)
            elif self._main.done():
                self._end()
            elif not self.mute:
                self._turn()
        finally:
            self._in_turn = False

    # One turn.

    def _turn(self) -> None:
        replay, scope = self.replay, self.scope
        while (found := replay.next()) is not None:
            self._give(*found)
            if scope.ready:
                return
        if replay.doubtful:
            if not scope.blocked():
                # I/O of the function's own code is under way: it may ask for the rest yet.
                return
            divergence = replay.stuck()
            if divergence is not None:
                self._diverge(divergence)
                return
        self._begin_new()

    def _give(self, ask: Ask, outcome: Outcome) -> None:
        if isinstance(ask, TimerAsk):
            ask.handle.fire()
            return
        assert isinstance(ask, Pending), "a life asks for nothing else"
        if ask.started:
            self._landed(ask)
        if not ask.future.done():
            ask.future.set_result(outcome.entry)

    def _begin_new(self) -> None:
        items: list[ReportItem] = []
        new = self.replay.take_new()
        if self._versions and any(isinstance(a, Pending) and a.item is None for a in new):
            # Before a step starts, whose outcome may be recorded at once.
            self._send([], idle=False)
        for ask in new:
            if isinstance(ask, TimerAsk):
                self._timers.append(ask)
                continue
            assert isinstance(ask, Pending), "a life asks for nothing else"
            ask.released = True
            if ask.item is None:
                self._start(ask)
            else:
                ask.reported = True
                items.append(ask.item)
        if items or self._timers or self._abandons or self._versions:
            idle = len(self.scope.tasks) <= SCAN_TASKS_MAX and self._rests()
            if items or idle or self._versions:
                self._send(items, idle=idle)
            else:
                self._send_later()
        elif not self._flying and self.replay.asked and not self.idle:
            self.desk.may_rest(self)

    def _start(self, ask: Pending) -> None:
        number = self.replay.failures.get(ask.key, 0) + 1
        if number > 1 and self.due.get(ask.key) != number:
            return
        ask.started = True
        self._flying += 1
        if self.brief.cautious:
            self._waking[ask.key] = ask, number
            item = AttemptRunning(ask.key, ask.name, number, self.loop.now_ms())
            self.engine.report(self.run, self.session, [item])
        else:
            self._run_attempt(ask, number)

    def _start_again(self, ask: Pending) -> None:
        if ask.released and not ask.started and not ask.cancelled:
            self._start(ask)

    def _run_attempt(self, ask: Pending, number: int) -> None:
        assert ask.body is not None, "only steps are started"
        self.desk.attempts.start(Attempt(self.run, ask.key, ask.name, number, ask.body))

    def _landed(self, ask: Pending) -> None:
        ask.started = False
        self._flying -= 1

    def _note(self, fact: Fact) -> None:
        """Act on a fact that changes what the run waits for."""
        entry = fact.entry
        if is_outcome(entry):
            self.idle = False
        elif isinstance(entry, StepAttemptFailed):
            self.idle = False
            ask = self.replay.asked.get(entry.step)
            if isinstance(ask, Pending):
                if ask.started:
                    self._landed(ask)
                if self.due.get(entry.step, 0) > entry.attempt:
                    # Its time had come before the failure was confirmed.
                    self._start_again(ask)
        elif isinstance(entry, AttemptStarted) and self._waking:
            waking = self._waking.get(entry.step)
            if waking is not None and waking[1] == entry.attempt:
                del self._waking[entry.step]
                if not waking[0].cancelled:
                    self._run_attempt(*waking)

    # Reports.

    def _rests(self) -> bool:
        """Say whether everything that the run awaits is recorded, or about to be."""
        return not self._flying and not self.idle and self.can_be_dropped()

    def _send(self, items: list[ReportItem], *, idle: bool) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        now_s = self.loop.real_time()
        for ask in self._timers:
            if not ask.cancelled:
                ask.reported = True
                left_ms = math.ceil(min(ask.due_s - now_s, TIMER_S_MAX) * 1000 - 1e-3)
                items.append(AskTimer(ask.key, ask.name, max(0, left_ms)))
        items = [*self._versions, *items, *self._abandons]
        self._timers, self._abandons, self._versions = [], [], []
        if idle:
            self.idle = True
            items.append(RunIdle(self.replay.seen))
        for part in parts_of(items):
            self.engine.report(self.run, self.session, part)
        if idle:
            self.desk.rests(self)

    def _send_later(self) -> None:
        self._timers = [ask for ask in self._timers if not ask.cancelled]
        if self._flush_handle is None and (self._timers or self._abandons):
            now_s = self.loop.real_time()
            due_s = min((ask.due_s for ask in self._timers), default=now_s + LAZY_S)
            wait_s = min(LAZY_S, max(0.0, due_s - now_s))
            self._flush_handle = self.loop.call_later(wait_s, self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        if not self.mute:
            self._send([], idle=self._rests())

    # The end.

    async def _call(self) -> Any:
        context = Context(self)
        try:
            if self._function.is_async:
                return await self._function.call(context)  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] - an async def
            bridge = ThreadBridge(self.loop, self.scope, self.desk.threads, lambda: self.mute)
            sync_context = SyncContext(context, bridge)
            return await bridge.run(lambda: self._function.call(sync_context))
        except SystemExit as error:
            raise RuntimeError(f"the function called sys.exit({error.code!r})") from error

    def _end(self) -> None:
        item: RunReturned | RunRaised
        try:
            value = self._main.result()
        except BaseException as error:  # noqa: BLE001 - whatever it raised is recorded
            item = raised(error, self.attempt, self.loop.now_ms())
        else:
            item = returned(value, self.function_id, self.attempt, self.desk.outcome_bytes_max)
        permanent = not isinstance(item, RunRaised) or item.permanent
        divergence = self.replay.ended() if permanent else None
        if divergence is not None:
            self._diverge(divergence)
        else:
            self._report_end(item)

    def _diverge(self, divergence: Divergence) -> None:
        report = describe(self.function_id, self.run, divergence)
        self._report_end(RunDiverged(json.dumps(report).encode()))

    def _report_end(self, item: ReportItem) -> None:
        self.engine.report(self.run, self.session, [*self._versions, item])
        self._on_end(self)
        self.close()


def _misplaced(id: str) -> str:  # noqa: A002 - the author's word
    if CURRENT.get() is not None:
        return (
            f"steps cannot be nested: {id!r} was asked for in the body of a step. Do it in the"
            " function itself, or call a plain function"
        )
    return f"step {id!r}: a context can only be used by the function that it was given to"
