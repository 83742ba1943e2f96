"""What type checkers infer of the SDK. Not run, but checked by mypy and pyright."""

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import stepfold
from stepfold import Context, Event, Function, Signal, SyncContext

app = stepfold.App("shop")


async def fetch(order_id: int, *, fast: bool = False) -> dict[str, int]:
    return {"id": order_id, "fast": fast}


def total(*amounts: float) -> float:
    return sum(amounts)


@stepfold.step(retries=2, timeout="30s")
async def charge(amount: float) -> str:
    return f"charged {amount}"


@app.function("fulfil", on="shop/order.created")
async def fulfil(ctx: Context) -> list[int]:
    assert_type(ctx.event, Event)
    assert_type(ctx.event.data, dict[str, Any])
    assert_type(ctx.now(), datetime)
    assert_type(await ctx.step.run("fetch", fetch, 7, fast=True), dict[str, int])
    assert_type(await ctx.step.run("total", total, 1.0, 2.0), float)
    assert_type(await ctx.step.run("charge", charge, 9.5), str)
    assert_type(await ctx.step.run("later", lambda: fetch(1)), dict[str, int])
    assert_type(await ctx.step.options(retries=0).run("total", total), float)
    await ctx.step.sleep("s", timedelta(days=1))
    await ctx.step.sleep_until("u", datetime.now(UTC))
    assert_type(
        await ctx.step.wait_for_event("w", event="a/b", timeout="1d", since="run"), Event | None
    )
    assert_type(await ctx.step.wait_for_signal("g", signal="x", timeout=5_000), Signal | None)
    assert_type(await ctx.step.send_event("e", {"name": "a/b", "data": {"n": 1}}), list[str])
    assert_type(await ctx.step.send_signal("h", "x", {"ok": True}), str | None)
    assert_type(await ctx.step.invoke("i", function=square, data={"n": 2}), int)
    assert_type(await ctx.step.invoke("p", function=plain), str)
    await ctx.step.invoke("j", function="shop-square")
    return [1]


@app.function("square")
async def square(ctx: Context) -> int:
    number: int = ctx.event.data["n"]
    return number * number


@app.function("plain")
def plain(ctx: SyncContext) -> str:
    assert_type(ctx.step.run("fetch", fetch, 7), dict[str, int])
    assert_type(ctx.step.run("total", total, 1.0), float)
    assert_type(ctx.step.options(timeout="1s").run("total", total, 1.0), float)
    assert_type(ctx.step.wait_for_event("w", event="a/b", timeout="1d"), Event | None)
    assert_type(ctx.step.invoke("i", function=square), int)
    ctx.step.sleep("s", "1d")
    return "done"


@fulfil.on_failure
async def alert(ctx: Context) -> None:
    assert_type(ctx.event.name, str)


assert_type(fulfil, Function[list[int]])
assert_type(square, Function[int])
assert_type(plain, Function[str])
assert_type(alert, Function[None])


async def mistakes(ctx: Context) -> None:
    """What checkers must refuse: each comment is needed, or the checker complains about it."""
    await ctx.step.run("fetch", fetch, "x")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    await ctx.step.run("fetch", fetch)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await ctx.step.sleep("s", 1.5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await ctx.step.wait_for_signal("s", signal="x", timeout="1s", on_conflict="no")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await ctx.step.wait_for_event("s", event="x")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def use() -> None:
    assert_type(await app.send(name="a/b", data={"n": 1}), list[str])
    assert_type(stepfold.Client().signal("x"), str | None)
    assert_type(stepfold.step_info().attempt, int)
