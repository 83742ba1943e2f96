"""Functions whose code outside steps wavers, each in its own way; and some that do not."""

import asyncio
import datetime as dt
import os
import random
import time
import uuid
from datetime import UTC, date
from typing import Any

import stepfold

app = stepfold.App("w")
counted = 0
NAMES = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta"}


async def same(value: Any = None) -> Any:
    return value


async def fails() -> None:
    raise OSError("no")


@app.function("steady", on="steady", retries=1)
async def steady(ctx: stepfold.Context) -> list[Any]:
    first = await ctx.step.run("first", same, {"at": ctx.now(), "set": {1, 2}})
    both = [
        *await asyncio.gather(
            ctx.step.run("uuid", same, str(ctx.uuid())),
            ctx.step.run("random", same, ctx.random().random()),
        )
    ]
    for name in sorted(NAMES):
        await ctx.step.run("name", same, name)
    try:
        await ctx.step.run("fails", fails)
    except stepfold.StepError as error:
        both.append(error.message)
    try:
        async with asyncio.timeout(5):
            await ctx.step.sleep("long", "1h")
    except TimeoutError:
        both.append("late")
    await ctx.step.send_event("tell", {"name": "told", "data": {"n": 1}})
    await ctx.step.sleep_until("tomorrow", ctx.now() + dt.timedelta(days=1))
    done, _ = await asyncio.wait(
        [asyncio.ensure_future(ctx.step.sleep("nap", f"{n}h")) for n in (3, 1, 2)],
        return_when=asyncio.FIRST_COMPLETED,
    )
    first_of = await ctx.step.run("body", lambda: [time.time(), random.random(), os.getpid()])
    paid = await ctx.step.wait_for_event("paid", event="paid", timeout="1h", match="data.n")
    child = await ctx.step.invoke("child", function=plain, data={"n": 2})
    return [first, both, len(done), len(first_of), paid, child, ctx.now().isoformat()]


@app.function("plain")
def plain(ctx: stepfold.SyncContext) -> int:
    ctx.step.sleep("nap", "1m")
    return ctx.step.run("double", int, ctx.event.data["n"]) * 2


@app.function("random-argument", on="random-argument")
async def random_argument(ctx: stepfold.Context) -> None:
    await ctx.step.run("charge", same, random.randint(1, 10**9))


@app.function("random-branch", on="random-branch")
async def random_branch(ctx: stepfold.Context) -> None:
    await ctx.step.run(f"step {random.random()}", same)
    await ctx.step.run("after", same)


@app.function("random-id", on="random-id")
async def random_id(ctx: stepfold.Context) -> str:
    await ctx.step.sleep("nap", "1h")
    return str(uuid.uuid4())


@app.function("event-data", on="event-data")
async def event_data(ctx: stepfold.Context) -> None:
    await ctx.step.send_event("tell", {"name": "told", "data": {"at": time.time_ns()}})


@app.function("hour", on="hour")
async def hour(ctx: stepfold.Context) -> str:
    now = time.time()
    return "before" if now < float(ctx.event.data["limit"]) else "after"


@app.function("year", on="year")
def year(ctx: stepfold.SyncContext) -> int:
    ctx.step.sleep("nap", "1h")
    return date.today().year + dt.datetime.now(UTC).year  # noqa: DTZ011 - that is the point


@app.function("sleeps-until", on="sleeps-until")
async def sleeps_until(ctx: stepfold.Context) -> None:
    later = ctx.now() + dt.timedelta(milliseconds=time.perf_counter_ns() % 10**9)
    await ctx.step.sleep_until("later", later)


@app.function("setting", on="setting")
async def setting(ctx: stepfold.Context) -> None:
    if int(os.environ.get("WAVERING_LIMIT", "100")) > 100:
        await ctx.step.run("approve", same)
    await ctx.step.run("go", same)


@app.function("counter", on="counter")
async def counter(ctx: stepfold.Context) -> None:
    global counted  # noqa: PLW0603 - that is the point
    counted += 1
    await ctx.step.run(f"count {counted}", same)


@app.function("set-order", on="set-order")
async def set_order(ctx: stepfold.Context) -> None:
    for name in NAMES:
        await ctx.step.run(name, same)


@app.function("zone", on="zone")
async def zone(ctx: stepfold.Context) -> str:
    return ctx.now().astimezone().strftime("%H:%M")
