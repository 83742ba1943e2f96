"""The port between a worker, which runs user code, and the engine, which keeps the journal.

Threads: the engine calls a ``Worker`` from its own thread; a worker calls the ``EnginePort`` from
its own. Both sides hand over without waiting. An in-process test may give both the same loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stepfold_schemas.entries import Entry
from stepfold_schemas.events import Event
from stepfold_schemas.reports import ReportItem

NO_SESSION = 0
"""The session of what attempts report: it counts whatever life of the code waits for it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A confirmed entry of the run's journal: the seq of its record, and when it was recorded.

    Facts of one run are numbered by (seq, place in the record); a worker ignores one it has seen.
    """

    seq: int
    place: int
    at_ms: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class RunBrief:
    """What a worker needs to start, or to wake, a run.

    Attributes:
        run: the run's id (16 bytes).
        function: the function's full id, ``<app>-<function>``.
        session: names this life of the coroutine; reports of an older one are refused.
        attempt: which attempt of the function's own code this is, from 1.
        events: what started it; the first is ``ctx.event``.
        started_ms: when the run started.
        retries_due: steps whose last attempt failed and whose next one (the number) may start now.
        cautious: the process may die of this run: report ``AttemptRunning`` before an attempt
            begins, and begin it only when the fact ``AttemptStarted`` has arrived.
        seed: the run whose random numbers it draws, if it shares another's outcomes; else empty.
    """

    run: bytes
    function: str
    session: int
    attempt: int
    events: Sequence[Event]
    started_ms: int
    retries_due: dict[bytes, int] = field(default_factory=dict[bytes, int])
    cautious: bool = False
    seed: bytes = b""


class Worker(Protocol):
    """What the engine asks of user code's process. Every call returns at once."""

    def start(self, brief: RunBrief, history: Sequence[Fact]) -> None:
        """Begin a run's code, replaying its history first. A life under way is replaced."""
        ...

    def deliver(self, run: bytes, facts: Sequence[Fact]) -> None:
        """Give a run new facts. If it is not in memory, answer ``EnginePort.missing``."""
        ...

    def retry(self, run: bytes, step: bytes, attempt: int) -> None:
        """A failed step may be tried again now. If not in memory, answer ``missing``."""
        ...

    def leave(self, run: bytes) -> None:
        """The run may belong to someone else: drop its code. Its attempts go on."""
        ...

    def stop(self, run: bytes) -> None:
        """The run has ended or belongs to someone else: drop it and cancel its attempts."""
        ...


class EnginePort(Protocol):
    """What a worker asks of the engine. Thread-safe."""

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:
        """Report what a run's code asked for, or outcomes of attempts; one decision."""
        ...

    def missing(self, run: bytes) -> None:
        """Say that a run is not in memory; the engine will ``start`` it with its history."""
        ...

    async def publish(self, events: Sequence[Event]) -> list[str]:
        """Append events durably; return the internal ids. Called on the worker's loop."""
        ...

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:
        """Send a signal; return the id of the run that got it, None if nobody waited.

        The same ``request`` (16 bytes) again gives the same answer. Called on the worker's loop.
        """
        ...
