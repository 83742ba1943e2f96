"""An event with an id lies in the partition of that id, whoever writes it."""

import asyncio
import json
import subprocess
import sys
import time

import pytest

from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.log.base import EVENTS
from stepfold_schemas.ids import partition_of
from tests.parts.broker import SCRIPT, Broker
from tests.parts.topics import client_properties, fresh_topics

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

TOOL = "org.apache.kafka.tools.ConsoleProducer"
PARTITIONS = 7
IDS = [f"order-{n}" for n in range(50)] + ["a", "ab", "abc", "été", "注文-1", "🛒"]


def produce(broker: Broker, topic: str, lines: list[str]) -> None:
    command = [sys.executable, str(SCRIPT), "--dir", broker.folder, "tool", TOOL]
    command += ["--topic", topic, "--property", "parse.key=true"]
    command += ["--property", "key.separator=|"]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_java_client_puts_an_id_where_stepfold_does(kafka: Broker) -> None:
    if not kafka.folder:
        pytest.skip("Kafka's own producer is known only of a broker that compose/kafka-local runs")

    async def main() -> None:
        names = await fresh_topics(kafka, PARTITIONS)
        lines = [f"{id_}|{json.dumps({'name': 'k/order', 'id': id_})}" for id_ in IDS]
        await asyncio.to_thread(produce, kafka, names.of(EVENTS), lines)
        now_ms = lambda: time.time_ns() // 1_000_000  # noqa: E731 - the clock
        log = await KafkaLog.connect(client_properties(kafka), names, now_ms)
        try:
            landed: dict[str, int] = {}
            for partition in range(PARTITIONS):
                for record in (await log.read(EVENTS, partition, 0)).records:
                    assert record.key is not None
                    landed[record.key.decode()] = partition
        finally:
            await log.close()
        assert landed == {id_: partition_of(id_, PARTITIONS) for id_ in IDS}

    asyncio.run(main())
