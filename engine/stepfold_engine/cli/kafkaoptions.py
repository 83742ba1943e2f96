"""The options of commands that use Kafka; needs no client of Kafka."""

from pathlib import Path
from typing import Annotated

import typer

CONFIG = "STEPFOLD_KAFKA_CONFIG"
EVENTS_PREFIX = "stepfold"
"""As in ``kafka.topics``, which needs the client."""

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
