"""The context: what a durable function is given, and through which it asks for all that lasts.

Rules:

* A step's number among those with the same id is counted when the method is called, in the order
  of calls, also if it is awaited later.
* What a function gets is read from JSON, hot as well as replayed.
"""

import contextvars
import hashlib
import logging
import random as random_module
import uuid as uuid_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from stepfold import serde
from stepfold.asks import Durable, Pending
from stepfold.durations import WAIT_MS_MAX, Duration, duration_ms, moment, time_ms
from stepfold.errors import NonRetriableError, SignalConflictError, step_error
from stepfold.events import Event, Sendable, listed, plain, view, written
from stepfold.options import Retry, checked_path
from stepfold.replay import INVOKE, SIGNAL, SLEEP, STEP, WAIT
from stepfold.steps import CURRENT, DEFAULT_POLICY, Body, StepPolicy, policy, policy_of
from stepfold_schemas import strict
from stepfold_schemas.entries import (
    Entry,
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    SignalReceived,
    SignalWaitEnded,
    StepCompleted,
    StepFailed,
)
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.reports import AskInvoke, AskSignal, AskSleep, AskWait

P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

SIGNAL_CHARS_MAX = 255

SINCE_RUN = -1
"""How a look-back to the run's start is reported."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that arrived. ``data`` is what its sender said, None if nothing."""

    data: Any


class Invocable(Protocol[R_co]):
    """A durable function, as far as invoking it needs to know it."""

    @property
    def id(self) -> str:
        """Its full id."""
        ...

    def read(self, data: bytes) -> R_co:
        """Read its result back from JSON."""
        ...


class Context:
    """What an async durable function is given.

    Attributes:
        step: steps, sleeps, waits: all that is recorded.
    """

    def __init__(self, life: Durable) -> None:
        self._life = life
        self._drawn = 0
        self.step = Step(life)

    @property
    def run_id(self) -> str:
        """The run's id, a ULID."""
        return ulid_text(self._life.run)

    @property
    def attempt(self) -> int:
        """Which attempt of the function's own code this is, from 1; steps count their own."""
        return self._life.attempt

    @property
    def event(self) -> Event:
        """What started the run."""
        return self.events[0]

    @cached_property
    def events(self) -> Sequence[Event]:
        """All events that started the run together; almost always one."""
        return tuple(view(event) for event in self._life.events)

    @cached_property
    def logger(self) -> "RunLogger":
        """A logger that keeps silent while the run repeats what it did before."""
        extra = {"run_id": self.run_id, "function_id": self._life.function_id}
        return RunLogger(self._life, extra)

    def now(self) -> datetime:
        """Return the time in UTC, the same when the run is replayed.

        It is the time at which the last outcome that the function got was recorded; before the
        first, the run's start. In a step's body it is the wall clock.
        """
        life = self._life
        return moment(life.now_ms() if CURRENT.get() is None else life.wall_ms())

    def random(self) -> random_module.Random:
        """Return a source of random numbers that gives the same when the run is replayed.

        In a step's body, whose result is recorded, it is seeded by the system.
        """
        if CURRENT.get() is not None:
            return random_module.Random()  # noqa: S311 - not for secrets, as documented in random
        return random_module.Random(self._draw())  # noqa: S311 - as above

    def uuid(self) -> uuid_module.UUID:
        """Return a random UUID that is the same when the run is replayed."""
        if CURRENT.get() is not None:
            return uuid_module.uuid4()
        return uuid_module.UUID(bytes=self._draw()[:16], version=4)

    def version(self, name: str) -> bool:
        """Say whether the run is on the new side of a change of its code; recorded once.

        ``if ctx.version("new-tax"): new code; else: old code``. A run that had passed this point
        before the change keeps to the old side for ever; all others take the new one. Within a run
        a name has one answer. When no run of the old side is left the ``if`` may go.

        Args:
            name: the change's; the same wherever the code asks about it.
        """
        if CURRENT.get() is not None:
            msg = f"ctx.version({name!r}) was called in the body of a step: ask in the function"
            raise NonRetriableError(msg)
        return self._life.version(name)

    def _draw(self) -> bytes:
        self._drawn += 1
        seed = self._life.seed + self._drawn.to_bytes(8, "big")
        return hashlib.sha256(seed).digest()


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs for a run, with ``run_id`` and ``function_id``; silent while it is replayed."""

    def __init__(self, life: Durable, extra: Mapping[str, object]) -> None:
        super().__init__(logging.getLogger("stepfold.function"), extra)
        self._life = life

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Say whether a record of this level would be logged now."""
        # A step's body does not run again, so what it logs is new.
        if self._life.silent and CURRENT.get() is None:
            return False
        return super().isEnabledFor(level)

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        """Add the run to what the caller says of a record."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class BoundStep:
    """Runs steps under a policy; see ``Step.options``."""

    __slots__ = ("_life", "_policy")

    def __init__(self, life: Durable, given: StepPolicy) -> None:
        self._life, self._policy = life, given

    @overload
    def run(
        self,
        id: str,
        call: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self, id: str, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def run(  # noqa: D417 - args and kwargs belong to the call
        self,
        id: str,  # noqa: A002 - the author's word
        call: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Call a function once, record what it returns, and return that.

        When the run is replayed the function is not called again. An async function runs as a task
        of its own, a plain one in a thread. What it returns goes through JSON, and is read back as
        its return annotation says. If it raises, it is tried again; see ``options``.

        Args:
            id: the step's id. The same id may be used again, in a loop: uses are counted.
            call: the function, with its arguments after it.

        Raises:
            StepError: the last attempt failed.
        """
        name, key = self._life.begin(id)
        ask = Pending(STEP, name, key, _read_step)
        own = policy_of(call)
        used = self._policy if own is DEFAULT_POLICY else self._policy.over(own)
        reader = serde.reader_of(call)
        ask.body = Body(call, args, kwargs, used, reader, contextvars.copy_context())
        return self._life.perform(ask)


class Step(BoundStep):
    """What a durable function can do that is recorded."""

    __slots__ = ()

    def __init__(self, life: Durable) -> None:
        super().__init__(life, DEFAULT_POLICY)

    def options(
        self, *, retries: int | Retry | None = None, timeout: Duration | None = None
    ) -> BoundStep:
        """Return something whose ``run`` tries a step otherwise than the function says.

        Args:
            retries: how often a failed attempt is repeated, or a whole ``Retry``.
            timeout: how long one attempt may take.
        """
        return BoundStep(self._life, policy(retries, timeout))

    def sleep(self, id: str, duration: Duration) -> Coroutine[Any, Any, None]:  # noqa: A002 - the author's word
        """Sleep, without using anything meanwhile; restarts in between do not matter.

        Args:
            id: the step's id.
            duration: ``"30s"``, ``"1h30m"``, ``"7 days"``, a ``timedelta``, or milliseconds.
        """
        ms = duration_ms(duration, f"sleep {id!r}")
        name, key = self._life.begin(id)
        ask = Pending(SLEEP, name, key, _read_nothing, AskSleep(key, name, ms))
        return self._life.perform(ask)

    def sleep_until(self, id: str, time: datetime | str) -> Coroutine[Any, Any, None]:  # noqa: A002 - the author's word
        """Sleep until a time; one that has passed already is over at once.

        Args:
            id: the step's id.
            time: an aware ``datetime``, or ISO 8601 text with an offset.
        """
        until_ms = max(1, time_ms(time, f"sleep_until {id!r}"))
        if until_ms - self._life.now_ms() > WAIT_MS_MAX:
            limit = f"{WAIT_MS_MAX // 86_400_000} days"
            raise ValueError(f"sleep_until {id!r}: {time} is more than {limit} away, the limit")
        name, key = self._life.begin(id)
        ask = Pending(SLEEP, name, key, _read_nothing, AskSleep(key, name, 0, until_ms))
        return self._life.perform(ask)

    def wait_for_event(
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: str | None = None,
        since: Literal["run"] | datetime | None = None,
    ) -> Coroutine[Any, Any, Event | None]:
        """Wait for an event; return it, or None if none came in time.

        Args:
            id: the step's id.
            event: the event's name, or a pattern that ends in ``/*`` or ``.*``.
            timeout: how long to wait.
            match: a path such as ``data.order_id`` that must be equal in the event that started
                the run and in the one waited for.
            if_: a CEL expression over ``event``, which started the run, and ``async``.
            since: look back, too: ``"run"`` for events since the run's own, or a time.
        """
        ms = duration_ms(timeout, f"timeout of wait {id!r}")
        path = checked_path(match, f"match of wait {id!r}") if match else ""
        since_ms = 0
        if since is not None:
            since_ms = SINCE_RUN
        if since is not None and since != "run":
            # Below 1 lie the two that mean something else; nothing was sent before 1970.
            since_ms = max(1, time_ms(since, f"since of wait {id!r}"))
        trigger = plain(self._life.events[0])
        name, key = self._life.begin(id)
        item = AskWait(key, name, event, path, if_ or "", trigger, ms, since_ms)
        return self._life.perform(Pending(WAIT, name, key, self._read_wait, item))

    def wait_for_signal(
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
    ) -> Coroutine[Any, Any, Signal | None]:
        """Wait for a signal; return it, or None if it did not come in time.

        Args:
            id: the step's id.
            signal: the signal's name. One run at a time can wait for it.
            timeout: how long to wait.
            on_conflict: what to do if another run waits for it: ``fail``, or ``replace`` that one.

        Raises:
            SignalConflictError: another run waits for it, and ``on_conflict`` is ``fail``.
        """
        ms = duration_ms(timeout, f"timeout of wait {id!r}")
        if on_conflict not in ("fail", "replace"):
            raise ValueError(f"on_conflict is {on_conflict!r}: it is 'fail' or 'replace'")
        name, key = self._life.begin(id)
        item = AskSignal(key, name, signal, ms, on_conflict)
        return self._life.perform(Pending(SIGNAL, name, key, _read_signal, item))

    def send_signal(
        self,
        id: str,  # noqa: A002 - the author's word
        signal: str,
        data: object = None,
    ) -> Coroutine[Any, Any, str | None]:
        """Send a signal; return the id of the run that got it, None if none waited for it.

        Args:
            id: the step's id.
            signal: the signal's name.
            data: what to say; anything that can be written as JSON.
        """
        life, (name, key) = self._life, self._life.begin(id)

        async def send() -> str | None:
            request = hashlib.sha256(life.run + key).digest()[:16]
            try:
                strict.check_name("the signal's name", signal, SIGNAL_CHARS_MAX)
                said = serde.dumps(data)
            except ValueError as error:
                raise NonRetriableError(str(error)) from error
            except serde.UnserializableError as error:
                raise NonRetriableError(f"the data of signal {signal!r} is {error}") from error
            run = await life.engine.signal(signal, said, request)
            return None if run is None else ulid_text(run)

        return self._perform_own(name, key, send)

    def send_event(
        self,
        id: str,  # noqa: A002 - the author's word
        events: Sendable | Sequence[Sendable],
    ) -> Coroutine[Any, Any, list[str]]:
        """Send one event or several, once; return the ids they were given when taken in.

        Args:
            id: the step's id.
            events: a ``NewEvent`` or a dict, or several.
        """
        given = listed(events)
        life, (name, key) = self._life, self._life.begin(id)

        async def send() -> list[str]:
            prefix = f"{ulid_text(life.run)}:{key.hex()}"
            now_ms = life.wall_ms()
            try:
                made = [
                    written(event, now_ms=now_ms, default_id=f"{prefix}:{index}")
                    for index, event in enumerate(given)
                ]
            except (TypeError, ValueError) as error:
                raise NonRetriableError(str(error)) from error
            return await life.engine.publish(made)

        return self._perform_own(name, key, send)

    @overload
    def invoke(
        self,
        id: str,
        *,
        function: Invocable[T],
        data: Mapping[str, Any] | None = None,
        timeout: Duration = "366d",
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def invoke(
        self,
        id: str,
        *,
        function: str,
        data: Mapping[str, Any] | None = None,
        timeout: Duration = "366d",
    ) -> Coroutine[Any, Any, Any]: ...
    def invoke(
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        function: Invocable[Any] | str,
        data: Mapping[str, Any] | None = None,
        timeout: Duration = "366d",
    ) -> Coroutine[Any, Any, Any]:
        """Run another function and return its result.

        Args:
            id: the step's id.
            function: the function, or its full id, ``<app>-<function>``.
            data: becomes its ``ctx.event.data``.
            timeout: how long to wait for its end.

        Raises:
            StepError: it failed or was cancelled.
            InvokeTimeoutError: it did not end in time.
        """
        ms = duration_ms(timeout, f"timeout of invocation {id!r}")
        try:
            given = serde.dumps(data or {})
        except serde.UnserializableError as error:
            raise NonRetriableError(f"the data of invocation {id!r} is {error}") from error
        target, read = (
            (function, serde.loads) if isinstance(function, str) else (function.id, function.read)
        )
        name, key = self._life.begin(id)

        def read_result(entry: Entry, ask: Pending) -> Any:
            if isinstance(entry, InvokeCompleted):
                return read(entry.data)
            assert isinstance(entry, InvokeFailed | StepFailed), "no other outcome"
            raise step_error(entry.error, ask.name)

        item = AskInvoke(key, name, target, given, ms)
        return self._life.perform(Pending(INVOKE, name, key, read_result, item))

    def _perform_own(
        self, name: str, key: bytes, call: Callable[[], Awaitable[T]]
    ) -> Coroutine[Any, Any, T]:
        ask = Pending(STEP, name, key, _read_step)
        ask.body = Body(call, (), {}, DEFAULT_POLICY, None, contextvars.copy_context())
        return self._life.perform(ask)

    def _read_wait(self, entry: Entry, ask: Pending) -> Event | None:
        if isinstance(entry, EventMatched):
            return view(self._life.decode_event(entry.event))
        _read_nothing(entry, ask)
        return None


def _read_step(entry: Entry, ask: Pending) -> Any:
    if isinstance(entry, StepCompleted):
        reader = ask.body.reader if ask.body is not None else None
        return serde.loads(entry.data) if reader is None else reader(entry.data)
    _read_nothing(entry, ask)
    raise AssertionError(f"no outcome of a step: {entry!r}")


def _read_signal(entry: Entry, ask: Pending) -> Signal | None:
    if isinstance(entry, SignalReceived):
        return Signal(serde.loads(entry.data))
    if isinstance(entry, SignalWaitEnded) and entry.reason == "refused":
        holder = f"run {ulid_text(entry.holder)}" if entry.holder else "another run"
        text = f"{holder} waits for this signal already; on_conflict='replace' would take its place"
        raise SignalConflictError(text, step=ask.name)
    _read_nothing(entry, ask)
    return None


def _read_nothing(entry: Entry, ask: Pending) -> None:
    if isinstance(entry, StepFailed):
        raise step_error(entry.error, ask.name)
