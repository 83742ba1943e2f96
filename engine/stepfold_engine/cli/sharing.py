"""``stepfold run app.py --kafka``: one of several processes that run an app's functions."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stepfold_engine.cli import asking, copies, topics
from stepfold_engine.cli.asking import AsJson
from stepfold_engine.cli.cluster import (
    EVENTS_PREFIX,
    Config,
    EventsPrefix,
    Given,
    Servers,
    properties_from,
)
from stepfold_engine.cli.development import checked_specs
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.keeping import told
from stepfold_engine.cli.loading import LoadError, NoSuchFileError, load, parse_target
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.cli.serving import EventKeys, Host, Serves, checked_keys, stopping
from stepfold_engine.cli.traced import traced
from stepfold_engine.errors import EngineError, LogSettingError
from stepfold_engine.history import NoHistory
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.sourcefile import sources_from
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.node import Node
from stepfold_engine.projecting import MISSING, Projecting, installed
from stepfold_engine.shared import Observing, sharing_app
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.scraping import Scraping
from stepfold_engine.wire.server import listen, serving
from stepfold_engine.wire.sql import Sql

NO_TABLES = (
    "this process keeps no tables: start it with --projections FOLDER, or ask who keeps them"
    " (stepfold projections run)"
)

What = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID | FILE[:APP]",
        help="A run to show (its id, its beginning, or its last eight characters),"
        " or a Python file with an App to run on Kafka.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option("--port", "-p", min=0, max=65_535, help="Serve the HTTP API there; 0: any."),
]
Name = Annotated[
    str,
    typer.Option("--node", help="This process's own name: its partitions wait while it restarts."),
]

SourcesFile = Annotated[
    Path | None,
    typer.Option(
        "--sources",
        envvar="STEPFOLD_SOURCES",
        help="A TOML file of existing topics whose records are events, too.",
    ),
]
Namespace = Annotated[
    str, typer.Option("--namespace", help="Of the topics; the app's id if not given.")
]
Projections = Annotated[
    Path | None,
    typer.Option("--projections", help="Keep tables for SQL there, for POST /v1/sql."),
]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was given; without a port, nothing is served."""

    file: str
    namespace: str
    events_prefix: str
    node: str
    host: str
    port: int | None
    event_keys: tuple[str, ...]
    projections: Path | None
    sources: Path | None
    serves: tuple[str, ...]


def add_commands(program: typer.Typer) -> None:
    """Add the commands that use Kafka."""
    program.command()(run)
    program.add_typer(topics.program, name="topics")
    program.add_typer(copies.program, name="log")


def run(  # noqa: PLR0913 - the options of a command
    what: What,
    *,
    kafka: Servers = "",
    namespace: Namespace = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    node: Name = "",
    host: Host = "127.0.0.1",
    port: Port = None,
    event_key: EventKeys = None,
    serves: Serves = None,
    projections: Projections = None,
    sources: SourcesFile = None,
    config: Config = None,
    given: Given = None,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
) -> None:
    """Show a run; or run the functions of a file on Kafka, in as many processes as you like.

    The topics must be there: stepfold topics create makes them. Each process owns some of their
    partitions; those of one that ends go to the others. Ctrl-C, or SIGTERM, stops it: attempts
    that are running have a few seconds to end.

    For example:

      stepfold run 4K2M9QZ1

      stepfold run app.py --kafka kafka-1:9092 --namespace shop --port 8288
    """
    if not (kafka or config or given or ".py" in what):
        asking.run(what, as_json=as_json, url=url)
        return
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("stepfold").setLevel(logging.INFO)
    try:
        properties = properties_from(kafka, config, given)
        keys = checked_keys(host, event_key)
        if projections is not None and not installed():
            fail(MISSING, USAGE)
        options = Options(
            what,
            namespace,
            events_prefix,
            node,
            host,
            port,
            keys,
            projections,
            sources,
            tuple(serves or ()),
        )
        asyncio.run(_serve(options, properties))
    except (NoSuchFileError, LogSettingError) as error:
        fail(str(error), USAGE)
    except (LoadError, EngineError) as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped at once; what was going on goes on in the other processes", 130)


async def _serve(options: Options, properties: ClientProperties) -> None:
    app = load(parse_target(options.file))
    checked_specs(app)
    names = TopicNames(options.namespace or app.id, options.events_prefix)
    sources = sources_from(options.sources, names) if options.sources is not None else []
    sockets = [] if options.port is None else listen(options.host, options.port)
    live, scraping, stop = LiveFeed(), Scraping(), asyncio.Event()
    observing = Observing([live, *scraping.watchers], scraping.measured, traced)

    tables = None
    if options.projections is not None:
        options.projections.mkdir(parents=True, exist_ok=True)
        cluster = told(properties.values, names.namespace, names.events_prefix)
        tables = Projecting(options.projections, cluster)

    @asynccontextmanager
    async def answering(node: Node) -> AsyncGenerator[None]:
        if not sockets:
            yield
            return
        sql = Sql(tables, NO_TABLES)
        api = build_app(node, NoHistory(), live, options.event_keys, sql)
        api.router.routes.append(scraping.route(node))
        async with serving(api, sockets):
            typer.echo(f"http://{options.host}:{sockets[0].getsockname()[1]}")
            yield
            live.close()

    try:
        with stopping(stop):
            async with sharing_app(
                app,
                properties,
                names,
                node_name=options.node,
                sources=sources,
                observing=observing,
                serves=options.serves,
            ) as node:
                functions = ", ".join(sorted(app.functions)) or "no functions"
                owned = ", ".join(map(str, sorted(node.owners))) or "none yet"
                typer.echo(f"{app.id} runs on Kafka ({names.namespace}): {functions}")
                typer.echo(f"partitions of this process: {owned}")
                keeping = tables.running() if tables is not None else nullcontext()
                async with keeping, answering(node):
                    await stop.wait()
                    typer.echo("stopping: attempts that are running may end first")
    finally:
        for opened in sockets:
            opened.close()
