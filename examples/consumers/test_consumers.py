"""The consumers read what a real broker holds, with what is public and nothing else."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepfold_engine.log.base import JOURNAL, NewRecord
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, SleepEnded
from tests.kafka.test_topics import topics
from tests.parts.broker import Broker
from tests.parts.cluster import Cluster, cluster, run

HERE = Path(__file__).parent
EVENTS = 6
KCAT = "kcat is not installed: `apt install kcat` or `brew install kcat` brings it"

pytestmark = [pytest.mark.kafka, pytest.mark.process, pytest.mark.timeout(240)]


async def output(*command: str) -> list[str]:
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def follow(c: Cluster) -> list[Any]:
    """Return what the consumer says of a namespace."""
    where = ["--namespace", c.names.namespace, "--events-prefix", c.names.events_prefix]
    code, text, err = await asyncio.to_thread(
        topics, "asyncapi", *where, "--kafka", c.broker.servers
    )
    assert code == 0, err
    document = c.folder / "asyncapi.json"
    document.write_text(text)
    command = [sys.executable, str(HERE / "follow.py"), str(document), "--until-end"]
    return [json.loads(line) for line in await output(*command)]


def test_events_and_journal_are_read_with_what_is_public(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            process = await c.start()
            await c.publish(range(1, EVENTS + 1))
            await c.until(c.ended(EVENTS))
            process.terminate()
            await process.wait()
            zombie = Decision(1, 1_000_000, 0, 0, [], [SleepEnded(bytes(16), b"")])
            await c.log.append(JOURNAL, 0, [NewRecord(codec.encode(zombie))])
            lines = await follow(c)
            events = [line["Event"] for line in lines if "Event" in line]
            assert sorted(e["data"]["n"] for e in events) == list(range(1, EVENTS + 1))
            assert {e["name"] for e in events} == {"k/order"}
            journal = [line for line in lines if "Decision" in line]
            assert [line["Decision"]["seq"] for line in journal if not line["counts"]] == [
                zombie.seq
            ]
            entries = [entry for line in journal for entry in line["Decision"]["entries"]]
            assert not [entry for entry in entries if "unknown" in entry]
            started = [e["RunStarted"] for e in entries if "RunStarted" in e]
            assert [s["function"] for s in started].count("k-order") == EVENTS
            ended = [e["RunCompleted"]["data"] for e in entries if "RunCompleted" in e]
            assert sorted(ended) == list(range(1, EVENTS + 1))

    run(main)


@pytest.mark.skipif(shutil.which("kcat") is None, reason=KCAT)
def test_names_and_keys_are_read_with_kcat(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            await c.publish(range(1, EVENTS + 1))
            script = str(HERE / "events.sh")
            lines = await output(script, kafka.servers, f"{c.names.events_prefix}.events")
            rows = [line.split("\t") for line in lines]
            assert {(row[2], row[3]) for row in rows} == {
                (f"order-{n}", "k/order") for n in range(1, EVENTS + 1)
            }

    run(main)
