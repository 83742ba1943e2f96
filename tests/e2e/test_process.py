"""What user code may do to its process: kill it, block its loop."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import stepfold
from stepfold_engine.local import running_app
from stepfold_engine.owner import Owner
from stepfold_schemas.entries import Decision, RunCompleted, RunFailed
from stepfold_schemas.events import Event
from tests.e2e.test_kill import accepted

POISONED = Path(__file__).with_name("poisoned.py")
STARTS_MAX = 60


class Ends:
    """Collects the results of runs as they end."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.changed = asyncio.Event()

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        for entry in decision.entries:
            if isinstance(entry, RunCompleted):
                self.results.append(json.loads(entry.data))
                self.changed.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.results) < count:
                self.changed.clear()
                await self.changed.wait()


@pytest.mark.process
@pytest.mark.timeout(200)
def test_s20_a_step_that_kills_its_process_is_found_and_failed_and_the_others_end_well(
    tmp_path: Path,
) -> None:
    """S20: one poisoned step among hundreds of healthy runs."""
    for _ in range(STARTS_MAX):
        command = [sys.executable, str(POISONED), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if "finished" in done.stdout:
            break
        assert done.returncode == 13, done.stderr
    else:
        pytest.fail(f"not finished after {STARTS_MAX} starts")
    results: list[object] = []
    for decisions in asyncio.run(accepted(tmp_path)):
        for decision in decisions:
            for entry in decision.entries:
                assert not isinstance(entry, RunFailed), entry
                if isinstance(entry, RunCompleted):
                    results.append(json.loads(entry.data))
    (poisoned,) = [r for r in results if r != 6]
    assert results.count(6) == 300
    assert str(poisoned).startswith("poison: ProcessDiedError: the process died 3 times")


def test_code_that_blocks_its_loop_delays_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = stepfold.App("b")
    go_on = threading.Event()
    blocking = threading.Event()

    @app.function("blocked", on="b/blocked")
    async def blocked(ctx: stepfold.Context) -> str:
        await ctx.step.run("before", lambda: 1)
        blocking.set()
        go_on.wait(60)  # as time.sleep() in an async function
        await ctx.step.run("after", lambda: 1)
        return "blocked"

    @app.function("other", on="b/other")
    async def other(ctx: stepfold.Context) -> str:
        await ctx.step.run("first", lambda: 1)
        await ctx.step.sleep("nap", "100ms")
        await ctx.step.run("second", lambda: 1)
        return "other"

    async def main() -> None:
        ends = Ends()
        async with running_app(app, tmp_path, watchers=[ends]) as node:
            await node.publish([Event("b/other", b"{}") for _ in range(5)])
            await node.publish([Event("b/blocked", b"{}")])
            await asyncio.to_thread(blocking.wait, 30)
            await node.publish([Event("b/other", b"{}") for _ in range(5)])
            await ends.reach(10)
            assert ends.results == ["other"] * 10
            go_on.set()
            await ends.reach(11)
            assert ends.results[-1] == "blocked"

    caplog.set_level(logging.WARNING, "stepfold")
    try:
        asyncio.run(main())
    finally:
        go_on.set()
    report = [r.getMessage() for r in caplog.records if "test_process.py" in r.getMessage()]
    assert report, "the line that blocks is reported"


def test_an_app_sends_events_to_the_engine_in_its_own_process(tmp_path: Path) -> None:
    app = stepfold.App("own")

    @app.function("f", on="own/go")
    async def f(ctx: stepfold.Context) -> int:
        return int(ctx.event.data["n"]) + 1

    async def main() -> None:
        ends = Ends()
        async with running_app(app, tmp_path, watchers=[ends]):
            assert len(await app.send(name="own/go", data={"n": 1}, id="one")) == 1
            await app.send([{"name": "own/go", "data": {"n": 2}}])
            await ends.reach(2)
        assert sorted(map(str, ends.results)) == ["2", "3"]
        assert app.engine is None

    asyncio.run(main())
