"""Topics that others made: their settings are none of ours, their records are Confluent's."""

import asyncio
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from stepfold_engine.kafka.connection import connected_admin
from tests.parts.broker import Broker
from tests.parts.registry import Registry
from tests.parts.topics import client_properties

_count = itertools.count()


def existing_topic(broker: Broker, partitions: int, **settings: str) -> str:
    """Make a topic as anybody does, with this many partitions."""
    topic = f"legacy{time.time_ns() // 1_000_000}-{os.getpid()}-{next(_count)}"
    config = {name.replace("_", "."): value for name, value in settings.items()}

    async def make() -> str:
        admin = await connected_admin(client_properties(broker))
        try:
            refusal = await admin.make(topic, partitions, 1, config)
            while not await admin.replicas([topic]):
                await asyncio.sleep(0.05)
        finally:
            await admin.close()
        return refusal

    assert not asyncio.run(make())
    return topic


def produce(broker: Broker, topic: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records with Confluent's producer; all are acknowledged when this returns."""
    failed: list[object] = []
    producer = Producer({"bootstrap.servers": broker.servers, "acks": "all"})
    for record in records:
        producer.produce(topic, **record, on_delivery=lambda e, _: failed.append(e) if e else None)
    assert producer.flush(30) == 0
    assert not failed


class Writer:
    """Writes values as Confluent's clients do: registers their schema, and frames them."""

    def __init__(self, registry: Registry | str, topic: str, schema: str) -> None:
        config = {"url": registry if isinstance(registry, str) else registry.url}
        if isinstance(registry, Registry) and registry.user_info:
            config["basic.auth.user.info"] = registry.user_info
        made = cast("Any", AvroSerializer)  # it hides what it is made with
        self._client = SchemaRegistryClient(config)
        self._serialize = made(self._client, schema)
        self._context = SerializationContext(topic, MessageField.VALUE)

    def __call__(self, value: object) -> bytes:
        data = self._serialize(value, self._context)
        assert data is not None
        return bytes(data)

    def close(self) -> None:
        """Close the connection to the registry."""
        self._client.close()
