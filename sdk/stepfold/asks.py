"""Asks as the driver of a run handles them: what is reported, what is run, who waits."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import CodeType
from typing import Any, Protocol

from stepfold.port import EnginePort
from stepfold.replay import TIMER, Ask
from stepfold.scope import EngineFuture
from stepfold.steps import Body
from stepfold_schemas.entries import Entry
from stepfold_schemas.events import Event
from stepfold_schemas.reports import AskInvoke, ReportItem

Read = Callable[[Entry, "Pending"], Any]
"""Turns an outcome into what the code gets, or raises what it gets."""


REPORT_BYTES_MAX = 4 * 1024 * 1024
"""What one report holds, at most, unless a single item is larger: it becomes one record."""


def parts_of(items: Sequence[ReportItem]) -> Iterator[list[ReportItem]]:
    """Cut what is to be reported into reports that are not too large, in order.

    >>> calls = [AskInvoke(b"", "", "f", b"x" * 3_000_000, 0) for _ in range(3)]
    >>> [len(part) for part in parts_of(calls)]
    [1, 1, 1]
    """
    part: list[ReportItem] = []
    taken = 0
    for item in items:
        size = len(item.data) if isinstance(item, AskInvoke) else 0
        if part and taken + size > REPORT_BYTES_MAX:
            yield part
            part, taken = [], 0
        part.append(item)
        taken += size
    if part:
        yield part


Where = tuple[CodeType, int]
"""A place in code, cheap to note: the code and the offset of an instruction in it."""


class Pending(Ask):
    """Something durable that the code awaits.

    Attributes:
        item: how it is reported; None for steps and timers.
        body: what it does, if it is a step.
        read: what makes a value of its outcome.
        future: what the code awaits, once it does.
        released: it is new, or its step has no outcome: it may start.
        started: an attempt of its step runs, or its outcome is on its way.
        reported: the engine was told of it.
        where: the code that asked, and the instruction in it.
    """

    __slots__ = ("body", "future", "item", "read", "released", "reported", "started", "where")

    future: EngineFuture
    where: Where

    def __init__(
        self, kind: str, name: str, key: bytes, read: Read, item: ReportItem | None = None
    ) -> None:
        super().__init__(kind, name, key)
        self.item, self.read = item, read
        self.body: Body | None = None
        self.released = self.started = self.reported = False


class TimerAsk(Ask):
    """An asyncio timer that the run's own code set.

    Attributes:
        due_s: when it is due, by the loop's real time.
        handle: what the code holds of it.
        reported: the engine was told of it.
        where: the code that asked, and the instruction in it.
    """

    __slots__ = ("due_s", "handle", "reported", "where")

    handle: "DurableTimer"
    where: Where

    def __init__(self, name: str, key: bytes, due_s: float) -> None:
        super().__init__(TIMER, name, key)
        self.due_s = due_s
        self.reported = False


class DurableTimer(asyncio.TimerHandle):
    """A timer that lies in the run's journal. ``fire`` calls back."""

    __slots__ = ("_call", "_given_context", "_given_loop", "_on_cancel")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
        on_cancel: Callable[[], None],
    ) -> None:
        context = context if context is not None else contextvars.copy_context()
        super().__init__(when, callback, args, loop, context)
        self._call, self._given_context, self._given_loop = (callback, args), context, loop
        self._on_cancel = on_cancel

    def fire(self) -> None:
        """Have the callback called in the loop's next turn."""
        callback, args = self._call
        self._given_loop.call_soon(callback, *args, context=self._given_context)

    def cancel(self) -> None:
        """Take the timer back."""
        if not self.cancelled():
            super().cancel()
            self._on_cancel()


class Durable(Protocol):
    """What a context needs of the life of the run that it belongs to."""

    @property
    def run(self) -> bytes:
        """The run's id."""
        ...

    @property
    def seed(self) -> bytes:
        """What its random numbers are made of."""
        ...

    @property
    def attempt(self) -> int:
        """Which attempt of the function's own code this is, from 1."""
        ...

    @property
    def events(self) -> Sequence[Event]:
        """What started the run."""
        ...

    @property
    def function_id(self) -> str:
        """The function's full id."""
        ...

    @property
    def engine(self) -> EnginePort:
        """Where step bodies of our own publish events and send signals."""
        ...

    @property
    def silent(self) -> bool:
        """Whether what the code does now was done before, so that it should not be logged."""
        ...

    def now_ms(self) -> int:
        """Return the time that replays the same."""
        ...

    def wall_ms(self) -> int:
        """Return the wall clock."""
        ...

    def begin(self, id: str) -> tuple[str, bytes]:  # noqa: A002 - the author's word
        """Count a use of an id by the run's own code; return the name and key of this use."""
        ...

    def perform(self, ask: Pending) -> Coroutine[Any, Any, Any]:
        """Ask for something durable and wait for its outcome."""
        ...

    def version(self, name: str) -> bool:
        """Say on which side of a change the run is; decided and recorded once."""
        ...

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        ...
