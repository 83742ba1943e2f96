"""Logs on a broker, each with topics of its own."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import JOURNAL, Log
from tests.parts.broker import Broker
from tests.parts.topics import client_properties, fresh_topics, now_ms


@asynccontextmanager
async def opened(
    broker: Broker, names: TopicNames | None = None, **more: str
) -> AsyncGenerator[KafkaLog]:
    names = names or await fresh_topics(broker)
    log = await KafkaLog.connect(client_properties(broker, **more), names, now_ms)
    try:
        yield log
    finally:
        await log.close()


async def values(log: Log, topic: str = JOURNAL) -> list[bytes]:
    found: list[bytes] = []
    offset = 0
    while (batch := await log.read(topic, 0, offset)).records:
        found += [r.value for r in batch.records]
        offset = batch.next_offset
    return found


def log_names(log: KafkaLog) -> TopicNames:
    name = log._places[JOURNAL][0].target.name
    return TopicNames(name.removesuffix(".journal"), name.removesuffix(".journal"))
