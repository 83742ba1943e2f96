"""Plain ``def`` functions: the same context with blocking methods, and the thread behind it.

Rules:

* A live run of a plain function has a thread of its own. What it asks for is done on the user
  loop, in the run's main task; the thread waits for it.
* While the thread runs user code the run counts as busy: it gets no outcomes and is not parked.
* A thread cannot be stopped from outside. When its run is dropped, its next durable call raises.
"""

import asyncio
import queue
import random as random_module
import uuid as uuid_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from types import FrameType
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from stepfold.context import BoundStep, Context, Invocable, RunLogger, Signal, Step
from stepfold.durations import Duration
from stepfold.errors import NonRetriableError, Parked
from stepfold.events import Event, Sendable
from stepfold.loop import UserLoop
from stepfold.options import Retry
from stepfold.origins import frame_at
from stepfold.scope import SCOPE, Scope
from stepfold.steps import CURRENT
from stepfold.threads import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class Bridge(Protocol):
    """From a plain function's thread to the user loop."""

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop, as the run's own code; return its result."""
        ...


class SyncContext:
    """What a plain durable function is given.

    Attributes:
        step: steps, sleeps, waits: all that is recorded. Its methods block.
    """

    def __init__(self, context: Context, bridge: Bridge) -> None:
        self._context, self._bridge = context, bridge
        self.step = SyncStep(context.step, bridge)

    @property
    def run_id(self) -> str:
        """The run's id, a ULID."""
        return self._context.run_id

    @property
    def attempt(self) -> int:
        """Which attempt of the function's own code this is, from 1; steps count their own."""
        return self._context.attempt

    @property
    def event(self) -> Event:
        """What started the run."""
        return self._context.event

    @property
    def events(self) -> Sequence[Event]:
        """All events that started the run together; almost always one."""
        return self._context.events

    @property
    def logger(self) -> RunLogger:
        """A logger that keeps silent while the run repeats what it did before."""
        return self._context.logger

    def now(self) -> datetime:
        """Return the time in UTC, the same when the run is replayed; see ``Context.now``."""
        return self._context.now()

    def random(self) -> random_module.Random:
        """Return a source of random numbers that gives the same when the run is replayed."""
        return self._context.random()

    def uuid(self) -> uuid_module.UUID:
        """Return a random UUID that is the same when the run is replayed."""
        return self._context.uuid()

    def version(self, name: str) -> bool:
        """Say whether the run is on the new side of a change; see ``Context.version``."""
        if CURRENT.get() is not None:
            return self._context.version(name)

        async def ask() -> bool:
            return self._context.version(name)

        return self._bridge.call(ask)


class SyncBoundStep:
    """Runs steps under a policy; see ``SyncStep.options``."""

    __slots__ = ("_bound", "_bridge")

    def __init__(self, bound: BoundStep, bridge: Bridge) -> None:
        self._bound, self._bridge = bound, bridge

    @overload
    def run(
        self,
        id: str,
        call: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...
    @overload
    def run(self, id: str, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(
        self,
        id: str,  # noqa: A002 - the author's word
        call: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a function once, record what it returns, and return that; see ``Step.run``."""
        return self._bridge.call(lambda: self._bound.run(id, call, *args, **kwargs))


class SyncStep(SyncBoundStep):
    """What a plain durable function can do that is recorded; see ``Step``."""

    __slots__ = ("_step",)

    def __init__(self, step: Step, bridge: Bridge) -> None:
        super().__init__(step, bridge)
        self._step = step

    def options(
        self, *, retries: int | Retry | None = None, timeout: Duration | None = None
    ) -> SyncBoundStep:
        """Return something whose ``run`` tries a step otherwise than the function says."""
        return SyncBoundStep(self._step.options(retries=retries, timeout=timeout), self._bridge)

    def sleep(self, id: str, duration: Duration) -> None:  # noqa: A002 - the author's word
        """Sleep; see ``Step.sleep``."""
        self._bridge.call(lambda: self._step.sleep(id, duration))

    def sleep_until(self, id: str, time: datetime | str) -> None:  # noqa: A002 - the author's word
        """Sleep until a time; see ``Step.sleep_until``."""
        self._bridge.call(lambda: self._step.sleep_until(id, time))

    def wait_for_event(
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: str | None = None,
        since: Literal["run"] | datetime | None = None,
    ) -> Event | None:
        """Wait for an event; return it, or None; see ``Step.wait_for_event``."""
        return self._bridge.call(
            lambda: self._step.wait_for_event(
                id, event=event, timeout=timeout, match=match, if_=if_, since=since
            )
        )

    def wait_for_signal(
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
    ) -> Signal | None:
        """Wait for a signal; return it, or None; see ``Step.wait_for_signal``."""
        return self._bridge.call(
            lambda: self._step.wait_for_signal(
                id, signal=signal, timeout=timeout, on_conflict=on_conflict
            )
        )

    def send_signal(
        self,
        id: str,  # noqa: A002 - the author's word
        signal: str,
        data: object = None,
    ) -> str | None:
        """Send a signal; see ``Step.send_signal``."""
        return self._bridge.call(lambda: self._step.send_signal(id, signal, data))

    def send_event(
        self,
        id: str,  # noqa: A002 - the author's word
        events: Sendable | Sequence[Sendable],
    ) -> list[str]:
        """Send one event or several, once; see ``Step.send_event``."""
        return self._bridge.call(lambda: self._step.send_event(id, events))

    @overload
    def invoke(
        self,
        id: str,
        *,
        function: Invocable[T],
        data: Mapping[str, Any] | None = None,
        timeout: Duration = "366d",
    ) -> T: ...
    @overload
    def invoke(
        self,
        id: str,
        *,
        function: str,
        data: Mapping[str, Any] | None = None,
        timeout: Duration = "366d",
    ) -> Any: ...
    def invoke(
        self,
        id: str,  # noqa: A002 - the author's word
        *,
        function: Invocable[Any] | str,
        data: Mapping[str, Any] | None = None,
        timeout: Duration = "366d",
    ) -> Any:
        """Run another function and return its result; see ``Step.invoke``."""
        return self._bridge.call(
            lambda: self._step.invoke(id, function=function, data=data, timeout=timeout)
        )


class _Request:
    """Something that the thread wants done on the loop."""

    __slots__ = ("answer", "caller", "make")

    def __init__(self, make: Callable[[], Awaitable[Any]], caller: FrameType) -> None:
        self.make, self.caller = make, caller
        self.answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()


class _Ended:
    """The function returned, or raised."""

    __slots__ = ("error", "value")

    def __init__(self, value: object, error: BaseException | None) -> None:
        self.value, self.error = value, error


class ThreadBridge:
    """Runs a plain function in a thread, and on the loop what it asks for.

    Args:
        loop: the user loop.
        scope: the run's scope; it counts as busy while the thread runs user code.
        threads: where the thread comes from.
        mute: says whether the run is being dropped.
    """

    def __init__(
        self, loop: UserLoop, scope: Scope, threads: ThreadPool, mute: Callable[[], bool]
    ) -> None:
        self._loop, self._scope, self._threads, self._mute = loop, scope, threads, mute
        self._handed: asyncio.Future[_Request | _Ended]
        self._left = False

    async def run(self, function: Callable[[], object]) -> object:
        """Run the function to its end. To be the run's main task."""
        context = copy_context()
        context.run(SCOPE.set, None)
        self._hand_over()
        self._threads.submit(lambda: context.run(self._work, function))
        while True:
            handed = await self._next()
            if isinstance(handed, _Ended):
                if handed.error is not None:
                    raise handed.error
                return handed.value
            await self._serve(handed)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop, as the run's own code. Called by the thread."""
        if CURRENT.get() is not None:
            raise NonRetriableError("steps cannot be nested: the body of a step asked for another")
        if self._left:
            raise Parked
        # Past this call and the method of the context: the author's line.
        request = _Request(make, frame_at(2))
        self._loop.call_soon_threadsafe(self._take, request)
        value, error = request.answer.get()
        if error is not None:
            raise error
        result: T = value
        return result

    def _work(self, function: Callable[[], object]) -> None:
        value: object = None
        error: BaseException | None = None
        try:
            value = function()
        except BaseException as raised:  # noqa: BLE001 - it is raised again on the loop
            error = raised
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, _Ended(value, error))

    # On the loop.

    def _hand_over(self) -> None:
        """From here on the thread runs user code."""
        self._handed = asyncio.Future(loop=self._loop)
        self._scope.ready += 1
        self._loop.thread_began()

    def _take(self, handed: _Request | _Ended) -> None:
        self._loop.thread_ended()
        # It is cancelled a turn before the main task, which awaits it, hears of that.
        if not self._left and not self._handed.cancelled():
            self._handed.set_result(handed)
            self._scope.done_one()
        elif isinstance(handed, _Request):
            self._loop.thread_began()
            handed.answer.put((None, Parked()))

    async def _next(self) -> _Request | _Ended:
        try:
            return await self._handed
        except asyncio.CancelledError:
            # The run is dropped while the thread is busy: it hears of it with its next call.
            if not self._handed.done() or self._handed.cancelled():
                self._left = True
                self._scope.ready -= 1
            raise

    def _made(self, request: _Request) -> Awaitable[Any]:
        """Ask for it as if the author's line had, which is in another thread."""
        self._scope.caller = request.caller
        try:
            return request.make()
        finally:
            self._scope.caller = None

    async def _serve(self, request: _Request) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = await self._made(request)
        except asyncio.CancelledError as cancelled:
            error = Parked() if self._mute() else cancelled
        except BaseException as raised:  # noqa: BLE001 - it is raised again in the thread
            error = raised
        self._hand_over()
        request.answer.put((value, error))
