"""Pinned functions: runs go on only with the version they began with."""

from typing import Any

import stepfold
from stepfold_engine.core.partition import Partition
from tests.behaviour.conftest import Running
from tests.behaviour.scenario import Scenario


def version(name: str, *, pin: bool = True) -> stepfold.App:
    app = stepfold.App("t")

    @app.function("f", on="t/go", version=name, pin=pin)
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.sleep("nap", "1h")
        return await ctx.step.run("say", str, name)

    return app


def deploy(s: Scenario, app: stepfold.App, **more: Any) -> None:
    s.crash()
    s.app = app
    s.serves = set(more.get("serves", ()))
    s.start()


def unfinished(s: Scenario) -> int:
    def count(state: Partition) -> int:
        return len(state.runs)

    return sum(count(state) for state in s.node.states())


def test_runs_wait_for_the_version_they_began_with(running: Running) -> None:
    with running(version("1")) as s:
        old = s.start_run("t/go")
        s.advance(60)
        deploy(s, version("2"))
        new = s.start_run("t/go")
        assert s.ended(new).result == "2"
        s.advance(7_200)
        assert old.end is None
        assert old.id in s.node.native.unserved
        s.restart()
        s.advance(7_200)
        assert old.end is None
        assert old.id in s.node.native.unserved, "it is shown after a restart, too"
        deploy(s, version("1"))
        assert s.ended(old).result == "1"


def test_a_process_may_say_that_it_serves_another_version(running: Running) -> None:
    with running(version("1")) as s:
        old = s.start_run("t/go")
        s.advance(60)
        deploy(s, version("2"), serves=["1"])
        assert s.ended(old).result == "2"


def test_a_version_without_pin_takes_over_all_runs(running: Running) -> None:
    with running(version("1")) as s:
        old = s.start_run("t/go")
        s.advance(60)
        deploy(s, version("2", pin=False))
        assert s.ended(old).result == "2"


def test_a_run_of_a_newer_version_waits_in_an_older_process(running: Running) -> None:
    with running(version("2")) as s:
        s.complete = False  # a rolling deploy: what is declared stays, whoever starts
        deploy(s, version("1"))
        run = s.start_run("t/go")
        s.advance(7_200)
        assert run.end is None
        assert unfinished(s) == 1
        deploy(s, version("2"))
        assert s.ended(run).result == "2"
