"""``stepfold topics``: makes the topics of a namespace, and says what is wrong with them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from stepfold_engine.cli.cluster import (
    EVENTS_PREFIX,
    Config,
    EventsPrefix,
    Given,
    Namespace,
    Servers,
    properties_from,
)
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.errors import EngineError, LogSettingError
from stepfold_engine.kafka import topics as kafka_topics
from stepfold_engine.kafka.asyncapi import document
from stepfold_engine.kafka.client import Admin
from stepfold_engine.kafka.connection import connected_admin
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.topics import KEEP_MS, Layout, TopicNames, settings_of
from stepfold_engine.log.base import TOPICS
from stepfold_engine.wire.replies import release

_T = TypeVar("_T")
DAY_MS = 86_400_000
REPLICAS = 3

program = typer.Typer(
    help="Make and check the Kafka topics of a namespace.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@program.command()
def create(  # noqa: PLR0913 - the options of a command
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, max=1_000, help="Of the journal; fixed then.")
    ] = 12,
    events_partitions: Annotated[
        int, typer.Option("--events-partitions", min=1, max=1_000, help="Of the events.")
    ] = 12,
    replicas: Annotated[
        int, typer.Option("--replicas", min=0, help="0: three, or as many as there are brokers.")
    ] = 0,
    keep_days: Annotated[
        int, typer.Option("--keep-days", min=1, help="How long events are kept.")
    ] = KEEP_MS // DAY_MS,
    config: Config = None,
    given: Given = None,
) -> None:
    """Make the topics that are missing; those that are there stay as they are.

    For example:

      stepfold topics create --kafka kafka-1:9092 --namespace shop --partitions 24
    """

    async def make(admin: Admin, names: TopicNames) -> None:
        copies = replicas or min(REPLICAS, await admin.brokers())
        layout = Layout(partitions, events_partitions, copies, keep_days * DAY_MS)
        made = await kafka_topics.create(admin, names, layout)
        for topic in TOPICS:
            name = names.of(topic)
            typer.echo(f"{name}: {'made' if name in made else 'was there'}")
        _, advice = await kafka_topics.check(admin, names)
        for difference in advice:
            typer.echo(f"{difference} (advice)", err=True)

    _run(make, _properties(kafka, config, given), namespace, events_prefix)


@program.command()
def check(
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    config: Config = None,
    given: Given = None,
) -> None:
    """Say what differs from how the topics should be; exit code 1 if they cannot be used.

    For example:

      stepfold topics check --kafka kafka-1:9092 --namespace shop
    """

    async def look(admin: Admin, names: TopicNames) -> bool:
        found = await kafka_topics.describe(admin, names)
        said = kafka_topics.differences(found, names)
        for difference in said:
            typer.echo(f"{difference}{'' if difference.fatal else ' (advice)'}", err=True)
        if not said:
            typer.echo("all topics are as they should be")
        return any(difference.fatal for difference in said)

    if _run(look, _properties(kafka, config, given), namespace, events_prefix):
        raise typer.Exit(FAILED)


@program.command()
def describe(
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    config: Config = None,
    given: Given = None,
) -> None:
    """Show the topics: partitions, replicas, and the settings that matter.

    For example:

      stepfold topics describe --kafka kafka-1:9092 --namespace shop
    """

    async def show(admin: Admin, names: TopicNames) -> None:
        found = await kafka_topics.describe(admin, names)
        for topic in TOPICS:
            name = names.of(topic)
            if name not in found.replicas:
                typer.echo(f"{name}: there is no such topic")
                continue
            copies = min(found.replicas[name])
            typer.echo(f"{name}: {found.partitions(name)} partitions, {copies} replicas")
            for setting in settings_of(topic, Layout()):
                typer.echo(f"  {setting}={found.settings[name].get(setting, '')}")

    _run(show, _properties(kafka, config, given), namespace, events_prefix)


def _properties(kafka: str, config: Config, given: Given) -> ClientProperties:
    try:
        return properties_from(kafka, config, given)
    except LogSettingError as error:
        fail(str(error), USAGE)


def _run(
    work: Callable[[Admin, TopicNames], Awaitable[_T]],
    properties: ClientProperties,
    namespace: str,
    events_prefix: str,
) -> _T:
    """Do something with the topics of a namespace."""

    async def main() -> _T:
        names = TopicNames(namespace, events_prefix)
        admin = await connected_admin(properties)
        try:
            return await work(admin, names)
        finally:
            await admin.close()

    try:
        return asyncio.run(main())
    except LogSettingError as error:
        fail(str(error), USAGE)
    except EngineError as error:
        fail(str(error), FAILED)


@program.command()
def asyncapi(
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
) -> None:
    """Print an AsyncAPI 3.0 document of the topics, for those who write events or read journals.

    For example:

      stepfold topics asyncapi --namespace shop > asyncapi.json
    """
    names = TopicNames(namespace, events_prefix)
    servers = [host for host in kafka.split(",") if host]
    typer.echo(json.dumps(document(names, servers, release()), indent=2))
