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
from stepfold_engine.kafka.topics import (
    DAY_MS,
    KEEP_MS,
    PARTITIONS,
    Asked,
    Layout,
    TopicNames,
    settings_of,
)
from stepfold_engine.log.base import TOPICS
from stepfold_engine.wire.replies import release

_T = TypeVar("_T")

Partitions = Annotated[
    int | None,
    typer.Option(
        "--partitions",
        min=1,
        max=1_000,
        help=f"Of the journal; fixed when it is made. Else {PARTITIONS}.",
    ),
]
EventsPartitions = Annotated[
    int | None,
    typer.Option(
        "--events-partitions", min=1, max=1_000, help=f"Of the events. Else {PARTITIONS}."
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option("--replicas", min=1, help="Else three, or as many as there are brokers."),
]
KeepDays = Annotated[
    int | None,
    typer.Option("--keep-days", min=1, help=f"How long events are kept. Else {KEEP_MS // DAY_MS}."),
]

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
    partitions: Partitions = None,
    events_partitions: EventsPartitions = None,
    replicas: Replicas = None,
    keep_days: KeepDays = None,
    config: Config = None,
    given: Given = None,
) -> None:
    """Make the topics that are missing; those that are there stay as they are.

    Nothing is made if those that are there have other numbers of partitions than you ask for.

    For example:

      stepfold topics create --kafka kafka-1:9092 --namespace shop --partitions 24
    """
    asked = _asked(partitions, events_partitions, replicas, keep_days)

    async def make(admin: Admin, names: TopicNames) -> None:
        made = await kafka_topics.create(admin, names, asked)
        for topic in TOPICS:
            name = names.of(topic)
            typer.echo(f"{name}: {'made' if name in made else 'was there'}")
        found, advice = await kafka_topics.check(admin, names)
        for difference in kafka_topics.unlike(found, names, asked) + advice:
            typer.echo(f"{difference} (advice)", err=True)

    _run(make, _properties(kafka, config, given), namespace, events_prefix)


@program.command()
def check(  # noqa: PLR0913 - the options of a command
    namespace: Namespace,
    *,
    kafka: Servers = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    partitions: Partitions = None,
    events_partitions: EventsPartitions = None,
    replicas: Replicas = None,
    keep_days: KeepDays = None,
    config: Config = None,
    given: Given = None,
) -> None:
    """Say what differs from how the topics should be; exit code 1 if they cannot be used so.

    With the options of `create`, what differs from these is said, too; other numbers of partitions
    are exit code 1.

    For example:

      stepfold topics check --kafka kafka-1:9092 --namespace shop
    """
    asked = _asked(partitions, events_partitions, replicas, keep_days)

    async def look(admin: Admin, names: TopicNames) -> bool:
        found = await kafka_topics.describe(admin, names)
        said = kafka_topics.differences(found, names) + kafka_topics.unlike(found, names, asked)
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


def _asked(
    partitions: int | None, events: int | None, replicas: int | None, keep_days: int | None
) -> Asked:
    keep_ms = None if keep_days is None else keep_days * DAY_MS
    return Asked(partitions, events, replicas, keep_ms)


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
