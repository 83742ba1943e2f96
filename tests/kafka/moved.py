"""The app of a log that is moved: its runs are in every state when that happens.

With DIVERGING set, its code asks for something else than the journal of the function ``changed``
holds.
"""

import os

import stepfold

app = stepfold.App("m")
_bodies = os.open(os.environ["BODIES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


async def note(value: object = None) -> object:
    info = stepfold.step_info()
    os.write(_bodies, f"{info.run_id} {info.step} {info.attempt}\n".encode())
    return value


@app.function("sleeps", on="m/sleeps")
async def sleeps(ctx: stepfold.Context) -> object:
    n = await ctx.step.run("before", note, ctx.event.data["n"])
    await ctx.step.sleep("nap", "20s")
    return await ctx.step.run("after", note, n)


@app.function("waits", on="m/waits")
async def waits(ctx: stepfold.Context) -> object:
    await ctx.step.run("before", note, 1)
    event = await ctx.step.wait_for_event("paid", event="m/paid", match="data.n", timeout="1h")
    return None if event is None else event.data["sum"]


@app.function("looks-back", on="m/looks-back")
async def looks_back(ctx: stepfold.Context) -> object:
    event = await ctx.step.wait_for_event("late", event="m/late", timeout="1h", since="run")
    return None if event is None else event.data["sum"]


@app.function("asks", on="m/asks")
async def asks(ctx: stepfold.Context) -> object:
    said = await ctx.step.wait_for_signal("answer", signal=ctx.event.data["name"], timeout="1h")
    return None if said is None else said.data


@app.function("invokes", on="m/invokes")
async def invokes(ctx: stepfold.Context) -> object:
    data = {"name": ctx.event.data["name"]}
    return await ctx.step.invoke("ask", function="m-asks", data=data)


@app.function("retries", on="m/retries")
async def retries(ctx: stepfold.Context) -> object:
    async def second_time() -> str:
        await note()
        if stepfold.step_info().attempt == 1:
            raise stepfold.RetryAfterError("not yet", 20)
        return "at last"

    return await ctx.step.run("twice", second_time)


@app.function("changed", on="m/changed")
async def changed(ctx: stepfold.Context) -> object:
    n = await ctx.step.run("before", note, 5)
    await ctx.step.sleep("other" if os.environ.get("DIVERGING") else "nap", "10ms")
    await ctx.step.wait_for_signal("more", signal="changed", timeout="1h")
    return n


@app.function("cancelled", on="m/cancelled", cancel_on=[stepfold.CancelOn("m/stop")])
async def cancelled(ctx: stepfold.Context) -> None:
    await ctx.step.sleep("long", "1h")


@app.function("delayed", on="m/delayed")
async def delayed(ctx: stepfold.Context) -> object:
    return await ctx.step.run("only", note, ctx.event.data["n"])
