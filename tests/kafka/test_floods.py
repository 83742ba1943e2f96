"""Much at once, and large: floods while nobody runs, copies in any order, records of 8 MB."""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, NewRecord
from stepfold_engine.readers import event_record
from stepfold_schemas.events import Event
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, Cluster, cluster, run
from tests.parts.cluster import run as run_long
from tests.parts.opened import log_names, opened, values

pytestmark = pytest.mark.timeout(300)
FLOOD = 150
NOISE = 3_000
EIGHT_MB = 8 << 20


def order(n: int) -> NewRecord:
    return event_record(Event("k/order", json.dumps({"n": n}).encode(), f"order-{n}"))


async def pour(c: Cluster, records: Sequence[NewRecord]) -> None:
    """Append records to all partitions of the events, in turn, many at once."""
    parts = [list(records[number::PARTITIONS]) for number in range(PARTITIONS)]
    await asyncio.gather(*(c.log.append(EVENTS, n, part) for n, part in enumerate(parts)))


@pytest.mark.process
def test_what_was_published_while_no_process_ran_is_caught_up_with(
    kafka: Broker, tmp_path: Path
) -> None:
    """Each event twice, in any order, in any partition, among many that start nothing."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start()
            first.terminate()
            assert await first.wait() == 0
            chance = random.Random(FLOOD)
            copies = [order(n) for n in range(1, FLOOD + 1) for _ in range(2)]
            noise = [event_record(Event("k/noise", b"{}", f"noise-{n}")) for n in range(NOISE)]
            flood = copies + noise
            chance.shuffle(flood)
            await pour(c, flood)
            await c.start()
            await c.start()
            await c.until(c.ended(FLOOD))
            # Behind everything: what comes now is read after all copies.
            await pour(c, [order(n) for n in range(FLOOD + 1, FLOOD + 41)])
            await c.until(c.ended(FLOOD + 40))
            c.check(range(1, FLOOD + 41))

    run_long(main)


def test_records_of_8_mb_are_appended_and_read_like_others(kafka: Broker) -> None:
    async def main() -> None:
        async with opened(kafka) as log, opened(kafka, log_names(log)) as reader:
            large = [bytes([n]) * EIGHT_MB for n in range(3)]
            for topic in (INBOX, JOURNAL):
                waiting = asyncio.ensure_future(reader.read(topic, 0, 0, wait_ms=60_000))
                await asyncio.gather(
                    *(log.append(topic, 0, [NewRecord(v), NewRecord(b"small")]) for v in large)
                )
                assert (await waiting).records[0].value == large[0]
                assert await values(reader, topic) == [v for one in large for v in (one, b"small")]

    run(main)
