"""Bodies: what runs when an attempt of a step begins, and where a process may die in it."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, Protocol, TypeVar

from stepfold import asked
from stepfold.attempts import Attempt
from stepfold.steps import Body
from stepfold.testing.points import BodyPoint
from stepfold.testing.stubs import Call, Stub
from stepfold.testing.witness import Witness

T = TypeVar("T")

BEFORE, AFTER = 0, -1
"""Where in a body: see ``BodyPoint.where``."""

AWAITS_MAX = 20
"""At how many of its awaits a body may be left; a loop over a stream would have thousands."""


@dataclass(frozen=True, slots=True)
class BodyRun:
    """A body that ran, or a stub in its place.

    Attributes:
        function: the function's full id.
        run: which run of that function, from 1.
        step: the step's name.
        attempt: which attempt.
        life: which process ran it, from 1.
    """

    function: str
    run: int
    step: str
    attempt: int
    life: int


@dataclass(slots=True)
class Notes:
    """What the code of runs asked for, and how it ended last, as text; by run, and by name."""

    asks: dict[bytes, dict[str, str]] = field(default_factory=dict[bytes, dict[str, str]])
    ends: dict[bytes, str] = field(default_factory=dict[bytes, str])


class Dying(Protocol):
    """The process that runs bodies."""

    number: int
    dead: bool

    def reach(self, point: BodyPoint, shown: str) -> bool:
        """Say whether the process dies here."""
        ...

    def die(self) -> None:
        """Die at once; on the process's loop."""
        ...


class Bodies:
    """Chooses what attempts run, and keeps count. One for all lives of an environment.

    Attributes:
        stubs: what stands for bodies; the first that serves is taken.
        ran: every body that began.
        notes: what the code of runs asks for, if that is to be noted.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.notes: Notes | None = None
        self.stubs: list[Stub] = []
        self.ran: list[BodyRun] = []
        self._under_way: dict[Attempt, int] = {}
        self._lock = threading.Lock()
        self._in_threads = threading.Condition(self._lock)
        self._threads = 0

    def note(self, run: bytes, name: str, text_of: Callable[[T], str], what: T) -> None:
        """Note what a run's code asks for, if that is to be noted."""
        if self.notes is not None:
            self.notes.asks.setdefault(run, {}).setdefault(name, text_of(what))

    def keep_notes(self) -> Notes:
        """Note from now on what code asks for; return where."""
        self.notes = Notes()
        return self.notes

    def under_way(self, run: bytes) -> list[str]:
        """Return the steps of a run whose bodies run now."""
        return [a.name for a in list(self._under_way) if a.run == run]

    @property
    def any_under_way(self) -> bool:
        """Whether the body of any step runs now."""
        return bool(self._under_way)

    def forget(self, life: int) -> None:
        """The process is dead: none of its bodies run any more."""
        for attempt in [a for a, of in self._under_way.items() if of == life]:
            del self._under_way[attempt]

    def wait_for_threads(self, seconds_max: float) -> bool:
        """Wait until no body runs in a thread; say whether that is so now."""
        with self._in_threads:
            return self._in_threads.wait_for(lambda: not self._threads, seconds_max)

    def choose(self, life: Dying, attempt: Attempt) -> Body:
        """Return what an attempt runs. On the loop of the process."""
        story = self._witness.stories[attempt.run]
        body = attempt.body
        where = _Where(life, story.function, story.number, attempt.name, attempt.number)
        if life.dead or where.dies(BEFORE):
            return _with(body, never)
        self.ran.append(BodyRun(where.function, where.run, where.step, where.attempt, life.number))
        if not asked.is_own(body):
            self.note(attempt.run, attempt.name, asked.of_body, body)
        self._under_way[attempt] = life.number
        stub = next((s for s in self.stubs if s.serves(story.function, attempt.name)), None)
        if stub is not None:
            call = Call(attempt.name, attempt.number, body.args, dict(body.kwargs))
            return _with(body, self._in_loop(stub.body(call), attempt, where))
        if body.is_async:
            return _with(body, self._in_loop(body.call, attempt, where))
        return _with(body, self._in_thread(body.call, attempt, where))

    def _in_loop(
        self, call: Callable[..., Any], attempt: Attempt, where: "_Where"
    ) -> Callable[..., Any]:
        async def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return await _guarded(call(*args, **kwargs), where)
            finally:
                self._under_way.pop(attempt, None)

        return run

    def _in_thread(
        self, call: Callable[..., Any], attempt: Attempt, where: "_Where"
    ) -> Callable[..., Any]:
        with self._lock:
            self._threads += 1

        def run(*args: Any, **kwargs: Any) -> Any:
            handed_on = False
            try:
                value = call(*args, **kwargs)
                if inspect.isawaitable(value):
                    handed_on = True
                    return self._in_loop(lambda: value, attempt, where)()
                return value
            finally:
                if not handed_on:
                    self._under_way.pop(attempt, None)
                    if where.reached(AFTER):
                        # In line before the outcome, which therefore goes nowhere.
                        attempt.loop.call_soon_threadsafe(where.life.die)
                with self._in_threads:
                    self._threads -= 1
                    self._in_threads.notify_all()

        return run


@dataclass(slots=True)
class _Where:
    """Where in which body the process is."""

    life: Dying
    function: str
    run: int
    step: str
    attempt: int

    def reached(self, where: int) -> bool:
        """Say whether the process dies here; it is not dead yet."""
        point = BodyPoint(self.function, self.run, self.step, self.attempt, where)
        return not self.life.dead and self.life.reach(point, self._shown(where))

    def dies(self, where: int) -> bool:
        """Die here, or say that the process goes on. On its loop."""
        if not self.reached(where):
            return False
        self.life.die()
        return True

    def _shown(self, where: int) -> str:
        step = f"the body of step {self.step!r}"
        if self.attempt > 1:
            step += f" (attempt {self.attempt})"
        if where == BEFORE:
            return f"before {step}"
        if where == AFTER:
            return f"after {step}, before its outcome is recorded"
        return f"in {step}, at its await number {where}"


async def _guarded(work: Awaitable[Any], where: _Where) -> Any:
    try:
        value = await _stepped(work, where)
    except Exception:
        if where.dies(AFTER):
            await never()
        raise
    if where.dies(AFTER):
        await never()
    return value


@coroutine
def _stepped(work: Awaitable[Any], where: _Where) -> Generator[Any, Any, Any]:
    """Await something; die at one of its awaits, if the process is to."""
    inner = work.__await__()
    awaits = 0
    sent: Any = None
    error: BaseException | None = None
    while True:
        try:
            yielded = inner.send(sent) if error is None else inner.throw(error)
        except StopIteration as stop:
            return stop.value
        sent = error = None
        awaits += 1
        if awaits <= AWAITS_MAX:
            where.dies(awaits)
        try:
            sent = yield yielded
        except BaseException as thrown:  # noqa: BLE001 - given on to what is awaited
            error = thrown


async def never(*_: Any, **__: Any) -> None:
    """Wait for ever, as code of a dead process."""
    await asyncio.get_running_loop().create_future()


def _with(body: Body, call: Callable[..., Any]) -> Body:
    """Return the same body, but with another call."""
    return Body(call, body.args, body.kwargs, body.policy, body.reader, body.context)
