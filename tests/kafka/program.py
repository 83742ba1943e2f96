"""The app that the tests of several processes run.

What its steps do is written to the file that BODIES names, each line with one write, so that a
kill cannot tear it.
"""

import asyncio
import os
import time

import stepfold

app = stepfold.App("k")
_bodies = os.open(os.environ["BODIES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


async def note(value: object) -> object:
    await asyncio.sleep(0.002)
    info = stepfold.step_info()
    os.write(_bodies, f"{info.run_id} {info.step} {info.attempt} {os.getpid()}\n".encode())
    return value


@app.function("order", on="k/order")
async def order(ctx: stepfold.Context) -> object:
    n = ctx.event.data["n"]
    await ctx.step.run("create", note, n)
    if n % 5 == 0:
        await ctx.step.sleep("nap", "300ms")
    twice = n
    if n % 7 == 0:
        twice = await ctx.step.invoke("double", function="k-double", data={"n": n})
    if n % 11 == 0:
        await ctx.step.send_event("tell", {"name": "k/told", "data": {"n": n}})
        await ctx.step.wait_for_event(
            "back", event="k/back", match="data.n", timeout="1h", since="run"
        )
    await ctx.step.run("ship", note, twice)
    return n


@app.function("double")
async def double(ctx: stepfold.Context) -> object:
    return await ctx.step.run("double", note, ctx.event.data["n"] * 2)


@app.function("told", on="k/told")
async def told(ctx: stepfold.Context) -> None:
    await ctx.step.send_event("answer", {"name": "k/back", "data": {"n": ctx.event.data["n"]}})


@app.function("patient", on="k/patient")
async def patient(ctx: stepfold.Context) -> str:
    event = await ctx.step.wait_for_event("never", event="k/never", timeout="1s")
    return "nothing came" if event is None else "something came"


@app.function("approve", on="k/asked")
async def approve(ctx: stepfold.Context) -> object:
    said = await ctx.step.wait_for_signal("approval", signal=ctx.event.data["signal"], timeout="1h")
    return None if said is None else said.data


@app.function("index", on="k/edited", debounce=stepfold.Debounce("3s", key="data.document"))
async def index(ctx: stepfold.Context) -> object:
    return ctx.event.data["n"]


async def take_long() -> str:
    await note("begun")
    await asyncio.sleep(2)
    return "done"


@app.function("slow", on="k/slow")
async def slow(ctx: stepfold.Context) -> object:
    return await ctx.step.run("long", take_long)


async def stand_still() -> str:
    await note("begun")
    time.sleep(float(os.environ["BLOCK_S"]))  # noqa: ASYNC251 - as careless code does
    return "over"


@app.function("block", on="k/block")
async def block(ctx: stepfold.Context) -> object:
    return await ctx.step.run("block", stand_still)
