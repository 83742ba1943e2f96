"""Stubs: what a step does in a test."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import stepfold
from stepfold.testing import MakeEnvironment


@dataclass
class Receipt:
    number: int


async def charge(amount: int, *, currency: str = "EUR") -> Receipt:
    raise AssertionError("the real service")


def app_that_charges() -> stepfold.App:
    app = stepfold.App("shop")

    @app.function("order", on="order", retries=stepfold.Retry(retries=3, delay="1s", jitter=0))
    async def order(ctx: stepfold.Context) -> Any:
        receipt = await ctx.step.run("charge", charge, 7, currency="CHF")
        return [receipt.number, ctx.attempt]

    @app.function("twice", on="twice")
    async def twice(ctx: stepfold.Context) -> list[int]:
        return [(await ctx.step.run("charge", charge, n)).number for n in range(2)]

    return app


def test_a_stub_returns_through_json_and_annotation(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(app_that_charges())
    stub = env.stub("charge", returns={"number": 5})
    assert env.send("order").run.result == [5, 1]
    (call,) = stub.calls
    assert (call.step, call.attempt, call.args, call.kwargs) == (
        "charge", 1, (7,), {"currency": "CHF"},
    )  # fmt: skip


def test_a_stub_that_does_not_fit_the_annotation_is_told(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(app_that_charges())
    env.stub("charge", returns={"nummer": 5})
    run = env.send("order").run
    assert "does not read back as Receipt" in str(run.error)


def test_stubs_serve_one_after_the_other(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(app_that_charges())
    down = env.stub("charge", raises=OSError("down"), times=2)
    up = env.stub("charge", returns=Receipt(1))
    run = env.send("order").run
    env.finish()
    assert run.result == [1, 1]
    assert [f.name for f in run.step("charge").failures] == ["OSError", "OSError"]
    assert ([c.attempt for c in down.calls], [c.attempt for c in up.calls]) == ([1, 2], [3])
    assert run.duration == timedelta(seconds=5)


def test_a_stub_that_raises_for_good(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(app_that_charges())
    env.stub("charge", raises=stepfold.NonRetriableError("stolen card"))
    run = env.send("order").run
    assert run.status == "failed"
    assert run.step("charge").attempts == 1


def test_a_stub_of_one_repeat_or_of_one_function(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(app_that_charges())
    env.stub("charge:1", returns=Receipt(11))
    env.stub("charge", returns=Receipt(12), function="twice")
    env.stub("charge", call=lambda amount, **_: Receipt(amount * 100))
    assert env.send("twice").run.result == [12, 11]
    assert env.send("order").run.result == [700, 1]


def test_a_stub_takes_virtual_time(stepfold_env: MakeEnvironment) -> None:
    app = stepfold.App("shop")

    @app.function("race", on="race")
    async def race(ctx: stepfold.Context) -> Any:
        try:
            return await ctx.step.options(timeout="10s", retries=0).run("slow", charge, 1)
        except stepfold.StepError as error:
            return error.name

    @app.function("own", on="own")
    async def own(ctx: stepfold.Context) -> Any:
        try:
            async with asyncio.timeout(10):
                return await ctx.step.run("slow", charge, 1)
        except TimeoutError:
            return "too slow"

    env = stepfold_env(app)
    slow = env.stub("slow", returns=1, takes="1h")
    first, second = env.send("race").run, env.send("own").run
    env.finish()
    assert (first.result, second.result) == ("TimeoutError", "too slow")
    assert first.duration == timedelta(seconds=10)
    assert second.step("slow").status == "abandoned" if second.steps else True
    assert len(slow.calls) == 2


def test_what_a_stub_was_given_does_not_change_afterwards(stepfold_env: MakeEnvironment) -> None:
    app = stepfold.App("shop")

    @app.function("f", on="f")
    async def f(ctx: stepfold.Context) -> None:
        notes: list[int] = []
        for n in range(3):
            await ctx.step.run("note", print, notes)
            notes.append(n)

    env = stepfold_env(app)
    stub = env.stub("note")
    env.send("f")
    assert [call.args for call in stub.calls] == [([],), ([0],), ([0, 1],)]


def test_the_steps_of_our_own_can_be_stubbed(stepfold_env: MakeEnvironment) -> None:
    app = stepfold.App("shop")

    @app.function("f", on="f", retries=0)
    async def f(ctx: stepfold.Context) -> Any:
        return await ctx.step.send_event("tell", {"name": "told"})

    env = stepfold_env(app)
    env.stub("tell", returns=["id-1"])
    assert env.send("f").run.result == ["id-1"]
    assert env.sent() == []
