"""Code that changes under running runs: ``ctx.version``, in virtual time, on every log."""

import asyncio
from typing import Any

import pytest

import stepfold
from stepfold_schemas.entries import VersionChosen
from tests.behaviour.conftest import Running
from tests.behaviour.scenario import RunRecord


def old(*, name: str = "f") -> stepfold.App:
    app = stepfold.App("t")

    @app.function(name, on="t/go")
    async def f(ctx: stepfold.Context) -> list[str]:
        await ctx.step.sleep("first", "1h")
        tax = await ctx.step.run("tax", str, "old")
        await ctx.step.sleep("second", "1h")
        return [tax]

    return app


def new() -> stepfold.App:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[str]:
        await ctx.step.sleep("first", "1h")
        if ctx.version("new-tax"):
            tax = await ctx.step.run("tax by law", str, "new")
        else:
            tax = await ctx.step.run("tax", str, "old")
        await ctx.step.sleep("second", "1h")
        assert ctx.version("new-tax") is (tax == "new"), "a name has one answer in a run"
        return [tax]

    return app


def chosen(run: RunRecord) -> list[tuple[str, bool]]:
    return [(e.name, e.chosen) for e in run.entries if isinstance(e, VersionChosen)]


def test_runs_keep_to_the_side_on_which_the_change_found_them(running: Running) -> None:
    with running(old()) as s:
        passed = s.start_run("t/go")
        s.advance(5_400)
        before = s.start_run("t/go")
        s.advance(60)
        assert passed.steps == ["tax"]
        assert before.steps == []
        s.crash()
        s.app = new()
        s.start()
        after = s.start_run("t/go")
        assert s.ended(passed).result == ["old"]
        assert s.ended(before).result == ["new"]
        assert s.ended(after).result == ["new"]
        assert chosen(passed) == [("new-tax", False)]
        assert chosen(before) == chosen(after) == [("new-tax", True)]


def test_a_run_that_was_told_keeps_its_answer_over_restarts(running: Running) -> None:
    with running(old()) as s:
        passed = s.start_run("t/go")
        s.advance(5_400)
        s.crash()
        s.app = new()
        s.start()
        other = s.start_run("t/go")
        for _ in range(4):
            s.advance(1_200)
            s.restart()
        assert s.ended(passed).result == ["old"]
        assert s.ended(other).result == ["new"]


def test_parallel_branches_are_told_the_new_side_in_a_new_run(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[bool]:
        import asyncio

        async def branch(name: str) -> bool:
            await ctx.step.run(f"{name} first", str, name)
            side = ctx.version(name)
            await ctx.step.run(f"{name} then", str, name)
            await ctx.step.sleep(f"{name} nap", "1m")
            return side

        return list(await asyncio.gather(*(branch(n) for n in "abcd")))

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(1)
        s.restart()
        assert s.ended(run).result == [True] * 4
        assert sorted(chosen(run)) == [(n, True) for n in "abcd"]


def test_in_a_plain_function(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    def f(ctx: stepfold.SyncContext) -> list[bool]:
        first = ctx.version("a")
        ctx.step.sleep("nap", "1m")
        return [first, ctx.version("a"), ctx.version("b")]

    with running(app) as s:
        run = s.run("t/go")
        assert run.result == [True, True, True]
        assert chosen(run) == [("a", True), ("b", True)]


def test_it_is_refused_where_it_cannot_be_recorded(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("body", on="t/body")
    async def body(ctx: stepfold.Context) -> None:
        def ask() -> bool:
            return ctx.version("a")

        await ctx.step.run("s", ask)

    @app.function("empty", on="t/empty")
    async def empty(ctx: stepfold.Context) -> None:
        ctx.version("")

    with running(app) as s:
        assert "called in the body of a step: ask in the function" in s.run("t/body").error
        assert "a version's name is empty" in s.run("t/empty").error


@pytest.mark.parametrize("at", range(0, 7_300, 450))
def test_a_deploy_at_any_time_diverges_nothing(running: Running, at: int) -> None:
    with running(old()) as s:
        run = s.start_run("t/go")
        s.advance(at)
        if run.end is not None:
            return
        s.crash()
        s.app = new()
        s.start()
        ended: Any = s.ended(run).result
        assert ended == (["old"] if "tax" in run.steps else ["new"])


def test_what_a_failed_attempt_had_cancelled_says_nothing_of_a_later_question(
    running: Running,
) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go", retries=2)
    async def f(ctx: stepfold.Context) -> bool:
        waiting = asyncio.ensure_future(
            ctx.step.wait_for_event("slow", event="t/never", timeout="1d")
        )
        await ctx.step.sleep("quick", "1m")
        waiting.cancel()
        await ctx.step.sleep("later", "1m")
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt}")
        return ctx.version("new-tax")

    with running(app) as s:
        run = s.run("t/go")
        assert run.result is True
        assert chosen(run) == [("new-tax", True)]
