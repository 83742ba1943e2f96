"""The worker: runs user code for the engine, on a loop and in threads of its own.

The engine calls it from its own thread; each call puts work into a queue and wakes the user loop,
once a burst. What the worker says to the engine are direct calls of the ``EnginePort``.
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
from stepfold_schemas.events import Event

_log = logging.getLogger("stepfold")

Functions = Mapping[str, Function[Any]]

CLOSE_S_MAX = 5.0
"""How long code may take to end when the worker is closed."""


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
        self._work: deque[Callable[[Crew], object]] = deque()
        self._woken = False
        self._thread: threading.Thread | None = None
        self._closing = False

    # Where it runs.

    def run_inline(self, loop: UserLoop) -> None:
        """Run everything on a loop that somebody else turns; only blocking code gets threads."""
        self._crew = Crew(loop, self._equipment, self._functions)

    def run_in_thread(self) -> None:
        """Start a thread with a loop of its own."""
        self._take_over(UserLoop())

    def _take_over(self, loop: UserLoop) -> None:
        self._crew = Crew(loop, self._equipment, self._functions)
        self._thread = threading.Thread(
            target=self._turn, args=(loop,), name="stepfold-user-loop", daemon=True
        )
        self._thread.start()

    def _turn(self, loop: UserLoop) -> None:
        while not self._closing:
            try:
                loop.run_forever()
            except SystemExit:
                _log.warning("a task called sys.exit(); in durable functions it ends nothing")
            else:
                break
        loop.close()

    @property
    def loop(self) -> UserLoop:
        """The loop on which user code runs now."""
        return self._crew.loop

    @property
    def busy(self) -> bool:
        """Say whether the body of a step is running."""
        return bool(self._crew.attempts.running())

    def close(self) -> None:
        """Stop: drop all code, cancel the bodies of steps, and end the thread.

        The engine is told nothing; it starts the runs again when there is a worker again.
        """
        self._closing = True
        crew, thread = self._crew, self._thread
        if crew.loop.is_closed():
            return
        if thread is None:
            _drop_all(crew)
        else:
            self._put(_close)
            thread.join(CLOSE_S_MAX)
        self._equipment.threads.close()
        self._equipment.attempts.threads.close()

    # What the engine asks (``port.Worker``).

    def start(self, brief: RunBrief, history: Sequence[Fact]) -> None:
        """Begin a run's code, replaying its history first. A life under way is replaced."""
        self._equipment.attempts.sessions[brief.run] = brief.session
        self._put(lambda crew: crew.start(brief, history))

    def deliver(self, run: bytes, facts: Sequence[Fact]) -> None:
        """Give a run new facts."""
        self._put(lambda crew: crew.deliver(run, facts))

    def retry(self, run: bytes, step: bytes, attempt: int) -> None:
        """Let the next attempt of a step begin."""
        self._put(lambda crew: crew.retry(run, step, attempt))

    def stop(self, run: bytes) -> None:
        """Drop a run and cancel its attempts."""
        self._put(lambda crew: crew.stop(run))

    def replace_functions(self, functions: Functions) -> None:
        """Use other functions from now on: all code in memory is dropped and started again.

        Attempts that are under way end with the code they began with.
        """
        self._functions = functions
        self._put(lambda crew: _renew(crew, functions))

    def _put(self, work: Callable[[Crew], object]) -> None:
        self._work.append(work)
        if not self._woken:
            # One wake-up a burst: each costs a system call and a switch of threads.
            self._woken = True
            self._wake()

    def _wake(self) -> None:
        # In a context of its own: the caller's may be that of user code.
        loop, context = self._crew.loop, contextvars.Context()
        if self._thread is None:
            loop.call_soon(self._do_all, context=context)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._do_all, context=context)

    def _do_all(self) -> None:
        self._woken = False
        crew = self._crew
        while self._work:
            work = self._work.popleft()
            try:
                work(crew)
            except Exception:  # noqa: BLE001 - one bad request must not stop all
                _log.exception("the worker failed at what the engine asked; this is a bug")


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
    # What was cancelled has its turn first.
    crew.loop.call_later(0.01, crew.loop.stop)
