"""The engine as the benchmarks use it: embedded log, sync on, user code on its own thread."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import stepfold
from stepfold_engine.local import running_app
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_schemas.entries import Decision, RunCancelled, RunCompleted, RunFailed
from stepfold_schemas.events import Event
from stepfold_schemas.ids import key_of, partition_of, run_key

ENDS = (RunCompleted, RunFailed, RunCancelled)


class Ends:
    """Tells who waits that a run has ended (``effects.Watcher``)."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, asyncio.Future[None]] = {}
        self.count = 0

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a confirmed decision."""
        for entry in decision.entries:
            if isinstance(entry, ENDS):
                self.count += 1
                waiting = self.waiting.pop(key_of(entry.run), None)
                if waiting is not None:
                    waiting.set_result(None)


class Bench:
    """A running engine."""

    def __init__(self, node: Node, app: stepfold.App, ends: Ends) -> None:
        self.node, self.app, self.ends = node, app, ends

    def ended(self, function: str, event_id: str) -> asyncio.Future[None]:
        """Return a future that is done when the run that this event starts has ended."""
        home = partition_of(event_id, self.node.partitions)
        key = run_key(home, f"{self.app.id}-{function}", f"event {event_id}")
        return self.ends.waiting.setdefault(key, asyncio.get_running_loop().create_future())

    async def send(self, name: str, event_id: str, data: bytes = b"{}") -> None:
        """Publish an event."""
        await self.node.publish([Event(name, data, event_id)])


@asynccontextmanager
async def running(app: stepfold.App, folder: Path) -> AsyncGenerator[Bench]:
    """Run an app on an embedded log."""
    ends = Ends()
    async with running_app(app, folder, watchers=[ends]) as node:
        yield Bench(node, app, ends)


def percentile(values: list[float], p: float) -> float:
    """Return the nearest-rank percentile of some values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(p / 100 * (len(ordered) - 1)))]


def load1() -> float:
    """Return the machine's load, to judge a figure by."""
    return round(os.getloadavg()[0], 2)


def now_s() -> float:
    """Return a time to measure with, in seconds."""
    return time.perf_counter()
