"""Code that changed under a run: each kind is stopped with a report that a person can read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import stepfold
from stepfold import Context
from stepfold_schemas.entries import SleepBegan, StepCompleted
from tests.unit.sdk_journal import Journal, Run

Code = Callable[[Context], Awaitable[Any]]
MODES = pytest.mark.parametrize("always_replay", [False, True], ids=["hot", "replaying"])


async def work(value: Any) -> Any:
    return value


def app_of(code: Code) -> stepfold.App:
    app = stepfold.App("shop")
    app.function("order")(code)  # type: ignore[arg-type]
    return app


async def charge_sleep_ship(ctx: Context) -> str:
    await ctx.step.run("charge", work, 1)
    await ctx.step.sleep("cool off", "1h")
    await ctx.step.run("ship", work, 2)
    return "shipped"


def changed(before: Code, after: Code, when: Callable[[Run], object], **options: Any) -> Run:
    with Journal(app_of(before), **options) as journal:
        run = journal.start("order")
        journal.until(lambda: when(run), step=0.01)
        journal.use(app_of(after))
        return journal.finish(run)


def asleep(run: Run) -> bool:
    return bool(run.named(SleepBegan))


@MODES
def test_a_step_under_another_name(always_replay: bool) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("authorise", work, 1)
        return "?"

    report = changed(charge_sleep_ship, after, asleep, always_replay=always_replay).report
    assert report["function"] == "shop-order"
    assert report["expected"]["kind"] == "step"
    assert report["expected"]["step"] == "charge"
    assert report["expected"]["recorded_at"].startswith("2025-06-15T")
    (met,) = report["met"]
    assert (met["kind"], met["step"]) == ("step", "authorise")
    assert met["file"] == __file__
    line = met["line"]
    with open(__file__) as source:  # noqa: PTH123
        assert "authorise" in source.readlines()[line - 1]
    assert "resume" in report["advice"]


@MODES
def test_another_kind_under_the_same_name(always_replay: bool) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.sleep("charge", "1s")
        return "?"

    report = changed(charge_sleep_ship, after, asleep, always_replay=always_replay).report
    assert report["problem"] == "the code asks for a sleep where the journal holds a step"
    assert report["expected"]["step"] == "charge"
    assert report["met"][0]["kind"] == "sleep"
    assert report["met"][0]["line"] > 0


@MODES
def test_the_function_ends_too_early(always_replay: bool) -> None:
    async def after(_: Context) -> str:
        return "at once"

    run = changed(charge_sleep_ship, after, asleep, always_replay=always_replay)
    assert "ended" in run.report["problem"]
    assert run.report["expected"]["step"] == "charge"


@MODES
def test_a_sleep_that_is_gone(always_replay: bool) -> None:
    ran: list[str] = []

    async def ship() -> None:
        ran.append("ship")

    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.run("ship now", ship)
        return "?"

    report = changed(charge_sleep_ship, after, asleep, always_replay=always_replay).report
    assert report["expected"]["kind"] == "sleep"
    assert report["expected"]["step"] == "cool off"
    assert report["met"][0]["step"] == "ship now"
    assert ran == [], "the new step must not run before that is judged"


def test_a_change_behind_what_is_recorded_is_fine() -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.sleep("cool off", "1h")
        await ctx.step.run("pack", work, 3)
        await ctx.step.run("ship", work, 2)
        return "shipped well"

    assert changed(charge_sleep_ship, after, asleep).result == "shipped well"


def test_steps_in_parallel_may_change_places_in_the_code() -> None:
    async def before(ctx: Context) -> Any:
        first = await asyncio.gather(ctx.step.run("a", work, 1), ctx.step.run("b", work, 2))
        await ctx.step.sleep("s", "1h")
        return first

    async def after(ctx: Context) -> Any:
        first = await asyncio.gather(ctx.step.run("b", work, 2), ctx.step.run("a", work, 1))
        await ctx.step.sleep("s", "1h")
        return first

    assert changed(before, after, asleep).result == [2, 1]


def test_io_in_the_functions_code_is_not_taken_for_divergence() -> None:
    async def before(ctx: Context) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", ctx.event.data["port"])
        line = await reader.readline()
        writer.close()
        await ctx.step.run("charge", work, 1)
        await ctx.step.sleep("s", "1h")
        return line.decode()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    with Journal(app_of(before)) as journal:
        server = journal.loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
        run = journal.start("order", {"port": server.sockets[0].getsockname()[1]})
        journal.until(lambda: asleep(run))
        journal.crash()
        assert journal.finish(run).result == "hello\n"
        server.close()
        journal.settle(1)


def test_a_stopped_run_goes_on_when_the_code_is_put_right() -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("authorise", work, 1)
        return "?"

    with Journal(app_of(charge_sleep_ship)) as journal:
        run = journal.start("order")
        journal.until(lambda: asleep(run), step=0.01)
        journal.use(app_of(after))
        assert journal.finish(run).report
        journal.app = app_of(charge_sleep_ship)
        run.end = None
        journal.use(journal.app)
        assert journal.finish(run).result == "shipped"


def test_a_function_that_failed_is_retried_on_repaired_code() -> None:
    async def before(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        raise KeyError("a bug")

    async def after(ctx: Context) -> list[Any]:
        await ctx.step.run("look up", work, 5)
        return [ctx.attempt, await ctx.step.run("charge", work, 7)]

    with Journal(app_of(before)) as journal:
        run = journal.start("order")
        journal.until(lambda: run.attempt == 2)
        journal.use(app_of(after))
        assert journal.finish(run).result == [2, 1]
        assert run.named(StepCompleted) == ["charge", "look up"]
