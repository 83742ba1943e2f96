"""A run's scope: what the event loop counts and marks for it.

The scope is found in the context (``contextvars``) of every callback that belongs to a run. It
knows how many of them are ready, which tasks the run has, and what could still come to it from
outside the engine: I/O, threads, ordinary timers.
"""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol, cast
from weakref import WeakSet

from stepfold.origins import Origins

SCOPE: contextvars.ContextVar["Scope | None"] = contextvars.ContextVar(
    "stepfold_scope", default=None
)
"""The scope of the run that the current callback belongs to."""

_TASKS_PURGE_MIN = 32
_SALT_BYTES, _NUMBER_BITS = 4, 24


class EngineFuture(asyncio.Future[Any]):
    """Something durable that a run awaits: the engine has, or will have, its outcome."""


class CoordinationFuture(asyncio.Future[Any]):
    """Made by asyncio to let tasks wait for one another: locks, queues, ``wait`` and the like."""


class RunTask(asyncio.Task[Any]):
    """A task of a run, which lies in sets where it does whenever the run is replayed.

    asyncio cancels the tasks of a ``TaskGroup``, and ``wait`` returns them, in the order of a set,
    which by default is that of addresses in memory.
    """

    def __init__(self, coro: Any, number: int, **options: Any) -> None:
        # First: it is put into a set as it is made.
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class Host(Protocol):
    """Whoever runs the code in a scope."""

    def quiescent(self) -> None:
        """No callback of the run is ready any more."""
        ...

    def time_s(self) -> float:
        """Return the loop's time as the run's own code sees it."""
        ...

    def set_timer(
        self,
        delay_s: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        """Set a durable timer for the run's own code."""
        ...


class Scope:
    """What belongs to one life of a run's code.

    Attributes:
        ready: callbacks that are ready or running.
        timers: ordinary timers that libraries set.
        busy: calls that run in threads of the loop's executor.
        tasks: the run's tasks, in the order in which they were made; ended ones are dropped now
            and then.
        caller: the frame of a plain function, in its thread, that asks for something; None
            while nobody asks from there.
    """

    __slots__ = (
        "_last_number",
        "_outside",
        "_purge_at",
        "busy",
        "caller",
        "host",
        "origins",
        "ready",
        "tasks",
        "timers",
    )

    def __init__(self, host: Host, origins: Origins, run: bytes = b"") -> None:
        self.host, self.origins = host, origins
        # Apart from those of other runs: asyncio keeps the tasks of all of them in one set.
        self._last_number = int.from_bytes(run[-_SALT_BYTES:]) << _NUMBER_BITS
        self.ready = self.timers = self.busy = 0
        self.caller: FrameType | None = None
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._outside: WeakSet[asyncio.Future[Any]] | None = None
        self._purge_at = _TASKS_PURGE_MIN

    def done_one(self) -> None:
        """A callback ran, or was cancelled."""
        self.ready -= 1
        if not self.ready:
            self.host.quiescent()

    def look(self) -> None:
        """Something changed outside the counted callbacks: if none is ready, the host may act."""
        if not self.ready:
            self.host.quiescent()

    def make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """Make a task of the run."""
        self._last_number += 1
        task = RunTask(coro, self._last_number, loop=loop, **options)
        self._add_task(task)
        return task

    def _add_task(self, task: asyncio.Task[Any]) -> None:
        self.tasks[task] = None
        if len(self.tasks) > self._purge_at:
            self.tasks = {task: None for task in self.tasks if not task.done()}
            self._purge_at = max(_TASKS_PURGE_MIN, 2 * len(self.tasks))

    def unended(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, oldest first."""
        return [task for task in self.tasks if not task.done()]

    def future(self, loop: asyncio.AbstractEventLoop, maker: FrameType) -> asyncio.Future[Any]:
        """Make a future for code in this scope; ``maker`` asks for it."""
        module = maker.f_globals.get("__name__")
        if module in _COORDINATION:
            shielded = maker.f_locals.get("inner") if maker.f_code.co_name == "shield" else None
            if shielded is None or self._is_durable(shielded):
                return CoordinationFuture(loop=loop)
        future: asyncio.Future[Any] = asyncio.Future(loop=loop)
        if self._outside is None:
            self._outside = WeakSet()
        self._outside.add(future)
        return future

    def blocked(self) -> bool:
        """Say whether nothing but outcomes from the engine can move the run.

        To be asked when no callback is ready. Costs time in proportion to the run's tasks.
        """
        if self.ready or self.timers or self.busy:
            return False
        if self._outside is not None and any(_is_awaited(future) for future in self._outside):
            return False
        return all(self.task_is_blocked(task) for task in self.tasks if not task.done())

    def task_is_blocked(self, task: asyncio.Task[Any]) -> bool:
        """Say whether a task waits for the engine, or for other tasks of the run."""
        waiter: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
        if waiter is None or not self._is_durable(waiter):
            return False
        if not isinstance(waiter, CoordinationFuture):
            return True
        return all(self._is_durable(future) for future in _waited_for(task))

    def _is_durable(self, future: object) -> bool:
        if isinstance(future, EngineFuture | CoordinationFuture):
            return True
        if not isinstance(future, asyncio.Future):
            return False
        if future.done() or future in self.tasks:
            return True
        known = cast("asyncio.Future[object]", future)  # of an unknown result, to a checker
        children: Sequence[object] | None = getattr(known, "_children", None)  # of gather
        return children is not None and all(self._is_durable(child) for child in children)


_COORDINATION = frozenset(
    f"asyncio.{name}"
    for name in ("tasks", "locks", "queues", "taskgroups", "timeouts", "mixins", "staggered")
)

_WAITERS = {"_wait": "fs", "wait_for": "fut"}
"""asyncio's functions that wait for futures on behalf of others, and where they keep them."""


def _waited_for(task: asyncio.Task[Any]) -> Sequence[object]:
    """Return the futures for which asyncio itself waits at the end of a task."""
    coroutine: Any = task.get_coro()
    inner: Any = getattr(coroutine, "cr_await", None)
    while inner is not None and getattr(inner, "cr_frame", None) is not None:
        coroutine, inner = inner, inner.cr_await
    frame: FrameType | None = getattr(coroutine, "cr_frame", None)
    if frame is None or frame.f_globals.get("__name__") != "asyncio.tasks":
        return ()
    held: Any = frame.f_locals.get(_WAITERS.get(frame.f_code.co_name, ""))
    if held is None:
        return ()
    return [held] if asyncio.isfuture(held) else list(held)


def _is_awaited(future: asyncio.Future[Any]) -> bool:
    return not future.done() and bool(getattr(future, "_callbacks", None))
