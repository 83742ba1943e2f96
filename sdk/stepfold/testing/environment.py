"""The test environment: an app on the whole engine, in this process, under virtual time.

Rules:

* Time stands still while the test runs. It passes only in ``advance`` and ``finish``, and then
  jumps from one due time to the next.
* When a call returns, everything has happened that follows from it without time passing.
* Everything is on a log in memory, of this environment alone.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from stepfold import serde
from stepfold.app import App
from stepfold.durations import Duration, duration_ms, moment, time_ms
from stepfold.events import NewEvent, Sendable, listed, written
from stepfold.function import Function, FunctionOptions
from stepfold.testing.errors import NotThereError, StuckError
from stepfold.testing.happenings import Later, Schedule, Sent, SentEvent, sent_event
from stepfold.testing.patience import Awaited, Patience, stuck
from stepfold.testing.points import Nowhere, Points
from stepfold.testing.runs import Run
from stepfold.testing.stage import PARTITIONS, Stage
from stepfold.testing.stubs import Call, Stub
from stepfold.virtual import START_MS
from stepfold_engine.core.ending import INVOKED_EVENT
from stepfold_engine.core.patterns import matches
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.events import Event
from stepfold_schemas.ids import parse_ulid, partition_of, run_key
from stepfold_schemas.messages import CancelRequested, RunRequested, SignalSent


class MakeEnvironment(Protocol):
    """What the fixture ``stepfold_env`` gives: it makes environments that end with the test."""

    def __call__(
        self,
        app: App | Function[Any],
        *,
        start: datetime | str | None = None,
        replay: bool = False,
        settings: Settings | None = None,
    ) -> "Environment":
        """Run an app; see ``Environment``."""
        ...


class Environment:
    """An app on the whole engine, under virtual time. A context manager; or ``close`` it.

    Args:
        app: the app; a function stands for its app.
        start: the virtual time at the start: an aware datetime or ISO text; June 2025 if not given.
        replay: replay a run from its journal whenever something happens to it, as if the process
            had just been started. Slower, and merciless to code that is not deterministic.
        settings: of the engine, for tests of its limits.
        points: who says where the process dies; see ``crash_everywhere``.
    """

    def __init__(
        self,
        app: App | Function[Any],
        *,
        start: datetime | str | None = None,
        replay: bool = False,
        settings: Settings | None = None,
        points: Points | None = None,
    ) -> None:
        self.app = app_of(app)
        given = (settings or Settings()).model_copy(update={"always_replay": replay})
        start_ms = START_MS if start is None else time_ms(start, "start")
        self._functions = dict(self.app.functions)
        self._schedule = Schedule()
        self.stage = Stage(self.app, self._functions, start_ms, given, points or Nowhere())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<test environment of {self.app.id} at {self.now:%Y-%m-%d %H:%M:%S}: {self.runs}>"

    def close(self) -> None:
        """End all that runs. Doing it twice is doing it once."""
        self.stage.close()

    # What happens to the app.

    def send(
        self,
        event: Sendable | Sequence[Sendable] | str,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the author's word
        ts: datetime | int | None = None,
        user: Mapping[str, Any] | None = None,
    ) -> Sent:
        """Send an event, by its name and data, or one event or several as ``app.send`` takes them.

        Returns:
            What was sent: its ``run`` is the run that it started.

        Raises:
            ValueError: an event is not well formed.
        """
        if isinstance(event, str):
            events = [NewEvent(event, data or {}, id, ts, user)]
        else:
            events = listed(event)
        now_ms = self.stage.now_ms()
        ids = [self.stage.publish(written(one, now_ms=now_ms)) for one in events]
        self.stage.settle()
        return Sent(ids, lambda: self._started_by(ids), lambda: self._why_none(events))

    def invoke(self, function: Function[Any] | str, data: Mapping[str, Any] | None = None) -> Run:
        """Start a run of a function, as another function does that invokes it; return the run.

        Raises:
            NotThereError: the app has no such function.
        """
        target = self._function(function)
        now_ms, asked = self.stage.now_ms(), len(self.stage.witness.stories)
        event = Event(INVOKED_EVENT, serde.dumps(data or {}), f"invocation-{asked}", now_ms)
        home = partition_of(event.id, PARTITIONS)
        key = run_key(home, target.id, event.id)
        cause = "invoked by the test"
        self.stage.tell(home, RunRequested(target.id, key, cause, [codec.encode(event)], 0))
        self.stage.settle()
        return next(run for run in reversed(self.runs) if parse_ulid(run.id).endswith(key))

    def signal(self, name: str, data: object = None) -> Run | None:
        """Send a signal; return the run that got it, None if none waits for it."""
        home = partition_of(name, PARTITIONS)
        answer = self.stage.ask(home, SignalSent(name, serde.dumps(data)))
        if answer.status == 404:
            return None
        got = parse_ulid(serde.loads(answer.body)["run_id"])
        return Run(self.stage, self.stage.witness.stories[got])

    def cancel(self, run: Run, reason: str = "cancelled by the test") -> None:
        """Cancel a run.

        Raises:
            NotThereError: it has ended.
        """
        answer = self.stage.ask(0, CancelRequested(parse_ulid(run.id), reason))
        if answer.status != 200:
            raise NotThereError(f"{run!r} cannot be cancelled: it has ended")

    def crash(self) -> None:
        """Kill the process, and start it again at once on what is in the log.

        What was in memory is lost. Bodies of steps that were under way never end, and run again.
        """
        self.stage.kill()

    def at(self, when: Duration | datetime) -> Later:
        """Let something happen at a time: ``env.at("2h").send("shop/order.approved", …)``.

        It happens while ``advance`` or ``finish`` let time pass.

        Args:
            when: how long from now (``"2h"``, a ``timedelta``, milliseconds), or an aware datetime.

        Raises:
            ValueError: it is in the past, or cannot be read.
        """
        at_ms = self._time_ms(when, "at")
        return Later(self, self._schedule, at_ms)

    # Time.

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return moment(self.stage.now_ms())

    def advance(self, by: Duration | datetime) -> None:
        """Let time pass: everything happens that is due by then, in order.

        Args:
            by: how long (``"3d"``, a ``timedelta``, milliseconds), or until when.

        Raises:
            ValueError: it is in the past, or cannot be read.
        """
        until_ms = self._time_ms(by, "advance")
        self.stage.settle()
        while self._schedule.next_ms <= until_ms:
            self._happen()
        self.stage.run_until(until_ms)

    def finish(self, *runs: Run) -> None:
        """Let as much time pass as it takes until these runs have ended, or all if none is named.

        Runs that a cron starts meanwhile are not waited for: there would be no end. Those that a
        debounce is about to start are.

        Raises:
            StuckError: one of them does not end however much time passes, or was stopped because
                its code diverged; the message says what each one waits for.
        """
        self.stage.settle()
        awaited = Awaited(self.stage, runs)
        while True:
            patience = Patience(self.stage, self._schedule, awaited)
            self.stage.run(patience.lasts)
            if awaited.is_over():
                return
            if patience.lost or self._schedule.next_ms == float("inf"):
                raise StuckError(stuck(awaited.left(), self._unfinished()))
            self._happen()

    def _happen(self) -> None:
        self.stage.run_until(self._schedule.next_ms)
        self._schedule.pop()()

    def _unfinished(self) -> list[Run]:
        return [Run(self.stage, story) for story in self.stage.witness.unfinished()]

    def _time_ms(self, when: Duration | datetime, what: str) -> int:
        now_ms = self.stage.now_ms()
        if not isinstance(when, datetime):
            return now_ms + duration_ms(when, what)
        at_ms = time_ms(when, what)
        if at_ms < now_ms:
            raise ValueError(f"{what}: {when} has passed; it is {self.now}")
        return at_ms

    # What the test sees.

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their start."""
        return [Run(self.stage, story) for story in self.stage.witness.stories.values()]

    def runs_of(self, function: Function[Any] | str) -> list[Run]:
        """Return the runs of a function, in the order of their start.

        Args:
            function: the function, its id, or its full id.

        Raises:
            NotThereError: the app has no such function.
        """
        full = self._function(function).id
        return [run for run in self.runs if run.function == full]

    def run_of(self, function: Function[Any] | str) -> Run:
        """Return the one run of a function.

        Raises:
            NotThereError: there is no such function, or it has no run, or several.
        """
        found = self.runs_of(function)
        if len(found) == 1:
            return found[0]
        name = self._function(function).id
        raise NotThereError(f"{name} has {len(found)} runs; there are: {self.runs}")

    def sent(self, name: str | None = None) -> list[SentEvent]:
        """Return the events that the app has sent (not those of the test), in order.

        Args:
            name: the event's name, or a pattern that ends in ``/*`` or ``.*``; None for all.
        """
        own = self.stage.own
        events = [(at, e) for at, e in self.stage.witness.events if e.internal not in own]
        return [sent_event(at, e) for at, e in events if name is None or matches(name, e.name)]

    # Stubs.

    def stub(  # noqa: PLR0913 - what a stub may do, all but the step by name
        self,
        step: str,
        *,
        returns: object = None,
        raises: BaseException | type[BaseException] | None = None,
        call: Callable[..., Any] | None = None,
        function: Function[Any] | str | None = None,
        times: int | None = None,
        takes: Duration = 0,
    ) -> Stub:
        """Put something in the place of a step's body.

        Of several stubs for a step the first serves until its ``times`` are spent, then the next;
        after the last, the body itself runs.

        Args:
            step: the step's id, for all its repeats, or one of them, such as ``"send:1"``.
            returns: what the step returns. It goes through JSON and the body's return annotation.
            raises: what an attempt raises; it is then tried again as the step's policy says.
            call: what is called instead, with the arguments of the body; plain or async.
            function: whose step; of any function if not given.
            times: how many attempts it serves; all if not given.
            takes: how much virtual time an attempt takes.

        Returns:
            The stub; its ``calls`` are the attempts that it served.
        """
        given = sum(x is not None for x in (returns, raises, call))
        if given > 1:
            raise ValueError(f"stub of step {step!r}: give one of returns, raises and call")
        full = "" if function is None else self._function(function).id
        takes_s = duration_ms(takes, f"takes of stub {step!r}") / 1000
        stub = Stub(step, full, returns, raises, call, times, takes_s)
        self.stage.bodies.stubs.append(stub)
        return stub

    def stub_function(
        self,
        function: Function[Any] | str,
        *,
        returns: object = None,
        raises: BaseException | type[BaseException] | None = None,
        takes: Duration = 0,
    ) -> Stub:
        """Put something in the place of a function that others invoke, also of another app's.

        To be called before the first event is sent. The stub's events and options are none: it
        is only invoked. What it raises is final.

        Args:
            function: the function, or its full id.
            returns: what its runs return.
            raises: what they raise.
            takes: how much virtual time they take.

        Returns:
            The stub; the ``args`` of its ``calls`` are the data it was invoked with.
        """
        if self.stage.lives:
            raise RuntimeError("stub functions before the first event is sent")
        full = function if isinstance(function, str) else function.id
        stub = Stub(full, returns=returns, raises=raises)
        takes_ms = duration_ms(takes, f"takes of stub {full!r}")

        async def run(ctx: Any) -> Any:
            await ctx.step.sleep("stub", takes_ms)
            return await stub.body(Call(full, ctx.attempt, (ctx.event.data,), {}))()

        options = FunctionOptions(retries=0)
        self._functions[full] = Function[Any](full, run, options, self.app)
        return stub

    # Inside.

    def _function(self, function: Function[Any] | str) -> Function[Any]:
        wanted = function if isinstance(function, str) else function.id
        for name in (wanted, f"{self.app.id}-{wanted}"):
            if name in self._functions:
                return self._functions[name]
        there = ", ".join(self._functions) or "none"
        raise NotThereError(f"app {self.app.id} has no function {wanted!r}, only: {there}")

    def _started_by(self, ids: Sequence[str]) -> list[Run]:
        witness = self.stage.witness
        runs = [run for id_ in ids for run in witness.started.get(id_, [])]
        return [Run(self.stage, witness.stories[run]) for run in runs]

    def _why_none(self, events: Sequence[NewEvent]) -> str:
        names, witness = {event.name for event in events}, self.stage.witness
        said = f"sent were {sorted(names)}; the functions of {self.app.id} are started by: "
        triggers = {
            function.id: [
                t.event + (f" if {t.expression}" if t.expression else "")
                for t in function.spec().triggers
            ]
            for function in self._functions.values()
        }
        said += "; ".join(f"{id_}: {', '.join(on) or 'nothing'}" for id_, on in triggers.items())
        said += ". An event whose id was sent before starts nothing again"
        pending = sorted({held.function for s in witness.states for held in s.debounces.values()})
        return said + (f"; time must pass for the debounce of {', '.join(pending)}" * bool(pending))


def app_of(target: App | Function[Any]) -> App:
    """Return an app, or that of a function."""
    app = target.app if isinstance(target, Function) else target
    if not isinstance(app, App):
        raise TypeError(f"an app or one of its functions is needed, not {target!r}")
    return app
