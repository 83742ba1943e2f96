"""The app whose runs are kept as golden run files; it is not changed, only added to."""

import asyncio
from typing import Any

import stepfold

app = stepfold.App("golden")


async def give(value: Any) -> Any:
    return value


async def refuse() -> None:
    raise stepfold.NonRetriableError("no")


@app.function("child")
async def child(ctx: stepfold.Context) -> int:
    return await ctx.step.run("double", give, ctx.event.data["number"] * 2)


@app.function("everything", on="golden/go", retries=1)
async def everything(ctx: stepfold.Context) -> dict[str, Any]:
    number = ctx.event.data["number"]
    parts = await asyncio.gather(*(ctx.step.run("part", give, i) for i in range(3)))
    await ctx.step.sleep("rest", "1h")
    try:
        await ctx.step.run("refuse", refuse)
    except stepfold.StepError as error:
        refused = error.name
    else:
        refused = ""
    none = await ctx.step.wait_for_event("never", event="golden/never", timeout="1m")
    try:
        async with asyncio.timeout(5):
            await ctx.step.wait_for_signal("signal", signal="golden", timeout="1h")
    except TimeoutError:
        pass
    doubled = await ctx.step.invoke("child", function=child, data={"number": number})
    return {
        "parts": parts,
        "refused": refused,
        "event": none,
        "doubled": doubled,
        "now": ctx.now().isoformat(),
        "uuid": str(ctx.uuid()),
    }


@app.function("plain", on="golden/plain", retries=0)
def plain(ctx: stepfold.SyncContext) -> int:
    first = ctx.step.run("first", give, 1)
    ctx.step.sleep("rest", "1d")
    return first + int(ctx.step.run("second", give, 2))


@app.function("fails", on="golden/fails", retries=1)
async def fails(ctx: stepfold.Context) -> None:
    await ctx.step.run("first", give, 1)
    raise ValueError("it fails")
