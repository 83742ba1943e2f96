"""What commands that use Kafka have in common: their options, and what follows from them."""

import os
from pathlib import Path

from stepfold_engine.cli.kafkaoptions import (
    CONFIG,
    Config,
    EventsPrefix,
    Given,
    Namespace,
    Servers,
)
from stepfold_engine.kafka.properties import (
    ClientProperties,
    from_environment,
    from_file,
    from_pairs,
    properties_of,
)
from stepfold_engine.kafka.topics import EVENTS_PREFIX, TopicNames

OTHERS = (CONFIG, "STEPFOLD_KAFKA_JARS")
"""Variables that name no property: the file of properties, and what ``kafka-local`` runs."""

__all__ = [
    "CONFIG",
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
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS}
    return properties_of(
        from_file(config) if config is not None else {},
        from_environment(environment),
        {"bootstrap.servers": servers} if servers else {},
        from_pairs(given or [], "-X"),
    )
