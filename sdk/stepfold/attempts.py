"""Attempts: the bodies of steps as they run, whatever becomes of the code that waits for them.

Rules:

* An attempt is known by run, step and number. The same one is never started twice while it runs,
  nor after it ended, until its outcome has come back as a fact.
* Its outcome goes straight to the engine. The run's code learns of it by the fact alone.
* It outlives the life of the run's code that started it; it ends with the run.
* What was cancelled or took too long no longer counts: whatever it still does is ignored.
"""

import asyncio
import contextlib
import contextvars
import enum
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stepfold import serde, tracebacks
from stepfold.errors import is_permanent, retry_after_ms
from stepfold.loop import UserLoop
from stepfold.port import NO_SESSION, EnginePort
from stepfold.scope import SCOPE
from stepfold.steps import CURRENT, Body
from stepfold.threads import ThreadPool
from stepfold_schemas.entries import Error
from stepfold_schemas.reports import AttemptFailed, AttemptRunning, AttemptSucceeded

RUNNING_AFTER_S = 1.0
"""An attempt that has run for this long is reported, so that people can see it."""


class _State(enum.Enum):
    RUNNING = "running"
    ENDED = "ended"
    IGNORED = "ignored"


class Attempt:
    """One try of a step's body."""

    __slots__ = (
        "body",
        "context",
        "key",
        "loop",
        "name",
        "number",
        "outcome",
        "run",
        "started_ms",
        "started_s",
        "state",
        "task",
        "thread",
        "timer",
    )

    def __init__(self, run: bytes, key: bytes, name: str, number: int, body: Body) -> None:
        self.run, self.key, self.name, self.number, self.body = run, key, name, number, body
        self.state = _State.RUNNING
        self.started_ms, self.started_s = 0, 0.0
        # A copy: the thread of an earlier attempt may still be in its own.
        self.context = body.context.copy()
        self.loop: UserLoop
        self.task: asyncio.Task[None] | None = None
        self.thread = 0
        self.timer: asyncio.TimerHandle | None = None
        self.outcome: AttemptSucceeded | AttemptFailed | None = None


BodyOf = Callable[[Attempt], Body]
"""Says what an attempt runs: its step's body, or something else in a test."""


def own_body(attempt: Attempt) -> Body:
    """Return the body of the attempt's step."""
    return attempt.body


@dataclass(frozen=True, slots=True)
class Shared:
    """What the runners of one worker share: each has a loop of its own.

    Attributes:
        engine: where outcomes go.
        threads: where plain functions run.
        outcome_bytes_max: the largest result.
        attempts: the attempts that run, or whose outcomes did not come back yet, by run and step.
    """

    engine: EnginePort
    threads: ThreadPool
    outcome_bytes_max: int
    attempts: dict[bytes, dict[bytes, Attempt]] = field(
        default_factory=dict[bytes, dict[bytes, Attempt]]
    )

    def disregard(self, run: bytes) -> None:
        """Let what still runs of a run not count any more; thread-safe.

        Its loop, which may be blocked, hears of that later: what ends there before would be
        recorded, and yet run again by the run's next life.
        """
        for attempt in list(self.attempts.get(run, {}).values()):
            if attempt.state is _State.RUNNING:
                attempt.state = _State.IGNORED


class AttemptRunner:
    """Runs attempts on one loop and reports their outcomes."""

    def __init__(self, shared: Shared, loop: UserLoop, body_of: BodyOf) -> None:
        self._body_of = body_of
        self._engine, self._threads = shared.engine, shared.threads
        self._attempts = shared.attempts
        self._bytes_max, self._loop = shared.outcome_bytes_max, loop
        self._young: dict[Attempt, None] = {}
        self._sweeping = False

    def start(self, attempt: Attempt) -> None:
        """Run an attempt, unless it runs or has ended already."""
        of_run = self._attempts.setdefault(attempt.run, {})
        known = of_run.get(attempt.key)
        if known is not None and known.number >= attempt.number:
            return
        of_run[attempt.key] = attempt
        attempt.body = self._body_of(attempt)
        loop = attempt.loop = self._loop
        attempt.started_ms = loop.now_ms()
        attempt.started_s = loop.real_time()
        self._watch(attempt)
        attempt.context.run(_enter, attempt)
        if attempt.body.is_async:
            attempt.task = loop.create_task(self.run_async(attempt), context=attempt.context)
            self._limit(attempt)
        else:
            loop.thread_began()
            self._threads.submit(lambda: self._run_in_thread(attempt))

    def cancel(self, run: bytes, key: bytes) -> bool:
        """Stop an attempt that nobody waits for; its outcome is ignored.

        Return whether there was one.
        """
        of_run = self._attempts.get(run)
        attempt = of_run.pop(key, None) if of_run is not None else None
        if attempt is None:
            return False
        self._ignore(attempt)
        return True

    def stop(self, run: bytes) -> None:
        """Stop all attempts of a run; their outcomes are ignored."""
        for attempt in self._attempts.pop(run, {}).values():
            self._ignore(attempt)

    def settled(self, run: bytes, key: bytes, number: int) -> None:
        """Forget an attempt whose outcome has come back as a fact."""
        of_run = self._attempts.get(run)
        if of_run is None:
            return
        attempt = of_run.get(key)
        if attempt is None or attempt.number > number:
            return
        del of_run[key]
        if not of_run:
            del self._attempts[run]
        if attempt.state is _State.RUNNING:
            # Another process recorded this one's outcome, or the step was refused.
            self._ignore(attempt)

    def offer_again(self, run: bytes) -> None:
        """Report the outcomes of a run again that have not come back as facts.

        The engine may have refused them when it did not own the run.
        """
        items = [a.outcome for a in self._attempts.get(run, {}).values() if a.outcome is not None]
        for item in items:
            # One by one: each may be as large as a record of the journal holds.
            self._engine.report(run, NO_SESSION, [item])

    def runs(self) -> list[bytes]:
        """Return the runs that have attempts."""
        return list(self._attempts)

    def running(self) -> list[Attempt]:
        """Return the attempts that run now."""
        found = [a for of_run in list(self._attempts.values()) for a in list(of_run.values())]
        return [a for a in found if a.state is _State.RUNNING]

    # One attempt.

    async def run_async(self, attempt: Attempt) -> None:
        """Run a body on the loop. Public for the watchdog, which knows attempts by this frame."""
        body = attempt.body
        if attempt.state is not _State.RUNNING:
            return  # it was disregarded before its loop, which was blocked, came to it
        try:
            value = await body.call(*body.args, **body.kwargs)
        except KeyboardInterrupt:
            raise
        except asyncio.CancelledError as error:
            if attempt.state is not _State.RUNNING:
                raise
            self._end(attempt, self._failed(attempt, error))
        except BaseException as error:  # noqa: BLE001 - a step's failure, whatever it is, is recorded
            self._end(attempt, self._failed(attempt, error))
        else:
            self._end(attempt, self._succeeded(attempt, value))

    def _run_in_thread(self, attempt: Attempt) -> None:
        body, loop = attempt.body, attempt.loop
        attempt.thread = threading.get_ident()
        if attempt.state is not _State.RUNNING:
            with contextlib.suppress(RuntimeError):  # as below
                loop.call_soon_threadsafe(self._thread_ended, attempt, lambda: None)
            return
        if body.policy.timeout_ms:
            loop.call_soon_threadsafe(self._limit, attempt)
        then: Callable[[], None]
        try:
            value = attempt.context.run(body.call, *body.args, **body.kwargs)
            if inspect.isawaitable(value):
                then = partial(self._await, attempt, value)
            else:
                then = partial(self._end, attempt, self._succeeded(attempt, value))
        except BaseException as error:  # noqa: BLE001 - as above
            then = partial(self._end, attempt, self._failed(attempt, error))
        try:
            loop.call_soon_threadsafe(self._thread_ended, attempt, then)
        except RuntimeError:
            # The loop is closed: the worker has stopped, and nobody waits for this.
            return

    def _thread_ended(self, attempt: Attempt, then: Callable[[], None]) -> None:
        attempt.thread = 0
        attempt.loop.thread_ended()
        if attempt.state is _State.RUNNING:
            then()

    def _await(self, attempt: Attempt, value: Any) -> None:
        """Await what a plain function returned, such as a lambda that calls an async one."""
        body = attempt.body
        attempt.body = Body(lambda: value, (), {}, body.policy, body.reader, body.context)
        attempt.task = attempt.loop.create_task(self.run_async(attempt), context=attempt.context)

    def _succeeded(self, attempt: Attempt, value: object) -> AttemptSucceeded | AttemptFailed:
        try:
            data = serde.dumps(value)
            if attempt.body.reader is not None:
                attempt.body.reader(data)
        except serde.UnserializableError as error:
            text = f"step {attempt.name!r} returned what JSON cannot hold: {error}"
            return self._refused(attempt, Error("UnserializableError", text))
        if len(data) > self._bytes_max:
            text = (
                f"step {attempt.name!r} returned {len(data)} bytes of JSON; the limit is"
                f" {self._bytes_max}. Return a reference to large data, not the data"
            )
            return self._refused(attempt, Error("OutcomeTooLargeError", text))
        return AttemptSucceeded(attempt.key, attempt.name, attempt.number, attempt.started_ms, data)

    def _refused(self, attempt: Attempt, error: Error) -> AttemptFailed:
        return AttemptFailed(
            attempt.key,
            attempt.name,
            attempt.number,
            attempt.started_ms,
            error,
            attempt.body.policy.retry,
            permanent=True,
        )

    def _failed(self, attempt: Attempt, error: BaseException) -> AttemptFailed:
        return AttemptFailed(
            attempt.key,
            attempt.name,
            attempt.number,
            attempt.started_ms,
            tracebacks.recorded(error),
            attempt.body.policy.retry,
            is_permanent(error),
            retry_after_ms(error, attempt.loop.now_ms()),
        )

    def _end(self, attempt: Attempt, outcome: AttemptSucceeded | AttemptFailed) -> None:
        if attempt.state is not _State.RUNNING:
            return
        attempt.state = _State.ENDED
        attempt.outcome = outcome
        self._young.pop(attempt, None)
        if attempt.timer is not None:
            attempt.timer.cancel()
        self._report(attempt.run, outcome)

    def _report(self, run: bytes, item: AttemptSucceeded | AttemptFailed | AttemptRunning) -> None:
        # Outside the body's context: the engine may be on this loop, and must not inherit it.
        contextvars.Context().run(self._engine.report, run, NO_SESSION, [item])

    def _ignore(self, attempt: Attempt) -> None:
        attempt.state = _State.IGNORED
        if attempt.loop.is_closed():
            return
        attempt.loop.call_soon_threadsafe(self._let_go, attempt)

    def _let_go(self, attempt: Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.task is not None:
            attempt.task.cancel()
        if attempt.thread:
            self._threads.give_up(attempt.thread)

    # Time.

    def _limit(self, attempt: Attempt) -> None:
        timeout_ms = attempt.body.policy.timeout_ms
        if timeout_ms and attempt.state is _State.RUNNING:
            attempt.timer = attempt.loop.call_later(timeout_ms / 1000, self._time_out, attempt)

    def _time_out(self, attempt: Attempt) -> None:
        if attempt.state is not _State.RUNNING:
            return
        seconds = attempt.body.policy.timeout_ms / 1000
        text = f"step {attempt.name!r}: attempt {attempt.number} took longer than its timeout"
        self._end(attempt, self._failed(attempt, TimeoutError(f"{text}, {seconds:g} s")))
        self._let_go(attempt)

    def _watch(self, attempt: Attempt) -> None:
        self._young[attempt] = None
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(RUNNING_AFTER_S, self._sweep)

    def _sweep(self) -> None:
        """Report the attempts that have run for a while. One timer serves them all."""
        self._sweeping = False
        now_s = self._loop.real_time()
        while self._young:
            attempt = next(iter(self._young))
            left_s = attempt.started_s + RUNNING_AFTER_S - now_s
            if left_s > 0:
                self._sweeping = True
                self._loop.call_later(left_s, self._sweep)
                return
            del self._young[attempt]
            if attempt.state is _State.RUNNING:
                item = AttemptRunning(attempt.key, attempt.name, attempt.number, attempt.started_ms)
                self._report(attempt.run, item)


def _enter(attempt: Attempt) -> None:
    """Make this the context of a step's body: no longer the run's, whose code it was copied of."""
    SCOPE.set(None)
    CURRENT.set(attempt)
