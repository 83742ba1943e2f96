"""The app under load: everything durable that a function can do, each body noted in a ledger.

What a run must come to follows from its number alone: see ``expected``, which shares no code with
the functions.
"""

import asyncio
from collections.abc import Callable, Sequence

import stepfold
from tests.chaos.outside import Ledger

BODY_S = 0.002
SLOW_BODY_S = 0.03
"""Some bodies take longer, so that kills find bodies under way."""

QUICK = stepfold.Retry(retries=8, delay="40ms", factor=1.0, jitter=0.0)
SENDS_MAX = 300


class Trail:
    """What a run's code has done so far: one stage after the other, and the tokens of each."""

    def __init__(self, ctx: stepfold.Context | stepfold.SyncContext, ledger: Ledger) -> None:
        self.n: int = ctx.event.data["n"]
        self._function = ctx.event.name
        self._ledger = ledger
        self._stage = 0
        self._last: list[str] = []
        self.tokens: list[str] = []

    def body(self, fails: int = 0) -> Callable[[], str]:
        """Begin the next stage; return the body of its steps, which fails on first attempts."""
        self._stage += 1
        stage, seen = self._stage, list(self._last)

        def body() -> str:
            token = self._ledger.note(self._function, self.n, stage, seen)
            if (info := stepfold.step_info()).attempt <= fails:
                raise RuntimeError(f"attempt {info.attempt} fails, {token}")
            return token

        return body

    def done(self, tokens: Sequence[str]) -> None:
        """Note the outcomes of a stage."""
        self._last = list(tokens)
        self.tokens += tokens

    def result(self, **more: object) -> dict[str, object]:
        """Return what the function returns."""
        return {"n": self.n, "tokens": self.tokens, **more}


class AsyncTrail(Trail):
    """The trail of an async function."""

    def __init__(self, ctx: stepfold.Context, ledger: Ledger) -> None:
        super().__init__(ctx, ledger)
        self._step = ctx.step

    async def go(self, *names: str, fails: int = 0) -> None:
        """Run steps, side by side if they are several."""
        body, step = self.body(fails), self._step.options(retries=QUICK)

        async def act() -> str:
            await asyncio.sleep(SLOW_BODY_S if self.n % 9 == 0 else BODY_S)
            return body()

        self.done(await asyncio.gather(*(step.run(name, act) for name in names)))


def make_app(ledger: Ledger) -> stepfold.App:
    """Return the app; its bodies note what they do in this ledger."""
    app = stepfold.App("c")

    @app.function("order", on="c/order")
    async def order(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        n, told, doubled, silence = trail.n, None, None, None
        await trail.go("create")
        await trail.go("charge", "reserve")
        if n % 5 == 0:
            await ctx.step.sleep("nap", "150ms")
        if n % 7 == 0:
            doubled = await ctx.step.invoke("double", function="c-double", data={"n": n})
        if n % 11 == 0:
            await ctx.step.send_event("tell", {"name": "c/told", "data": {"n": n}})
            event = await ctx.step.wait_for_event(
                "back", event="c/back", match="data.n", timeout="1h", since="run"
            )
            told = event.data["n"] if event is not None else None
        if n % 13 == 0:
            event = await ctx.step.wait_for_event("none", event="c/never", timeout="200ms")
            silence = event is None
        await trail.go("ship")
        return trail.result(doubled=doubled, told=told, silence=silence)

    @app.function("double")
    async def double(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        await trail.go("double")
        return trail.n * 2

    @app.function("told", on="c/told")
    async def told(ctx: stepfold.Context) -> object:
        data = {"n": ctx.event.data["n"]}
        await ctx.step.send_event("answer", {"name": "c/back", "data": data})
        return data

    @app.function("approval", on="c/approval")
    async def approval(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        await trail.go("ask")
        event = await ctx.step.wait_for_event(
            "approved", event="c/approved", match="data.n", timeout="1h", since="run"
        )
        await trail.go("grant")
        return trail.result(by=event.data["by"] if event is not None else None)

    @app.function("signalled", on="c/signalled")
    async def signalled(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        n, deaf = trail.n, None
        await trail.go("ready")
        if n % 4 == 0:
            nobody = await ctx.step.wait_for_signal("deaf", signal=f"deaf-{n}", timeout="200ms")
            deaf = nobody is None
        signal = await ctx.step.wait_for_signal("go", signal=f"go-{n}", timeout="1h")
        await trail.go("got")
        return trail.result(said=signal.data if signal is not None else None, deaf=deaf)

    @app.function("left", on="c/pair")
    async def left(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        signal = await ctx.step.wait_for_signal("hear", signal=f"pair-{trail.n}", timeout="1h")
        await trail.go("heard")
        return trail.result(said=signal.data if signal is not None else None)

    @app.function("right", on="c/pair")
    async def right(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        await trail.go("speak")
        for count in range(SENDS_MAX):
            if await ctx.step.send_signal("say", f"pair-{trail.n}", trail.n):
                break
            await ctx.step.sleep("again", f"{min(50 * 2**count, 1_000)}ms")
        return trail.result()

    @app.function("flaky", on="c/flaky", retries=QUICK)
    async def flaky(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        await trail.go("first")
        await trail.go("flaky", fails=2)
        if ctx.attempt < 2:
            raise RuntimeError("the function's own code fails, too")
        await trail.go("last")
        return trail.result(attempt=ctx.attempt)

    @app.function(
        "cancelled", on="c/cancelled", cancel_on=stepfold.CancelOn("c/cancel", match="data.n")
    )
    async def cancelled(ctx: stepfold.Context) -> object:
        await AsyncTrail(ctx, ledger).go("begin")
        await ctx.step.sleep("long", "2h")
        return "not cancelled"

    @app.function("failing", on="c/failing", retries=0)
    async def failing(ctx: stepfold.Context) -> object:
        await AsyncTrail(ctx, ledger).go("begin")

        async def explode() -> None:
            raise stepfold.NonRetriableError("it cannot be done")

        await ctx.step.run("explode", explode)
        return "not failed"

    @failing.on_failure
    async def failed(ctx: stepfold.Context) -> object:
        return {"n": ctx.event.data["event"]["data"]["n"]}

    @app.function("fan", on="c/fan")
    async def fan(ctx: stepfold.Context) -> object:
        trail = AsyncTrail(ctx, ledger)
        await trail.go(*(f"part-{i}" for i in range(6)))
        late = False
        try:
            async with asyncio.timeout(0.15):
                await ctx.step.wait_for_event("none", event="c/never", timeout="1h")
        except TimeoutError:
            late = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.step.sleep("short", "50ms"))
            tasks.create_task(asyncio.sleep(0.02))
        await trail.go("join")
        return trail.result(late=late)

    @app.function("plain", on="c/plain", retries=QUICK)
    def plain(ctx: stepfold.SyncContext) -> object:
        trail = Trail(ctx, ledger)
        for name in ("one", "two", "three"):
            trail.done([ctx.step.run(name, trail.body())])
            if name == "two":
                ctx.step.sleep("nap", "60ms")
        return trail.result()

    _ = (double, told, order, approval, signalled, left, right, flaky, cancelled, failed, fan)
    return app
