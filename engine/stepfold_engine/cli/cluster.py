"""What commands that use Kafka have in common: their options, and what follows from them."""

import os
from pathlib import Path
from typing import Annotated

import typer

from stepfold_engine.kafka.properties import (
    ClientProperties,
    from_environment,
    from_file,
    from_pairs,
    properties_of,
)
from stepfold_engine.kafka.topics import EVENTS_PREFIX, TopicNames

CONFIG = "STEPFOLD_KAFKA_CONFIG"

Servers = Annotated[
    str, typer.Option("--kafka", metavar="HOST:PORT", help="Brokers to begin with.")
]
Namespace = Annotated[
    str,
    typer.Option("--namespace", help="What the topics of the app are named by: NS.journal, …"),
]
EventsPrefix = Annotated[
    str,
    typer.Option("--events-prefix", help="The events' topic is PREFIX.events, shared by apps."),
]
Config = Annotated[
    Path | None,
    typer.Option("--kafka-config", envvar=CONFIG, help="A file of client properties."),
]
Given = Annotated[
    list[str] | None,
    typer.Option("-X", metavar="NAME=VALUE", help="A client property. May be repeated."),
]

__all__ = [
    "EVENTS_PREFIX",
    "Config",
    "EventsPrefix",
    "Given",
    "Namespace",
    "Servers",
    "TopicNames",
    "properties_from",
]


def properties_from(servers: str, config: Path | None, given: list[str] | None) -> ClientProperties:
    """Return the client properties that a command was given, in any way.

    Raises:
        LogSettingError: one is not known, or there is no broker to begin with.
    """
    environment = {name: value for name, value in os.environ.items() if name != CONFIG}
    return properties_of(
        from_file(config) if config is not None else {},
        from_environment(environment),
        {"bootstrap.servers": servers} if servers else {},
        from_pairs(given or [], "-X"),
    )
