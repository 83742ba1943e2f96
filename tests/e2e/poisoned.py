"""A process with one step that kills it at once, among healthy runs. Usage: poisoned.py FOLDER."""

import asyncio
import os
import sys
from pathlib import Path

import stepfold
from stepfold_engine.local import running_app
from stepfold_engine.settings import Settings
from stepfold_schemas.events import Event

FOLDER = Path(sys.argv[1])
HEALTHY = 300

app = stepfold.App("p")


async def work(n: int) -> int:
    await asyncio.sleep(0.1)
    return n


@app.function("healthy", on="p/healthy")
async def healthy(ctx: stepfold.Context) -> int:
    for n in range(6):
        await ctx.step.run("work", work, n)
    return 6


def kill() -> None:
    os._exit(13)


@app.function("poisoned", on="p/poisoned")
async def poisoned(ctx: stepfold.Context) -> str:
    try:
        await ctx.step.run("poison", kill)
    except stepfold.StepError as error:
        return f"{error.step}: {error.name}: {error.message}"
    return "?"


async def main() -> None:
    settings = Settings(trial_survive_ms=2_000)
    async with running_app(app, FOLDER, partitions=2, settings=settings) as node:
        events = [Event("p/healthy", b"{}", f"healthy-{n}") for n in range(HEALTHY)]
        await node.publish([*events, Event("p/poisoned", b"{}", "poisoned")])
        while True:
            await asyncio.sleep(0.1)
            ended = sum(len(k) for s in node.states() for k in s.ended.values())
            if ended == HEALTHY + 1:
                break
    print("finished", flush=True)


asyncio.run(main())
