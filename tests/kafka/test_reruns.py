"""A rerun that is asked for at a process which does not own the run."""

import json
from pathlib import Path

import pytest

from stepfold_schemas.entries import RunCompleted
from stepfold_schemas.ids import home_of, parse_ulid, ulid_text
from tests.kafka.test_serving import OURS, ask, owned, two
from tests.parts.broker import Broker
from tests.parts.cluster import Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def test_any_process_reruns_any_run(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            urls = await two(c)
            await ask(urls[0], "POST", "/e/key", {"name": "k/slow", "data": {}})
            await c.until(lambda: len(c.ends) == 1)
            (old,) = c.ends
            other = await _elsewhere(old, urls)
            path = f"{OURS}/runs/{ulid_text(old)}/rerun"
            asked = {"from_failure": True, "asked_by": "ann", "why": "a trial"}
            new = await _rerun(c, other, path, asked)
            # Everything was recorded, so everything is shared: no body runs again.
            assert len((tmp_path / "bodies").read_text().splitlines()) == 1
            for url in urls:
                _, body = await ask(url, "POST", path, asked)
                assert body["data"]["run_id"] == ulid_text(new)
                assert body["data"]["repeated"] is True
            status, body = await ask(other, "POST", path, {"from": "nothing"})
            assert (status, "no step 'nothing'" in body["error"]) == (404, True)
            unknown = f"{OURS}/runs/{ulid_text(old[:15] + bytes([old[15] ^ 1]))}/rerun"
            assert (await ask(other, "POST", unknown))[0] == 404

    run(main)


async def _elsewhere(of: bytes, urls: tuple[str, str]) -> str:
    """Return the address of the process that does not own a run."""
    return urls[1] if home_of(of) in await owned(urls[0]) else urls[0]


async def _rerun(c: Cluster, url: str, path: str, asked: object) -> bytes:
    status, body = await ask(url, "POST", path, asked)
    assert status == 200, body
    assert body["data"]["repeated"] is False
    new = parse_ulid(body["data"]["run_id"])
    await c.until(lambda: new in c.ends)
    end = c.ends[new]
    assert isinstance(end, RunCompleted), end
    assert json.loads(end.data) == "done"
    return new
