"""The process that the kill tests kill: an engine, an app, and a stream of events.

Usage: ``python killed.py FOLDER ROUND``. What it acknowledges and what step bodies do is written to
files with single writes, so that a kill cannot tear a line.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import stepfold
from stepfold_engine.local import running_app
from stepfold_engine.settings import Settings
from stepfold_schemas.events import Event

FOLDER = Path(sys.argv[1])
ROUND = int(sys.argv[2])
FINISH = len(sys.argv) > 3

app = stepfold.App("k")


def opened(name: str) -> int:
    return os.open(FOLDER / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


BODIES, ACKED = opened("bodies"), opened("acked")


def note(value: object) -> object:
    info = stepfold.step_info()
    line = f"{info.run_id} {info.step} {info.attempt} {time.time_ns() // 1_000_000}\n"
    os.write(BODIES, line.encode())
    return value


async def note_slowly(value: object) -> object:
    await asyncio.sleep(0.002)
    return note(value)


@app.function("order", on="k/order")
async def order(ctx: stepfold.Context) -> object:
    n = ctx.event.data["n"]
    await ctx.step.run("create", note_slowly, n)
    a, b = await asyncio.gather(
        ctx.step.run("charge", note_slowly, n), ctx.step.run("reserve", note_slowly, n)
    )
    if n % 5 == 0:
        await ctx.step.sleep("nap", "300ms")
    if n % 7 == 0:
        a = await ctx.step.invoke("double", function="k-double", data={"n": n})
    if n % 11 == 0:
        await ctx.step.send_event("tell", {"name": "k/told", "data": {"n": n}})
        await ctx.step.wait_for_event(
            "back", event="k/back", match="data.n", timeout="1h", since="run"
        )
    await ctx.step.run("ship", note, [a, b])
    return n


@app.function("double")
async def double(ctx: stepfold.Context) -> object:
    return await ctx.step.run("double", note, ctx.event.data["n"] * 2)


@app.function("told", on="k/told")
async def told(ctx: stepfold.Context) -> None:
    data = {"n": ctx.event.data["n"]}
    await ctx.step.send_event("answer", {"name": "k/back", "data": data})


async def main() -> None:
    settings = Settings(round_records_min=1_500, trial_survive_ms=300)
    async with running_app(app, FOLDER / "log", partitions=2, settings=settings) as node:
        print("ready", flush=True)
        number = ROUND * 100_000
        while not FINISH:
            numbers = range(number, number + 5)
            events = [
                Event("k/order", json.dumps({"n": n}).encode(), f"order-{n}") for n in numbers
            ]
            await node.publish(events)
            os.write(ACKED, "".join(f"{n}\n" for n in numbers).encode())
            number += 5
            await asyncio.sleep(0.03)
        while any(len(state.runs) for state in node.states()):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
    print("finished", flush=True)


asyncio.run(main())
