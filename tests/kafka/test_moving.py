"""``stepfold log move`` to a real broker: runs in every state go on there, also after a kill."""

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from stepfold.app import App
from stepfold_engine.cli.loading import load, parse_target
from stepfold_engine.errors import LogError
from stepfold_engine.local import running_app
from stepfold_engine.log.base import EVENTS, JOURNAL
from stepfold_engine.node import Node
from stepfold_engine.readers import event_record
from stepfold_schemas.entries import Entry, RunCancelled, RunCompleted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of, ulid_text
from tests.kafka.test_serving import ask
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, Cluster, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

PROGRAM = Path(__file__).parent / "moved.py"
SLEEPERS = 150
STARTED = (
    [("m/sleeps", {"n": n}, f"sleeps-{n}") for n in range(SLEEPERS)]
    + [("m/waits", {"n": n}, f"waits-{n}") for n in range(4)]
    + [("m/asks", {"name": f"s{n}"}, f"asks-{n}") for n in range(4)]
    + [("m/invokes", {"name": f"i{n}"}, f"invokes-{n}") for n in range(4)]
    + [("m/looks-back", {}, "looks-back"), ("m/retries", {}, "retries")]
    + [("m/changed", {}, "changed"), ("m/cancelled", {}, "cancelled")]
)
STATES = {
    "sleep": SLEEPERS + 1,
    "wait": 5,
    "signal": 8,
    "invoke": 4,
    "step": 1,
    "stopped": 1,
    "delayed": 1,
}


def states(node: Node) -> Counter[str]:
    """Count the runs of a node by what they wait for."""
    found: Counter[str] = Counter()
    for run_ in (one for state in node.states() for one in state.runs):
        found.update(["stopped"] if run_.stopped else [o.kind for o in run_.operations.values()])
        found["delayed"] += bool(run_.due_ms and not run_.begun)
    return +found


async def lived(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, str]:
    """Run the app on an embedded log until its runs are in every state; return them."""
    app: App = load(parse_target(str(PROGRAM)))
    async with running_app(app, folder, partitions=2) as node:
        for name, data, id_ in STARTED:
            await app.send(name=name, data=data, id=id_)
        while states(node)["signal"] != STATES["signal"] + 1:
            await asyncio.sleep(0.05)
    monkeypatch.setenv("DIVERGING", "yes")
    app = load(parse_target(str(PROGRAM)))
    async with running_app(app, folder) as node:
        soon_ms = node.clock.now_ms() + 20_000
        await app.send(name="m/delayed", data={"n": 7}, id="delayed", ts=soon_ms)
        await node.signal("changed", b"1")
        while states(node) != STATES:
            await asyncio.sleep(0.05)
        runs = {one.id: one.function for state in node.states() for one in state.runs}
    monkeypatch.delenv("DIVERGING")
    return runs


def command(c: Cluster, *words: str) -> list[str]:
    names = c.names
    return [
        *(sys.executable, "-m", "stepfold.command", *words, "--kafka", c.broker.servers),
        *("--namespace", names.namespace, "--events-prefix", names.events_prefix),
    ]


async def said(*words: str, code: int = 0) -> str:
    done = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    text = (await done.communicate())[0].decode()
    assert done.returncode == code, text
    return text


async def kill_in_the_middle(c: Cluster, folder: Path) -> None:
    """Begin to move, and kill it when some, but not all, is written."""
    moving = await asyncio.create_subprocess_exec(*command(c, "log", "move", str(folder)))
    while (await c.log.bounds(JOURNAL, 0)).end < 3:
        await asyncio.sleep(0.001)
    moving.kill()
    assert await moving.wait() == -9


async def publish(c: Cluster, name: str, data: object, id_: str) -> None:
    where = partition_of(id_, PARTITIONS)
    event = event_record(Event(name, json.dumps(data).encode(), id_))
    await c.log.append(EVENTS, where, [event])


def test_runs_in_every_state_go_on_on_kafka(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        folder = tmp_path / "log"
        runs = await lived(folder, monkeypatch)
        async with cluster(kafka, tmp_path, "m") as c:
            told = await said(*command(c, "log", "move", str(folder), "--dry-run"))
            assert f"{len(runs):,} unfinished runs, 1 of them stopped" in told
            assert "it is unused" in told
            await kill_in_the_middle(c, folder)
            with pytest.raises(LogError, match=r"was begun .* run stepfold log move again"):
                async with running_app(load(parse_target(str(PROGRAM))), folder):
                    pass
            told = await said(*command(c, "log", "move", str(folder)))
            assert f"{len(runs):,} unfinished runs" in told
            told = await said(*command(c, "log", "move", str(folder)), code=1)
            assert "was moved to namespace" in told
            await go_on(c, runs)
            await ask_a_copy(c, tmp_path / "copy", runs)

    async def go_on(c: Cluster, runs: dict[bytes, str]) -> None:
        program = command(c, "run", str(PROGRAM))
        url = await c.url(await c.spawn([*program, "--port", "0"]))
        await c.spawn(program)
        for name, data, id_ in STARTED:
            await publish(c, name, data, id_)  # they are known
        for n in range(4):
            await publish(c, "m/paid", {"n": n, "sum": 10 * n}, f"paid-{n}")
        await publish(c, "m/late", {"sum": 99}, "late")
        await publish(c, "m/stop", {}, "stop")
        for name in [f"{kind}{n}" for kind in "si" for n in range(4)]:
            status, _ = await ask(url, "POST", "/v1/signals", {"signal": name, "data": name})
            assert status == 200, name
        (stopped,) = [one for one, function in runs.items() if function == "m-changed"]
        status, _ = await ask(url, "POST", f"/stepfold/v1/runs/{ulid_text(stopped)}/resume")
        assert status == 200
        await c.until(lambda: runs.keys() == c.ends.keys())
        results: dict[str, list[object]] = {}
        for one, function in runs.items():
            results.setdefault(function, []).append(result(c.ends[one]))
        assert sorted(map(str, results.pop("m-sleeps"))) == sorted(map(str, range(SLEEPERS)))
        assert {name: sorted(map(str, found)) for name, found in results.items()} == {
            "m-waits": ["0", "10", "20", "30"],
            "m-looks-back": ["99"],
            "m-asks": ["i0", "i1", "i2", "i3", "s0", "s1", "s2", "s3"],
            "m-invokes": ["i0", "i1", "i2", "i3"],
            "m-retries": ["at last"],
            "m-changed": ["5"],
            "m-cancelled": ["cancelled"],
            "m-delayed": ["7"],
        }
        assert not c.runs, "nothing was started twice"
        ran = Counter((tmp_path / "bodies").read_text().splitlines())
        assert set(ran.values()) == {1}, "nothing that had its outcome ran again"

    monkeypatch.setenv("BODIES", str(tmp_path / "bodies"))
    run(main)


async def ask_a_copy(c: Cluster, folder: Path, runs: dict[bytes, str]) -> None:
    """What was moved can be copied back, to be looked at in SQL."""
    await said(*command(c, "log", "copy", str(folder)))
    query = "SELECT function, count(*) FROM runs WHERE status <> 'running' GROUP BY ALL"
    told = await said(
        *(sys.executable, "-m", "stepfold.command", "sql", "--data", str(folder)),
        *("--format", "csv", query),
    )
    counts = dict(line.rsplit(",", 1) for line in told.splitlines() if line.startswith("m-"))
    assert counts == {name: str(count) for name, count in Counter(runs.values()).items()}


def result(end: Entry) -> object:
    if isinstance(end, RunCancelled):
        return "cancelled"
    assert isinstance(end, RunCompleted), end
    return json.loads(end.data)


def test_a_namespace_that_was_used_or_is_too_small_is_refused(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path, "k") as c:
            process = await c.start()
            process.terminate()
            assert await process.wait() == 0
            for number, partitions in enumerate((1, PARTITIONS + 1)):
                folder = tmp_path / f"log{number}-of-it"
                app = load(parse_target(str(PROGRAM)))
                async with running_app(app, folder, partitions=partitions):
                    pass
                told = await said(*command(c, "log", "move", str(folder)), code=1)
                wanted = "was used already" if number == 0 else f"--partitions {PARTITIONS + 1}"
                assert wanted in told
                # It can be run as before: nothing was begun.
                async with running_app(app, folder):
                    pass
            nowhere = str(tmp_path / "nowhere")
            assert "there is no log in" in await said(*command(c, "log", "move", nowhere), code=2)
            assert not os.path.exists(nowhere)  # noqa: PTH110 - a folder that was not made

    monkeypatch.setenv("BODIES", str(tmp_path / "bodies"))
    run(main)
