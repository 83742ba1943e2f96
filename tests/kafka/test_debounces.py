"""Debounced functions in several processes: events meet at their key's home, whoever owns it."""

import asyncio
import json
from pathlib import Path

import pytest

from stepfold_engine.log.base import EVENTS
from stepfold_engine.readers import event_record
from stepfold_schemas.entries import RunCompleted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import home_of, partition_of
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
DOCUMENTS = 12
EDITS = 5


async def edit(c: Cluster, document: int, edits: range) -> None:
    for n in edits:
        # Their time stamps say which is the last: they come from different partitions.
        ts = 1_800_000_000_000 + n
        data = json.dumps({"document": document, "n": n}).encode()
        event = Event("k/edited", data, f"{document}/{n}", ts - 100_000_000_000)
        await c.log.append(EVENTS, partition_of(event.id, PARTITIONS), [event_record(event)])


def test_the_last_event_of_each_key_starts_one_run_although_a_process_is_killed(
    kafka: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start("first")
            await c.start()
            await asyncio.gather(*(edit(c, d, range(EDITS - 1)) for d in range(DOCUMENTS)))
            first.kill()
            await first.wait()
            # The first three again, as a sender does that had no answer, and then the last one.
            await asyncio.gather(*(edit(c, d, range(3)) for d in range(DOCUMENTS)))
            await asyncio.gather(*(edit(c, d, range(EDITS - 1, EDITS)) for d in range(DOCUMENTS)))
            last = {f"k-index {d}/{EDITS - 1}" for d in range(DOCUMENTS)}
            await c.until(lambda: last <= c.starts.keys() and c.runs.keys() == c.ends.keys())
            await c.start("third")
            await edit(c, DOCUMENTS, range(EDITS))
            await c.until(lambda: f"k-index {DOCUMENTS}/{EDITS - 1}" in c.starts)
            await c.until(lambda: c.runs.keys() == c.ends.keys())
            assert all(isinstance(end, RunCompleted) for end in c.ends.values())
            # While a partition had no owner, its events may have missed those of the others.
            assert set(c.starts.values()) == {1}
            assert DOCUMENTS < len(c.runs) <= 2 * DOCUMENTS + 1
            assert len({home_of(of) for of in c.ends}) > 1

    run(main)
