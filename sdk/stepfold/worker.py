"""The worker: runs user code for the engine, on a loop and in threads of its own.

The engine calls it from its own thread; each call puts work into a queue and wakes the user loop,
once a burst. What the worker says to the engine are direct calls of the ``EnginePort``.

A loop that user code blocks is left to that code: a new crew on a new loop takes over, and the
engine starts the other runs there again. A run whose own code blocks stays with the old crew.
"""

import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepfold.attempts import Shared
from stepfold.crew import Crew, Equipment, WorkerSettings
from stepfold.function import Function
from stepfold.loop import UserLoop
from stepfold.port import EnginePort, Fact, RunBrief
from stepfold.threads import ThreadPool
from stepfold.watchdog import Culprit, Watchdog, warn
from stepfold_schemas.events import Event

_log = logging.getLogger("stepfold")

Functions = Mapping[str, Function[Any]]

CLOSE_S_MAX = 5.0
"""How long code may take to end when the worker is closed."""

CLOSE_TURN_S = 0.01
"""What is cancelled when the worker is closed has this long before its loop stops."""

RETIRED_MAX = 8
"""How many blocked loops may be left behind at the same time."""


class NativeWorker:
    """Runs durable functions of this process.

    Call ``run_in_thread`` or ``run_inline`` once before anything else.

    Args:
        functions: the functions by full id, as ``App.functions`` has them.
        engine: where to report.
        decode_event: reads an event as entries hold it.
        settings: see ``WorkerSettings``.
    """

    def __init__(
        self,
        functions: Functions,
        engine: EnginePort,
        *,
        decode_event: Callable[[bytes], Event],
        settings: WorkerSettings | None = None,
    ) -> None:
        self.settings = settings or WorkerSettings()
        self._functions = functions
        threads = ThreadPool(self.settings.threads_max, "stepfold-step")
        shared = Shared(engine, threads, self.settings.outcome_bytes_max)
        own_threads = ThreadPool(self.settings.runs_in_threads_max, "stepfold-function")
        self._equipment = Equipment(engine, self.settings, shared, own_threads, decode_event)
        self._crew: Crew
        self._retired: list[Crew] = []
        self._elsewhere: dict[bytes, Crew] = {}
        self._work: deque[tuple[bytes, Callable[[Crew], object]]] = deque()
        self._woken = False
        self._thread: threading.Thread | None = None
        self._watchdog: Watchdog | None = None
        self._closing = False
        self._home = contextvars.Context()

    # Where it runs.

    def run_inline(self, loop: UserLoop) -> None:
        """Run everything on a loop that somebody else turns; only blocking code gets threads."""
        self._home = contextvars.copy_context()
        self._crew = Crew(loop, self._equipment, self._functions)

    def run_in_thread(self) -> None:
        """Start a thread with a loop of its own, and a watchdog that looks after it."""
        self._thread = self._hire(UserLoop())
        if self.settings.blocked_s > 0:
            self._watchdog = Watchdog(self.settings.blocked_s, self._leave)
            self._watchdog.watch(self.loop)

    @property
    def loop(self) -> UserLoop:
        """The loop on which user code runs now."""
        return self._crew.loop

    @property
    def busy(self) -> bool:
        """Whether bodies of steps are running."""
        return bool(self._crew.attempts.running())

    def close(self) -> None:
        """Stop: drop all code, cancel the bodies of steps, and end the thread.

        The engine is told nothing; it starts the runs again when there is a worker again.
        """
        if self._closing:
            return
        self._closing = True
        if self._watchdog is not None:
            self._watchdog.close()
        thread = self._thread
        if thread is None:
            _drop_all(self._crew)
        else:
            self._put(b"", _close)
            thread.join(CLOSE_S_MAX)
        self._equipment.threads.close()
        self._equipment.attempts.threads.close()

    def _hire(self, loop: UserLoop) -> threading.Thread:
        self._crew = Crew(loop, self._equipment, self._functions)
        thread = threading.Thread(
            target=_turn, args=(loop,), name="stepfold-user-loop", daemon=True
        )
        thread.start()
        return thread

    # What the engine asks (``port.Worker``).

    def start(self, brief: RunBrief, history: Sequence[Fact]) -> None:
        """Begin a run's code, replaying its history first. A life under way is replaced."""
        self._drop_elsewhere(brief.run)
        self._put(brief.run, lambda crew: crew.start(brief, history))

    def deliver(self, run: bytes, facts: Sequence[Fact]) -> None:
        """Give a run new facts."""
        self._put(run, lambda crew: crew.deliver(run, facts))

    def retry(self, run: bytes, step: bytes, attempt: int) -> None:
        """Let the next attempt of a step begin."""
        self._put(run, lambda crew: crew.retry(run, step, attempt))

    def leave(self, run: bytes) -> None:
        """Drop a run's code. Its attempts go on; what they find is offered if it starts again."""
        self._drop_elsewhere(run)
        self._put(run, lambda crew: crew.drop(run))

    def stop(self, run: bytes) -> None:
        """Drop a run and cancel its attempts."""
        self._equipment.attempts.disregard(run)
        self._drop_elsewhere(run)
        self._put(run, lambda crew: crew.stop(run))

    def replace_functions(self, functions: Functions) -> None:
        """Use other functions from now on: all code in memory is dropped and started again.

        Attempts that are under way end with the code they began with.
        """
        self._functions = functions
        self._put(b"", lambda crew: _renew(crew, functions))

    def _put(self, run: bytes, work: Callable[[Crew], object]) -> None:
        self._work.append((run, work))
        if not self._woken:
            # One wake-up a burst: each costs a system call and a switch of threads.
            self._woken = True
            self._wake()

    def _wake(self) -> None:
        # In its own context: the caller's may be that of user code.
        crew, context = self._crew, self._home.copy()
        if self._thread is None:
            crew.loop.call_soon(self._do_all, crew, context=context)
        elif not crew.loop.is_closed():
            crew.loop.call_soon_threadsafe(self._do_all, crew, context=context)

    def _do_all(self, crew: Crew) -> None:
        if crew is not self._crew:
            # It was blocked when it was woken; another one does the work.
            return
        self._woken = False
        while self._work:
            run, work = self._work.popleft()
            try:
                old = self._elsewhere.get(run)
                if old is not None and not old.loop.is_closed():
                    old.loop.call_soon_threadsafe(work, old, context=contextvars.Context())
                else:
                    work(crew)
            except Exception:  # noqa: BLE001 - one bad request must not stop all
                _log.exception("the worker failed at what the engine asked; this is a bug")

    # A blocked loop.

    def _drop_elsewhere(self, run: bytes) -> None:
        old = self._elsewhere.pop(run, None)
        if old is not None and not old.loop.is_closed():
            old.loop.call_soon_threadsafe(old.drop, run)

    def _leave(self, loop: UserLoop, culprit: Culprit) -> UserLoop:
        """Leave a loop to the code that blocks it; return the one that takes its place."""
        self._retired = [crew for crew in self._retired if not crew.loop.is_closed()]
        moves = len(self._retired) < RETIRED_MAX and not self._closing
        warn(culprit, self.settings.blocked_s, moved=moves)
        if not moves:
            return loop
        old = self._crew
        self._retired.append(old)
        kept = culprit.life.run if culprit.life is not None else b""
        if kept:
            self._elsewhere[kept] = old
        self._thread = self._hire(UserLoop())
        self._woken = True
        self._wake()
        for run in old.hush(kept):
            self._equipment.engine.missing(run)
        loop.call_soon_threadsafe(old.retire, kept)
        return self.loop


def _turn(loop: UserLoop) -> None:
    """Turn a loop until it is stopped. The body of its thread."""
    while True:
        try:
            loop.run_forever()
        except SystemExit:
            _log.warning("a task called sys.exit(); in durable functions it ends nothing")
        else:
            break
    loop.close()


def _renew(crew: Crew, functions: Functions) -> None:
    crew.functions = functions
    for run in crew.drop_all():
        crew.engine.missing(run)


def _drop_all(crew: Crew) -> None:
    crew.drop_all()
    for run in crew.attempts.runs():
        crew.attempts.stop(run)


def _close(crew: Crew) -> None:
    _drop_all(crew)
    crew.loop.call_later(CLOSE_TURN_S, crew.loop.stop)
