"""Takeover: who ends cleanly hands over at once and loses no work; who stands still loses nothing.

Sessions are so long here that no partition can move because one has ended. How long takeovers take
is measured by ``make bench-kafka``.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from stepfold_engine.core.fold import claim_in
from stepfold_engine.log.base import EVENTS, JOURNAL
from stepfold_engine.readers import event_record
from stepfold_schemas import codec
from stepfold_schemas.entries import PartitionReleased, RunCompleted
from stepfold_schemas.events import Event
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
LONG_SESSION = ("-X", "session.timeout.ms=300000")


async def claims(c: Cluster) -> list[Counter[str]]:
    """Return how often each partition was claimed and released, from its journal."""
    found: list[Counter[str]] = []
    for number in range(PARTITIONS):
        counts, offset = Counter[str](), 0
        end = (await c.log.bounds(JOURNAL, number)).end
        while offset < end:
            batch = await c.log.read(JOURNAL, number, offset)
            for record in batch.records:
                decision = codec.decode_decision(record.value)
                counts["claimed"] += claim_in(decision) is not None
                counts["released"] += any(
                    isinstance(entry, PartitionReleased) for entry in decision.entries
                )
            offset = batch.next_offset
        found.append(counts)
    return found


def bodies_of(folder: Path) -> Counter[tuple[str, ...]]:
    """Return how often the body of each step was run."""
    lines = (folder / "bodies").read_text().splitlines()
    return Counter(tuple(line.split()[:2]) for line in lines)


def test_a_process_that_is_told_to_stop_hands_over_at_once_and_loses_no_work(
    kafka: Broker, tmp_path: Path
) -> None:
    """Nobody waits for its session to end, and no body runs twice."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start("", *LONG_SESSION)
            await c.start("", *LONG_SESSION)
            await c.publish(range(1, 41))
            await c.until(lambda: len(c.orders()) > 5)
            first.terminate()
            await c.publish(range(41, 61))
            await c.until(c.ended(60))
            assert await first.wait() == 0
            c.check(range(1, 61))
            assert set(bodies_of(tmp_path).values()) == {1}
            assert "Traceback" not in c.said(0)
            moved = [n for n in await claims(c) if n["released"]]
            assert moved, "what it had was released, not lost"

    run(main)


def test_a_function_that_blocks_its_loop_for_long_loses_no_partition(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For five sessions nothing of user code goes on, and heartbeats do."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            monkeypatch.setenv("BLOCK_S", str(5 * c.session_s))
            await c.start()
            await c.start()
            await c.publish(range(1, 11))
            await c.until(c.ended(10))
            before = await claims(c)
            event = Event("k/block", b"{}", "block-1")
            await c.log.append(EVENTS, 0, [event_record(event)])
            await c.until(lambda: any(of == "k-block" for of in c.runs.values()))
            await c.publish(range(11, 31))
            await c.until(c.ended(30))
            c.check(range(1, 31))
            (end,) = [e for r, e in c.ends.items() if c.runs[r] == "k-block"]
            assert isinstance(end, RunCompleted)
            assert json.loads(end.data) == "over"
            assert await claims(c) == before, "no partition was lost or claimed"

    run(main)
