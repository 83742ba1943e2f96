"""Where a namespace begins to read events, which it shares with others."""

from pathlib import Path

import pytest
from aiokafka.admin import (  # pyright: ignore[reportMissingTypeStubs]
    AIOKafkaAdminClient,
    NewPartitions,
    RecordsToDelete,
)
from aiokafka.structs import TopicPartition  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.log.base import EVENTS
from stepfold_engine.readers import event_record
from stepfold_schemas.events import Event
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, cluster, run
from tests.parts.topics import client_properties

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def test_a_new_namespace_reads_what_comes_after_its_first_process(
    kafka: Broker, tmp_path: Path
) -> None:
    """Events before it are others'; that some were removed long ago is nothing to report."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            await c.publish(range(1, 41))
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
            await admin.start()
            try:
                topic = c.names.of(EVENTS)
                places = [TopicPartition(topic, n) for n in range(PARTITIONS)]
                await admin.delete_records({place: RecordsToDelete(2) for place in places})
                process = await c.start()
                await c.publish(range(41, 61))
                await c.until(c.ended(20))
                process.kill()
                await process.wait()
                await c.publish(range(61, 66))
                # One that is added later is read from its first record on.
                await admin.create_partitions({topic: NewPartitions(PARTITIONS + 1)})
                now_ms = lambda: 0  # noqa: E731 - the broker's time counts
                wider = await KafkaLog.connect(client_properties(kafka), c.names, now_ms)
                event = Event("k/order", b'{"n": 66}', "order-66")
                await wider.append(EVENTS, PARTITIONS, [event_record(event)])
                await wider.close()
            finally:
                await admin.close()
            await c.start()
            await c.until(c.ended(26))
            c.check(range(41, 67))
            assert "removed unread" not in c.said(0) + c.said(1)

    run(main)
