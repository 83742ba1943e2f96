"""``stepfold export`` and ``replay-check`` read runs out of Kafka, with nobody there."""

import asyncio
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepfold_schemas import codec
from stepfold_schemas.ids import ulid_text
from tests.parts.broker import Broker
from tests.parts.cluster import PROGRAM, Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


async def says(c: Cluster, code: int, *args: str) -> str:
    """Run a command where the log of a cluster is; return what it said."""
    where = ["--kafka", c.broker.servers, "--namespace", c.names.namespace]
    where += ["--events-prefix", c.names.events_prefix]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stepfold",
        *args,
        *(where if args[0] != "replay" and "--url" not in args else []),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=c.folder,
        env=os.environ | {"BODIES": str(c.folder / "replayed")},
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == code, said
    return said


def test_a_run_is_taken_home_from_kafka_and_replayed(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            process = await c.start("", "--port", "0")
            url = await c.url(process)
            numbers = list(range(1, 31))
            await c.publish(numbers)
            await c.until(c.ended(len(numbers)))
            orders = {json.loads(c.ends[r].data): r for r in c.orders()}  # type: ignore[union-attr]
            doubled = [r for r, function in c.runs.items() if function == "k-double"]
            # That of seven invoked another run; to that of eleven, an event came back.
            outer = orders[7]
            live = ["--with-related", "--url", url]
            await says(c, 0, "export", ulid_text(outer), "-o", "live.avro", *live)
            process.kill()
            await process.wait()
            await says(c, 0, "export", ulid_text(outer), "-o", "run.avro", "--with-related")
            file = codec.read_runs(io.BytesIO((tmp_path / "run.avro").read_bytes()))
            live_file = codec.read_runs(io.BytesIO((tmp_path / "live.avro").read_bytes()))
            assert live_file.runs == file.runs
            assert file.runs[0].run == outer
            assert len(file.runs) == 2
            assert file.runs[1].run in doubled
            assert {r.status for r in file.runs} == {"completed"}
            told = await says(c, 0, "replay", "run.avro", str(PROGRAM))
            assert "returns 7, as it did then" in told
            await says(c, 0, "export", ulid_text(orders[11])[-8:], "-o", "eleven.avro")
            told = await says(c, 0, "replay", "eleven.avro", str(PROGRAM))
            assert "returns 11, as it did then" in told
            checked = await says(c, 0, "replay-check", str(PROGRAM), "--since", "1h")
            assert "k-order" in checked
            assert not (tmp_path / "replayed").read_text()
            other = ulid_text(outer[:15] + bytes([outer[15] ^ 1]))
            assert f"no run {other}" in await says(c, 1, "export", other)

    run(main)
