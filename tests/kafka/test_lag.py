"""Kafka's own tools show how far a namespace has read."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.log.base import EVENTS, INBOX
from tests.parts.broker import SCRIPT, Broker
from tests.parts.cluster import PARTITIONS, Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


async def lag(c: Cluster) -> dict[tuple[str, int], int | None]:
    """Return how many records are not read yet, as lag tools reckon; None if nobody told."""
    admin = AIOKafkaAdminClient(bootstrap_servers=c.broker.servers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(c.names.group)
    finally:
        await admin.close()
    told = {(place.topic, place.partition): at.offset for place, at in found.items()}
    result: dict[tuple[str, int], int | None] = {}
    for topic in (EVENTS, INBOX):
        for partition in range(PARTITIONS):
            end = (await c.log.bounds(topic, partition)).end
            offset = told.get((c.names.of(topic), partition))
            result[topic, partition] = None if offset is None else end - offset
    return result


async def until_read(c: Cluster) -> None:
    while set((await lag(c)).values()) != {0}:
        await asyncio.sleep(0.2)


def test_lag_is_what_the_slowest_partition_has_not_read(kafka: Broker, tmp_path: Path) -> None:
    """Nothing is left when all is read; what nobody reads is lag; who comes later catches up."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first, second = await c.start(), await c.start()
            await c.publish(range(1, 41))
            await c.until(c.ended(40))
            await until_read(c)
            for process in (first, second):
                process.kill()
                await process.wait()
            await c.publish(range(41, 61))
            left = await lag(c)
            events = [left[EVENTS, partition] for partition in range(PARTITIONS)]
            assert sum(number or 0 for number in events) == 20
            await c.start()
            await c.until(c.ended(60))
            await until_read(c)
            c.check(range(1, 61))
            if kafka.folder:
                shown = as_the_tool_shows(kafka, c.names.group)
                assert {(c.names.of(EVENTS), n): 0 for n in range(PARTITIONS)}.items() <= (
                    shown.items()
                )

    run(main)


def as_the_tool_shows(broker: Broker, group: str) -> dict[tuple[str, int], int]:
    command = [sys.executable, str(SCRIPT), "--dir", broker.folder, "tool", TOOL]
    command += ["--describe", "--group", group]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(group)]
    assert rows, json.dumps([done.stdout, done.stderr])
    # GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
    return {(row[1], int(row[2])): int(row[5]) for row in rows if row[5].isdigit()}
