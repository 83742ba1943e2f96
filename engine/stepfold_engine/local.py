"""An app and the engine in one process: what ``stepfold dev`` does, for a program of one's own.

async with running_app(app, Path(".stepfold")) as node:
    await app.send(name="shop/order.created", data={"order_id": 7})
    …
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from stepfold.app import App
from stepfold.crew import WorkerSettings
from stepfold.events import NewEvent, wall_ms, written
from stepfold.serving import serves_of
from stepfold.worker import NativeWorker
from stepfold_engine.clock import SystemClock
from stepfold_engine.effects import Watcher
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.settings import Settings
from stepfold_schemas import codec

DRAIN_S = 5.0
"""How long attempts that are running may take when the process stops."""

DRAIN_LOOK_S = 0.05


class InProcess:
    """The engine, as ``app.send`` in this process uses it (``stepfold.app.Publisher``)."""

    def __init__(self, native: Native) -> None:
        self._native = native

    async def publish(self, events: Sequence[NewEvent]) -> list[str]:
        """Append events durably; return their ids."""
        now_ms = wall_ms()
        return await self._native.publish([written(event, now_ms=now_ms) for event in events])


def threaded_worker(app: App, native: Native, settings: Settings) -> NativeWorker:
    """Return a worker of an app's functions on a thread of its own; ``app.send`` goes to it."""
    given = WorkerSettings(
        always_replay=settings.always_replay, outcome_bytes_max=settings.outcome_bytes_max
    )
    worker = NativeWorker(app.functions, native, decode_event=codec.decode_event, settings=given)
    worker.run_in_thread()
    app.engine = InProcess(native)
    return worker


async def drain(native: Native, worker: NativeWorker) -> None:
    """Begin nothing any more, let attempts that are running end for a few seconds, stop all code.

    What they returned is with the owners then, who write it before they let their partitions go.
    """
    native.rest()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while worker.busy:  # noqa: ASYNC110 - it is another thread's
                await asyncio.sleep(DRAIN_LOOK_S)
    await asyncio.to_thread(worker.close)


@asynccontextmanager
async def running_app(
    app: App,
    folder: Path,
    *,
    partitions: int | None = None,
    settings: Settings | None = None,
    watchers: Sequence[Watcher] = (),
) -> AsyncGenerator[Node]:
    """Run an app's functions on the embedded log in a folder while the block runs.

    Args:
        app: what is not in it any more leaves; its unfinished runs wait.
        folder: where the log lies; one process at a time.
        partitions: of a new log.
        settings: of the engine.
        watchers: hear of every confirmed decision.

    Raises:
        LogLockedError: another process uses the folder.
        LogError: the log cannot be opened.
    """
    settings = settings or Settings()
    clock = SystemClock()
    log = EmbeddedLog.open(folder, partitions, clock.now_ms)
    node = Node(log, clock, CelMatching(), settings)
    node.watchers.extend(watchers)
    worker: NativeWorker | None = None

    def make(native: Native) -> NativeWorker:
        nonlocal worker
        worker = threaded_worker(app, native, settings)
        native.serves = serves_of(lambda: app.functions)
        return worker

    try:
        async with node.running(make):
            specs = [function.spec() for function in app.functions.values()]
            await node.declare(app.id, specs, complete=True, forced=True)
            node.resume()
            try:
                yield node
            finally:
                if worker is not None:
                    worker.close()
    finally:
        app.engine = None
        await log.close()
