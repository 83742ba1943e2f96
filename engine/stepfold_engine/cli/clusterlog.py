"""A namespace's log on Kafka, for commands that only read it."""

import os
from pathlib import Path

from stepfold_engine.cli.cluster import CONFIG, properties_from
from stepfold_engine.clock import SystemClock
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.topics import TopicNames


async def connected(servers: str, namespace: str, events_prefix: str) -> KafkaLog:
    """Return the log; it is to be closed.

    Client properties come from the environment, and from the file that it names, as with
    ``stepfold run``.

    Raises:
        LogSettingError: one is not known.
        EngineError: the brokers cannot be reached, or the topics are not there.
    """
    file = os.environ.get(CONFIG)
    properties = properties_from(servers, Path(file) if file else None, None)
    names = TopicNames(namespace, events_prefix)
    return await KafkaLog.connect(properties, names, SystemClock().now_ms)
