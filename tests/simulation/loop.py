"""An event loop in virtual time on which several simulated processes live.

Every callback belongs to a lane: a process has two, as it has two threads (the engine's and that
of user code). Within a lane callbacks run in the order in which they became ready, as asyncio
promises; which lane comes next is drawn from the seed. A lane can be stopped at any callback and go
on later, or never: that is what SIGSTOP, SIGKILL and blocking code look like from inside.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVarTuple

from stepfold.virtual import DeadlockError, VirtualLoop

Ts = TypeVarTuple("Ts")


TURNS_MAX = 200_000
"""So many callbacks without any time passing are a busy loop."""


class LivelockError(RuntimeError):
    """A process does the same again and again and never waits."""


class Lane:
    """What one thread of one process has to do."""

    __slots__ = ("name", "ready", "stopped")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.stopped = 0
        """How many reasons there are not to go on."""


LANE: ContextVar[Lane] = ContextVar("simulation_lane")
"""The lane that a callback belongs to; one without belongs to where it was made."""


class Lanes:
    """The ready callbacks of all lanes. Takes the place of the loop's own queue."""

    def __init__(self, rng: random.Random, world: Lane) -> None:
        self._rng = rng
        self.current = world
        self.lanes = [world]
        self._turns = 0

    def append(self, handle: asyncio.Handle) -> None:
        # Who makes a timer in a context without a lane would be forgotten by the time it fires.
        lane = handle._context[LANE]  # type: ignore[attr-defined]
        if lane not in self.lanes:
            self.lanes.append(lane)
        lane.ready.append(handle)

    def popleft(self) -> asyncio.Handle:
        ready = [lane for lane in self.lanes if lane.ready and not lane.stopped]
        if not ready:
            # The loop asks for as many as there were before it began to run them; one of them has
            # stopped the lanes of the others.
            return _NOTHING
        self.current = ready[0] if len(ready) == 1 else self._rng.choice(ready)
        handle = self.current.ready.popleft()
        self._turns += 1
        if self._turns > TURNS_MAX:
            raise LivelockError(f"{self.current.name} is busy for ever with {handle!r}")
        return handle

    def time_passed(self) -> None:
        """Nothing is ready: time goes on."""
        self._turns = 0

    def __len__(self) -> int:
        # Loops, not generators: every turn asks.
        count = 0
        for lane in self.lanes:
            if not lane.stopped:
                count += len(lane.ready)
        return count

    def __bool__(self) -> bool:
        for lane in self.lanes:  # noqa: SIM110 - see __len__
            if lane.ready and not lane.stopped:
                return True
        return False

    def __iter__(self) -> Iterator[asyncio.Handle]:
        return iter([handle for lane in self.lanes for handle in lane.ready])

    def clear(self) -> None:
        for lane in self.lanes:
            lane.ready.clear()


class SimLoop(VirtualLoop):
    """A ``VirtualLoop`` with lanes."""

    def __init__(self, rng: random.Random, start_ms: int) -> None:
        super().__init__(start_ms)
        self.world = Lane("world")
        self.lanes = Lanes(rng, self.world)
        self._ready = self.lanes  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] - has what the base loop uses

        selector: Any = self._selector  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] - the base loop's
        selector.select = self._select

    def _select(self, timeout: float | None = None) -> list[Any]:
        """Let time pass. There are no sockets and no threads, so the system is not asked."""
        if timeout is None:
            raise DeadlockError("the simulation waits for something that never comes")
        if timeout > 0:
            self.advance(timeout)
        return []

    def advance(self, seconds: float) -> None:
        if seconds > 0:
            self.lanes.time_passed()
        super().advance(seconds)

    @contextmanager
    def lane(self, lane: Lane) -> Iterator[None]:
        """Let what the block makes belong to a lane."""
        before, self.lanes.current = self.lanes.current, lane
        token = LANE.set(lane)
        try:
            yield
        finally:
            LANE.reset(token)
            self.lanes.current = before

    def _owned(self, context: Context | None) -> Context | None:
        """Give a context without a lane the lane of who made the callback."""
        if context is None:
            context = copy_context()
        if LANE not in context:
            context = context.copy()
            context.run(LANE.set, self.lanes.current)
        return context

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(callback, *args, context=self._owned(context))

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        # There is one thread; what belongs to others is in other lanes.
        return self.call_soon(callback, *args, context=context)


class _Nothing:
    """A handle that was cancelled: the loop passes over it."""

    _cancelled = True


_NOTHING: Any = _Nothing()
