"""Takes the turns that asyncio would take, for programs written as generators.

A second, plain implementation of the few parts of asyncio that random programs use, so that an
oracle can tell what a program must do with given outcomes without running it. A program yields
what it waits for; nothing happens by itself: ``deliver`` gives one outcome, and ``settle`` goes on
until nothing is ready. Turns are counted as asyncio counts them: what becomes ready goes to the
end of a queue.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Program = Generator["Wait", Any, None]


class CancelledError(Exception):
    """The task was cancelled."""


class GroupError(Exception):
    """What a task group raises: the errors of its tasks."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = errors


@dataclass(eq=False, slots=True)
class Wait:
    """Something that a task waits for.

    Attributes:
        cancel: what is done when the waiting task is cancelled; it says whether the task is
            resumed by that alone, with ``CancelledError``.
        task: who waits.
    """

    cancel: Callable[[], bool]
    task: "Task | None" = None


@dataclass(eq=False, slots=True)
class Task:
    """A program under way. ``watchers`` are called, in a later turn, when it has ended."""

    program: Program
    wait: Wait | None = None
    ended: bool = False
    error: Exception | None = None
    cancelling: int = 0
    must_cancel: bool = False
    watchers: list[Callable[["Task"], None]] = field(default_factory=list[Callable[["Task"], None]])

    @property
    def cancelled(self) -> bool:
        return isinstance(self.error, CancelledError)


class Turns:
    """The loop.

    Attributes:
        asked: durable operations that are awaited, by name: what to call with the outcome.
        gone: names of those that are no longer awaited.
        current: the task whose turn it is.
    """

    def __init__(self) -> None:
        self.asked: dict[str, Callable[[Any], None]] = {}
        self.gone: set[str] = set()
        self.current: Task
        self._ready: deque[Callable[[], None]] = deque()

    def spawn(self, program: Program) -> Task:
        """Make a task."""
        task = Task(program)
        self._ready.append(lambda: self._step(task, None, None))
        return task

    def settle(self) -> None:
        """Go on until nothing is ready."""
        while self._ready:
            self._ready.popleft()()

    def deliver(self, name: str, outcome: Any) -> None:
        """Give the outcome of something that is awaited, and go on."""
        self.asked.pop(name)(outcome)
        self.settle()

    def soon(self, call: Callable[[], None]) -> None:
        """Call in a later turn."""
        self._ready.append(call)

    def resume(self, wait: Wait, value: Any = None, error: Exception | None = None) -> None:
        """Let the task that waits go on, in a later turn, unless it was resumed already."""
        task = wait.task
        if task is None:
            return
        wait.task = None
        self._ready.append(lambda: self._step(task, value, error))

    def cancel(self, task: Task) -> None:
        """Cancel a task, as ``Task.cancel`` does."""
        if task.ended:
            return
        task.cancelling += 1
        wait = task.wait
        if wait is None or wait.task is None:
            task.must_cancel = True
        elif wait.cancel():
            self.resume(wait, error=CancelledError())

    def _step(self, task: Task, value: Any, error: Exception | None) -> None:
        if task.must_cancel:
            task.must_cancel = False
            error = CancelledError()
        task.wait, self.current = None, task
        try:
            wait = task.program.throw(error) if error is not None else task.program.send(value)
        except StopIteration:
            self._end(task, None)
        except Exception as raised:
            self._end(task, raised)
        else:
            task.wait, wait.task = wait, task
            if task.must_cancel and wait.cancel():
                task.must_cancel = False
                self.resume(wait, error=CancelledError())

    def _end(self, task: Task, error: Exception | None) -> None:
        task.ended, task.error = True, error
        for watcher in task.watchers:
            self._ready.append(partial(watcher, task))

    # What programs wait for.

    def ask(self, name: str) -> Wait:
        """Wait for the outcome of a durable operation."""

        def cancel() -> bool:
            self.forget(name)
            return True

        wait = Wait(cancel)
        self.asked[name] = lambda outcome: self.resume(wait, outcome)
        return wait

    def forget(self, name: str) -> None:
        """Take back what was asked for; its outcome no longer counts."""
        if self.asked.pop(name, None) is not None:
            self.gone.add(name)

    def gather(self, tasks: Sequence[Task]) -> Wait:
        """Wait for all, or for the first error."""
        left = len(tasks)

        def watch(task: Task) -> None:
            nonlocal left
            left -= 1
            if task.error is not None:
                self.resume(wait, error=task.error)
            elif not left:
                self.resume(wait, error=CancelledError() if cancelled else None)

        cancelled = False

        def cancel() -> bool:
            nonlocal cancelled
            cancelled = True
            for task in tasks:
                self.cancel(task)
            return False

        wait = Wait(cancel)
        for task in tasks:
            task.watchers.append(watch)
        return wait

    def all_ended(self, tasks: Sequence[Task]) -> Wait:
        """Wait until all have ended, however; a cancellation is passed on to them."""
        left = len([task for task in tasks if not task.ended])
        cancelled = False

        def watch(_: Task) -> None:
            nonlocal left
            left -= 1
            if not left:
                self.resume(wait, error=CancelledError() if cancelled else None)

        def cancel() -> bool:
            nonlocal cancelled
            cancelled = True
            for task in tasks:
                self.cancel(task)
            return False

        wait = Wait(cancel)
        for task in tasks:
            if not task.ended:
                task.watchers.append(watch)
        if not left:
            self.soon(lambda: self.resume(wait))
        return wait

    def first_ended(self, tasks: Sequence[Task]) -> Wait:
        """Wait until one has ended; a cancellation leaves them alone."""
        wait = Wait(lambda: True)
        for task in tasks:
            task.watchers.append(lambda _: self.resume(wait))
        return wait


def group(turns: Turns, programs: Sequence[Program]) -> Program:
    """Be a ``TaskGroup``: an error, or a cancellation from outside, cancels the others."""
    tasks = [turns.spawn(program) for program in programs]
    errors: list[Exception] = []
    aborted = False

    def abort() -> None:
        nonlocal aborted
        aborted = True
        for task in tasks:
            turns.cancel(task)

    def watch(task: Task) -> None:
        if task.error is not None and not task.cancelled:
            errors.append(task.error)
            if not aborted:
                abort()

    for task in tasks:
        task.watchers.append(watch)
    outer = False
    while not all(task.ended for task in tasks):
        wait = turns.all_ended(tasks)
        wait.cancel = lambda: True
        try:
            yield wait
        except CancelledError:
            outer = True
            if not aborted:
                abort()
    if outer and not errors:
        raise CancelledError
    if errors:
        raise GroupError(errors)


class Lock:
    """``asyncio.Lock``: first come, first served."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._locked = False
        self._waiting: deque[Wait] = deque()

    def acquire(self) -> Program:
        """Wait for the lock."""
        if not self._locked and not self._waiting:
            self._locked = True
            return
        wait = Wait(lambda: True)
        self._waiting.append(wait)
        try:
            yield wait
        except CancelledError:
            self._waiting.remove(wait)
            if not self._locked:
                self._wake()
            raise
        self._waiting.remove(wait)
        self._locked = True

    def release(self) -> None:
        """Let the next one have it."""
        self._locked = False
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._turns.resume(self._waiting[0])
