"""``stepfold projections run``: keeps the tables of a folder's log, or of one on Kafka.

What reads Kafka needs its client, so it is imported only when it is asked for.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.serving import stopping
from stepfold_engine.errors import EngineError
from stepfold_engine.projecting import MISSING, Projecting, installed
from stepfold_engine.wire.replies import json_reply, on_any_error, on_engine_error
from stepfold_engine.wire.server import listen, serving
from stepfold_engine.wire.sql import Sql

if TYPE_CHECKING:
    from stepfold_projections.source import Source

KAFKA_MISSING = "this needs Kafka's client: pip install 'stepfold[engine,kafka]'"


@dataclass(frozen=True, slots=True)
class Given:
    """A log on Kafka, as a command was given it; ``namespace`` is "" for none."""

    servers: str
    namespace: str
    events_prefix: str
    config: Path | None
    pairs: tuple[str, ...]

    def cluster(self) -> dict[str, object] | None:
        """Return what a projector is told of it; None if there is none. Ends if it is wrong."""
        if not (self.servers or self.config or self.pairs or self.namespace):
            return None
        if not self.namespace:
            fail("--kafka needs --namespace: the name that the topics of the app begin with", USAGE)
        try:
            from stepfold_engine.cli.cluster import TopicNames, properties_from  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "aiokafka":
                raise
            fail(KAFKA_MISSING, USAGE)
        try:
            properties = properties_from(self.servers, self.config, list(self.pairs))
            names = TopicNames(self.namespace, self.events_prefix)
        except EngineError as error:
            fail(str(error), USAGE)
        return told(properties.values, names.namespace, names.events_prefix)


def told(properties: Mapping[str, str], namespace: str, events_prefix: str) -> dict[str, object]:
    """Return what a projector is told of a log on Kafka."""
    return {
        "properties": dict(properties),
        "namespace": namespace,
        "events_prefix": events_prefix,
    }


def opener(given: Given, folder: Path) -> "Callable[[], Source]":
    """Return what opens the log that tables are made from."""
    from stepfold_engine.projecting.process import source_of  # noqa: PLC0415 - takes a second

    return source_of(folder, given.cluster())


def run(given: Given, folder: Path, host: str, port: int | None) -> None:
    """Keep tables, and answer questions about them, until told to stop."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if not installed():
        fail(MISSING, USAGE)
    cluster = given.cluster()
    if cluster is None and not (folder / "log.db").exists():
        fail(f"{folder} holds no log; for one on Kafka: --kafka HOST:PORT --namespace NAME", USAGE)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(_run(Projecting(folder, cluster), folder, host, port))
    except EngineError as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped at once; the next one goes on where the tables stand", 130)


async def _run(tables: Projecting, folder: Path, host: str, port: int | None) -> None:
    stop = asyncio.Event()
    sockets = [] if port is None else listen(host, port)
    with stopping(stop):
        async with tables.running():
            typer.echo(f"tables in {folder}; asked by: stepfold sql --data {folder}")
            if not sockets:
                await stop.wait()
                return
            async with serving(_api(Sql(tables)), sockets):
                typer.echo(f"http://{host}:{sockets[0].getsockname()[1]}")
                await stop.wait()


def _api(sql: Sql) -> Starlette:
    async def health(_: Request) -> Response:
        return json_reply({"status": 200, "message": "OK"})

    routes = [
        Route("/health", health),
        Route("/v1/sql", sql.post, methods=["POST"]),
        Route("/v1/sql/copy", sql.copy, methods=["POST"]),
    ]
    handlers = {EngineError: on_engine_error, Exception: on_any_error}
    return Starlette(routes=routes, exception_handlers=handlers)
