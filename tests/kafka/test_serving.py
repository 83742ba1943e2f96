"""The HTTP API of processes that share a log: whichever is asked, the run is found."""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stepfold_schemas.entries import RunCancelled, RunCompleted
from stepfold_schemas.ids import home_of, ulid_text
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
OURS = "/stepfold/v1"


async def ask(url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url + path, data, method=method)

    def answer() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(asked, timeout=60) as reply:
                status, said = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            status, said = error.code, error.read()
        is_text = path == "/metrics"
        return status, said.decode() if is_text else json.loads(said) if said else None

    return await asyncio.to_thread(answer)


async def two(c: Cluster) -> tuple[str, str]:
    """Start two processes; return their addresses when each owns something."""
    first = await c.url(await c.start("", "--port", "0"))
    second = await c.url(await c.start("", "--port", "0"))
    while not all([await owned(first), await owned(second)]):
        await asyncio.sleep(0.1)
    return first, second


async def owned(url: str) -> set[int]:
    _, body = await ask(url, "GET", f"{OURS}/partitions")
    assert [row["partition"] for row in body["data"]] == list(range(PARTITIONS))
    assert {row["status"] for row in body["data"]} <= {"owned", "elsewhere"}
    return {row["partition"] for row in body["data"] if row["status"] == "owned"}


def test_any_process_takes_requests_about_all_runs(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            urls = await two(c)
            events = [
                {"name": "k/asked", "data": {"signal": f"s{n}"}, "id": f"e{n}"} for n in range(8)
            ]
            status, body = await ask(urls[0], "POST", "/e/key", events)
            assert (status, len(body["ids"])) == (200, 8)
            await c.until(lambda: len(c.runs) == 8)
            runs = sorted(c.runs)
            for n, of in enumerate(runs[:4]):
                status, _ = await ask(urls[n % 2], "DELETE", f"{OURS}/runs/{ulid_text(of)}")
                assert status == 200
            status, _ = await ask(urls[0], "DELETE", f"{OURS}/runs/{ulid_text(runs[0])}")
            assert status == 404
            await c.until(lambda: len(c.ends) == 4)
            got = 0
            for n in range(8):
                asked = {"signal": f"s{n}", "data": n}
                status, _ = await ask(urls[n % 2], "POST", "/v1/signals", asked)
                assert status in (200, 404)  # 404: its run was cancelled
                got += status == 200
            assert got == 4
            await c.until(c.ended(0))
            kinds = [type(end) for end in c.ends.values()]
            assert (kinds.count(RunCancelled), kinds.count(RunCompleted)) == (4, 4)
            assert len({home_of(of) for of in c.ends}) > 1
            status, _ = await ask(urls[1], "POST", f"{OURS}/runs/{ulid_text(runs[0])}/resume")
            assert status == 404

    run(main)


def test_what_a_process_cannot_know_it_does_not_answer(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            url = await c.url(await c.start("", "--port", "0"))
            await ask(url, "POST", "/e/key", {"name": "k/asked", "data": {"signal": "s"}})
            await c.until(lambda: len(c.runs) == 1)
            (of,) = map(ulid_text, c.runs)
            _, body = await ask(url, "GET", "/v1/events")
            (event,) = body["data"]
            for path in (
                f"{OURS}/runs",
                f"{OURS}/runs/{of}",
                f"{OURS}/runs/{of[-8:]}",
                f"{OURS}/runs/{of}/timeline",
                f"/v1/runs/{of}",
                f"/v1/events/{event['internal_id']}/runs",
            ):
                status, body = await ask(url, "GET", path)
                assert status == 501, path
                assert "stepfold log copy" in body["error"]
            status, body = await ask(url, "POST", "/v1/sql", {"sql": "SELECT 1"})
            assert (status, "--projections" in body["error"]) == (501, True)
            status, body = await ask(url, "GET", f"{OURS}/dead-letters")
            assert (status, body["data"]) == (200, [])
            status, text = await ask(url, "GET", "/metrics")
            assert status == 200
            assert f"stepfold_partitions_owned {PARTITIONS}.0" in text
            assert 'stepfold_runs_started_total{function="k-approve"} 1.0' in text
            assert 'stepfold_append_seconds_count{topic="journal"}' in text

    run(main)


def test_attempts_end_before_a_process_that_is_told_to_stop(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start("", "--port", "0")
            url = await c.url(first)
            await ask(url, "POST", "/e/key", {"name": "k/slow", "data": {}})
            bodies = tmp_path / "bodies"
            while not (bodies.exists() and bodies.read_text()):
                await asyncio.sleep(0.05)
            first.terminate()
            assert await first.wait() == 0
            await c.until(lambda: len(c.outcomes) == 1)  # nobody else could have recorded it
            await c.start()
            await c.until(lambda: len(c.ends) == 1)
            (end,) = c.ends.values()
            assert isinstance(end, RunCompleted)
            assert json.loads(end.data) == "done"
            assert len(bodies.read_text().splitlines()) == 1
            assert "Traceback" not in c.said(0)

    run(main)
