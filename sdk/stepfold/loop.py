"""The user loop: asyncio's, but it knows which run each callback belongs to.

It counts the ready callbacks of every run, marks futures by who made them, and turns the timers of
a run's own code into durable ones. Callbacks that belong to no run cost a look into the context.
"""

import asyncio
import heapq
import selectors
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from stepfold.errors import Parked
from stepfold.origins import frame_at
from stepfold.scope import SCOPE, Scope

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class _ScopedHandle(asyncio.Handle):
    """A ready callback of a run."""

    __slots__ = ("_scope", "_scope_loop")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
        scope: Scope,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self._scope_loop = loop
        self._scope: Scope | None = scope
        scope.ready += 1

    def _run(self) -> None:
        scope, self._scope = self._scope, None
        try:
            super()._run()
        except SystemExit:
            # A task of the run has it, and gives it to whoever awaits that task.
            pass
        finally:
            if scope is not None:
                scope.ready -= 1
                if not scope.ready:
                    scope.host.quiescent()

    def cancel(self) -> None:
        super().cancel()
        # The loop drops a cancelled handle without running it.
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.ready -= 1
            if not scope.ready:
                # Somebody else's callback cancelled it; the run has its turn in the next one.
                self._scope_loop.call_soon(scope.look, context=Context())


class _ScopedTimer(asyncio.TimerHandle):
    """An ordinary timer, set by a library that a run's code called."""

    __slots__ = ("_scope",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
        scope: Scope,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._scope: Scope | None = scope
        scope.timers += 1

    def _run(self) -> None:
        scope, self._scope = self._scope, None
        if scope is None:
            super()._run()
            return
        scope.timers -= 1
        scope.ready += 1
        try:
            super()._run()
        finally:
            scope.done_one()

    def cancel(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.timers -= 1
        super().cancel()


class _NotedSelector(selectors.DefaultSelector):
    """Notes when the loop waits, so that a watchdog can tell waiting from being blocked."""

    loop: "UserLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self.loop
        loop.waits = True
        try:
            return super().select(timeout)
        finally:
            loop.waits = False
            loop.turns += 1


class UserLoop(asyncio.SelectorEventLoop):
    """An event loop for user code.

    Attributes:
        turns: how often it has begun a turn.
        waits: nothing is ready: it waits for I/O, a timer or another thread.
        left_alone: tasks of ended lives that went on although they were cancelled.
    """

    # What asyncio's base loop has, which its stub leaves out.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self.turns, self.waits = 0, False
        self.left_alone: list[asyncio.Task[Any]] = []
        if selector is None:
            selector = _NotedSelector()
            selector.loop = self
        super().__init__(selector)

    @property
    def thread_id(self) -> int | None:
        """The thread that it runs in; None while it does not run."""
        return self._thread_id

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def thread_began(self) -> None:
        """A thread works for this loop from now on."""

    def thread_ended(self) -> None:
        """A thread that worked for this loop has handed over what it did."""

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back in the next turn; see asyncio."""
        scope = SCOPE.get() if context is None else context.get(SCOPE)
        if scope is None:
            return super().call_soon(callback, *args, context=context)
        handle = _ScopedHandle(callback, args, self, context, scope)
        self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a time of this loop; see asyncio. In a run's own code, durably."""
        scope = SCOPE.get() if context is None else context.get(SCOPE)
        if scope is None:
            return super().call_at(when, callback, *args, context=context)
        if scope.origins.owns(frame_at(1)):
            return scope.host.set_timer(when - scope.host.time_s(), callback, args, context)
        timer = _ScopedTimer(when, callback, args, self, context, scope)
        heapq.heappush(self._scheduled, timer)
        # As the base loop does: it counts the cancelled timers among those in its heap.
        timer._scheduled = True  # type: ignore[attr-defined] # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue] - see above
        return timer

    def time(self) -> float:
        """Return the loop's time; in a run's own code, one that replays the same."""
        scope = SCOPE.get()
        if scope is None or not scope.origins.owns(frame_at(1)):
            return self.real_time()
        return scope.host.time_s()

    def real_time(self) -> float:
        """Return the loop's time, whoever asks."""
        return time.monotonic()

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future; in a run's code, remember what kind of code made it."""
        scope = SCOPE.get()
        if scope is None:
            return asyncio.Future(loop=self)
        return scope.future(self, frame_at(1))

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task; in a run's code, one of the run's."""
        context: Context | None = options.get("context")
        scope = SCOPE.get() if context is None else context.get(SCOPE)
        if scope is None or self.is_closed():
            return super().create_task(coro, **options)
        return scope.make_task(self, coro, **options)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call a function in a thread; in a run's code, note that it is under way."""
        future = super().run_in_executor(executor, func, *args)
        self.thread_began()
        scope = SCOPE.get()
        if scope is not None:
            scope.busy += 1
        # In a context of its own, else it would count as a callback of the run.
        future.add_done_callback(lambda _: self._call_ended(scope), context=Context())
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell of an exception that nobody handled; not of those with which runs are dropped."""
        if not isinstance(context.get("exception"), asyncio.CancelledError | Parked):
            super().call_exception_handler(context)

    def _call_ended(self, scope: Scope | None) -> None:
        self.thread_ended()
        if scope is not None:
            scope.busy -= 1
            scope.look()
