"""``stepfold run app.py --kafka``: one of several processes that run an app's functions."""

import asyncio
import logging
import signal
import sys
from typing import Annotated

import typer

from stepfold_engine.cli import asking, topics
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
from stepfold_engine.cli.loading import LoadError, NoSuchFileError, load, parse_target
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.errors import EngineError, LogSettingError
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.shared import sharing_app


def add_commands(program: typer.Typer) -> None:
    """Add the commands that use Kafka."""
    program.command()(run)
    program.add_typer(topics.program, name="topics")


def run(  # noqa: PLR0913 - the options of a command
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ID | FILE[:APP]",
            help="A run to show (its id, its beginning, or its last eight characters),"
            " or a Python file with an App to run on Kafka.",
        ),
    ],
    *,
    kafka: Servers = "",
    namespace: Annotated[
        str, typer.Option("--namespace", help="Of the topics; the app's id if not given.")
    ] = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    node: Annotated[
        str,
        typer.Option(
            "--node", help="This process's own name: its partitions wait while it restarts."
        ),
    ] = "",
    config: Config = None,
    given: Given = None,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
) -> None:
    """Show a run; or run the functions of a file on Kafka, in as many processes as you like.

    The topics must be there: stepfold topics create makes them. Each process owns some of their
    partitions; those of one that ends go to the others. Ctrl-C, or SIGTERM, stops it.

    For example:

      stepfold run 4K2M9QZ1

      stepfold run app.py --kafka kafka-1:9092 --namespace shop
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
        asyncio.run(_serve(what, properties, namespace, events_prefix, node))
    except (NoSuchFileError, LogSettingError) as error:
        fail(str(error), USAGE)
    except (LoadError, EngineError) as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped at once; what was going on goes on in the other processes", 130)


async def _serve(
    file: str, properties: ClientProperties, namespace: str, events_prefix: str, node_name: str
) -> None:
    app = load(parse_target(file))
    checked_specs(app)
    names = TopicNames(namespace or app.id, events_prefix)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with sharing_app(app, properties, names, node_name=node_name) as node:
        functions = ", ".join(sorted(app.functions)) or "no functions"
        owned = ", ".join(map(str, sorted(node.owners))) or "none yet"
        typer.echo(f"{app.id} runs on Kafka ({names.namespace}): {functions}")
        typer.echo(f"partitions of this process: {owned}")
        await stop.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # told again, it stops at once
        typer.echo("stopping")
