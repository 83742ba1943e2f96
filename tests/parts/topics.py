"""Topics of their own for each test, on a broker that all share."""

import itertools
import os
import time
from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.kafka.connection import connected_admin
from stepfold_engine.kafka.properties import ClientProperties, properties_of
from stepfold_engine.kafka.topics import Layout, TopicNames, settings_of, settle
from stepfold_engine.log.base import TOPICS
from tests.parts.broker import Broker

_count = itertools.count()


def now_ms() -> int:
    """Return the time that records are stamped with."""
    return time.time_ns() // 1_000_000


def client_properties(broker: Broker, **more: str) -> ClientProperties:
    """Return properties; ``request_timeout_ms`` means ``request.timeout.ms``."""
    given = {name.replace("_", "."): value for name, value in more.items()}
    return properties_of({"bootstrap.servers": broker.servers}, given)


async def fresh_topics(
    broker: Broker, partitions: int = 2, settings: Mapping[str, str] | None = None
) -> TopicNames:
    """Make topics that nobody else uses."""
    word = f"t{time.time_ns() // 1_000_000}-{os.getpid()}-{next(_count)}"
    names = TopicNames(word, word)
    admin = await connected_admin(client_properties(broker))
    try:
        copies = min(3, await admin.brokers())
        layout = Layout(partitions, partitions, copies)
        for topic in TOPICS:
            given = settings_of(topic, layout) | dict(settings or {})
            refusal = await admin.make(names.of(topic), partitions, copies, given)
            assert not refusal, refusal
        await settle(admin, names)
    finally:
        await admin.close()
    return names


async def remove_topics(broker: Broker, names: TopicNames) -> None:
    """Remove topics: a broker that keeps those of hundreds of tests gets slow, and full."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await admin.start()
    try:
        await admin.delete_topics(list(names.all))
    finally:
        await admin.close()
