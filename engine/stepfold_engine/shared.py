"""An app and the engine in one of several processes that share a log on Kafka.

What ``stepfold run`` does, for a program of one's own: each process owns the partitions that the
consumer group of the namespace assigns to it, and runs what is at home there.

async with sharing_app(app, properties, TopicNames("shop")) as node:
    await app.send(name="shop/order.created", data={"order_id": 7})
    …
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from stepfold.app import App
from stepfold.serving import serves_of
from stepfold.worker import NativeWorker
from stepfold_engine.clock import SystemClock
from stepfold_engine.effects import Watcher
from stepfold_engine.errors import LogError, LogSettingError, RequestRefusedError
from stepfold_engine.formats.mapping import Source
from stepfold_engine.intake import Intake, input_of
from stepfold_engine.kafka.group import GroupAssignment
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.registry import registry_of
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.local import drain, threaded_worker
from stepfold_engine.log.base import Log
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.ownership import Claimant
from stepfold_engine.settings import Settings
from stepfold_engine.telling import progress_told
from stepfold_schemas.entries import FunctionSpec

_log = logging.getLogger("stepfold")

DECLARE_AGAIN_S = 1.0
_NOT_NOW = 503


@dataclass(frozen=True, slots=True)
class Observing:
    """Who looks on while an app runs.

    Attributes:
        watchers: hear of every decision that this process confirms.
        measured: returns the log that the node is to use: this one, with what measures it.
        during: is entered before the node runs, and left when it has stopped.
    """

    watchers: Sequence[Watcher] = ()
    measured: Callable[[Log], Log] = lambda log: log
    during: Callable[[Node], AbstractAsyncContextManager[None]] = lambda _: nullcontext()


@asynccontextmanager
async def sharing_app(  # noqa: PLR0913 - what a process is made of
    app: App,
    properties: ClientProperties,
    names: TopicNames,
    *,
    node_name: str = "",
    sources: Sequence[Source] = (),
    settings: Settings | None = None,
    observing: Observing | None = None,
    serves: Collection[str] = (),
) -> AsyncGenerator[Node]:
    """Run an app's functions, together with other processes, while the block runs.

    The block begins when this process's partitions are recovered and the app's functions are in
    force in all partitions, whoever owns them. Behind it, attempts that are running have a few
    seconds to end; then the partitions are released, and the others take them over at once.

    Args:
        app: its functions; other processes may have other versions of them.
        properties: of the Kafka clients.
        names: of the topics, which must be there.
        node_name: the same at every start, and no other process's: its partitions wait for it
            while it restarts. "" for a process that comes and goes.
        sources: existing topics whose records are events, too; the same in all processes.
        settings: of the engine.
        observing: who looks on.
        serves: versions of pinned functions that this process's code fits, besides its own.

    Raises:
        LogError: no broker can be used, or the topics are not as they must be.
    """
    settings, observing, clock = settings or Settings(), observing or Observing(), SystemClock()
    intake = await _intake(sources, properties)
    existing = {input_of(source.topic): source.topic for source in sources}
    log = await KafkaLog.connect(properties, names, clock.now_ms, existing)
    group: GroupAssignment | None = None
    try:
        group = await GroupAssignment.join(properties, names, node_name)
        name = node_name or f"{socket.gethostname()}-{os.getpid()}"
        claimant = Claimant(name, secrets.token_hex(8))
        used, matching = observing.measured(log), CelMatching()
        node = Node(
            used, clock, matching, settings, assignment=group, claimant=claimant, intake=intake
        )
        node.watchers.extend(observing.watchers)
        async with (
            observing.during(node),
            _running(node, app, serves),
            progress_told(node, group, names, existing),
        ):
            yield node
    except ExceptionGroup as errors:
        raise _first(errors) from errors
    finally:
        app.engine = None
        if group is not None:
            await group.close()
        await log.close()


async def _intake(sources: Sequence[Source], properties: ClientProperties) -> Intake:
    """Return what reads events, with the registry that the properties name, if they do."""
    registry = registry_of(properties)
    if registry is None:
        for source in sources:
            if "avro" in (source.value_format, source.key_format):
                text = f"it is missing; the source {source.topic} is avro"
                raise LogSettingError("schema.registry.url", text)
    else:
        await registry.check()
    return Intake(sources, registry, shared=True)


@asynccontextmanager
async def _running(node: Node, app: App, serves: Collection[str]) -> AsyncGenerator[None]:
    worker: NativeWorker | None = None

    def make(native: Native) -> NativeWorker:
        nonlocal worker
        worker = threaded_worker(app, native, node.settings)
        native.serves = serves_of(lambda: app.functions, serves)
        return worker

    async with node.running(make):
        try:
            node.resume()
            await _declare(node, app)
            node.intake.begin()
            yield
            if worker is not None:
                await drain(node.native, worker)
        finally:
            if worker is not None:
                worker.close()


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """Return the error that ended the node, if it is one of the log; else all that happened."""
    fatal: Exception | None = errors.subgroup(LogError)
    while isinstance(fatal, ExceptionGroup):
        fatal = fatal.exceptions[0]
    return fatal or errors


async def _declare(node: Node, app: App) -> None:
    """Put the app's functions in force, however long it takes until somebody owns each partition.

    What is not in this app any more stays in force: another process may still have it.
    """
    specs: list[FunctionSpec] = [function.spec() for function in app.functions.values()]
    while True:
        try:
            await node.declare(app.id, specs, complete=False, forced=False)
        except RequestRefusedError as error:
            if error.status != _NOT_NOW:
                _log.warning("the functions of this process are not put in force: %s", error)
                return
            _log.warning("the functions are not in force yet: %s", error)
        except LogError as error:
            _log.warning("the functions are not in force yet: %s", error)
        else:
            return
        await asyncio.sleep(DECLARE_AGAIN_S)
