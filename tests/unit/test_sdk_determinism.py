"""A program gives the same result hot, replayed at every step, and after a crash anywhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import stepfold
from stepfold import Context, StepError
from stepfold_schemas.entries import StepCompleted
from tests.unit.sdk_journal import Journal, Run

Program = Callable[[Context, "Bodies"], Awaitable[Any]]
PROGRAMS: dict[str, tuple[Program, Any]] = {}


class Bodies:
    """Bodies of steps, which see that none runs after its outcome was recorded."""

    def __init__(self) -> None:
        self.journal: Journal
        self.ran: list[str] = []
        self.failing: dict[str, int] = {}

    async def work(self, value: Any, seconds: float = 0.01) -> Any:
        info = stepfold.step_info()
        for run in self.journal.runs.values():
            if run.text == info.run_id:
                done = [e.name for e in run.entries if isinstance(e, StepCompleted)]
                assert info.step not in done, f"{info.step} was recorded already"
        self.ran.append(info.step)
        await asyncio.sleep(seconds)
        return value

    async def fail(self, text: str) -> None:
        await asyncio.sleep(0.01)
        raise ValueError(text)


def program(expected: Any) -> Callable[[Program], Program]:
    def add(call: Program) -> Program:
        PROGRAMS[call.__name__] = (call, expected)
        return call

    return add


@program([1, 2, 3])
async def one_after_the_other(ctx: Context, do: Bodies) -> Any:
    a = await ctx.step.run("a", do.work, 1)
    b = await ctx.step.run("b", do.work, a + 1)
    return [a, b, await ctx.step.run("c", do.work, b + 1)]


@program([[1, 2, 3], ["c", "b", "a"]])
async def gather(ctx: Context, do: Bodies) -> Any:
    order: list[str] = []

    async def branch(name: str, value: int, seconds: float) -> int:
        result = await ctx.step.run(name, do.work, value, seconds)
        order.append(name)
        return int(result)

    results = await asyncio.gather(branch("a", 1, 0.3), branch("b", 2, 0.2), branch("c", 3, 0.1))
    return [results, order]


@program([10, ["a", "b", "c"]])
async def task_group(ctx: Context, do: Bodies) -> Any:
    done: list[str] = []

    async def branch(name: str, value: int) -> int:
        result = await ctx.step.run(name, do.work, value)
        await ctx.step.sleep(f"rest {name}", f"{value}h")
        done.append(name)
        return int(result)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(n, v)) for n, v in (("a", 2), ("b", 3), ("c", 5))]
    return [sum(task.result() for task in tasks), done]


@program(["timed out", "fallback"])
async def timeout_round_a_slow_step(ctx: Context, do: Bodies) -> Any:
    try:
        async with asyncio.timeout(5):
            return [await ctx.step.run("slow", do.work, "slow", 60)]
    except TimeoutError:
        return ["timed out", await ctx.step.run("fallback", do.work, "fallback")]


@program(["quick", "then"])
async def timeout_that_does_not_fire(ctx: Context, do: Bodies) -> Any:
    async with asyncio.timeout(50):
        quick = await ctx.step.run("quick", do.work, "quick")
    await ctx.step.sleep("long", "2 days")
    return [quick, await ctx.step.run("then", do.work, "then")]


@program(["gave up", 2])
async def wait_for_in_a_loop(ctx: Context, do: Bodies) -> Any:
    tries = 0
    for seconds in (1, 2, 60):
        try:
            await asyncio.wait_for(ctx.step.run("try", do.work, "x", 30), seconds)
        except TimeoutError:
            tries += 1
            if tries == 2:
                return ["gave up", tries]
    return ["no", tries]


@program(["b", ["a", "c"], "after"])
async def first_of_three(ctx: Context, do: Bodies) -> Any:
    tasks = {
        name: asyncio.create_task(ctx.step.run(name, do.work, name, seconds))
        for name, seconds in (("a", 3), ("b", 1), ("c", 2))
    }
    done, pending = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    (winner,) = done
    for task in pending:
        task.cancel()
    late = sorted(name for name, task in tasks.items() if task in pending)
    return [winner.result(), late, await ctx.step.run("after", do.work, "after")]


@program([["a1", "a2", "b1", "b2"], [0, 1, 2, 3]])
async def lock(ctx: Context, do: Bodies) -> Any:
    turn = asyncio.Lock()
    seen: list[str] = []

    async def branch(name: str) -> list[int]:
        async with turn:
            first = await ctx.step.run("in turn", do.work, f"{name}1")
            seen.append(first)
            seen.append(await ctx.step.run("in turn", do.work, f"{name}2"))
        return [0]

    await asyncio.gather(branch("a"), branch("b"))
    return [seen, list(range(len(seen)))]


@program([0, 2, 4, 6, 8])
async def queue(ctx: Context, do: Bodies) -> Any:
    todo: asyncio.Queue[int | None] = asyncio.Queue(2)
    results: list[int] = []

    async def worker() -> None:
        while (item := await todo.get()) is not None:
            results.append(await ctx.step.run("item", do.work, item * 2))

    task = asyncio.create_task(worker())
    for item in range(5):
        await todo.put(item)
    await todo.put(None)
    await task
    return results


@program({"by": "timer", "kinds": ["event", "signal", "sleep", "timer"]})
async def race_of_everything(ctx: Context, _: Bodies) -> Any:
    async def timer() -> str:
        await asyncio.sleep(30)
        return "timer"

    async def named(name: str, what: Awaitable[Any]) -> str:
        await what
        return name

    step = ctx.step
    tasks = [
        asyncio.create_task(timer()),
        asyncio.create_task(named("sleep", step.sleep("nap", "1h"))),
        asyncio.create_task(named("event", step.wait_for_event("e", event="x/y", timeout="2h"))),
        asyncio.create_task(named("signal", step.wait_for_signal("s", signal="z", timeout="2h"))),
    ]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    await step.sleep("after", "1 day")
    return {"by": done.pop().result(), "kinds": ["event", "signal", "sleep", "timer"]}


@program([0, 1, 3, 6, 10, 15])
async def loop_with_one_id(ctx: Context, do: Bodies) -> Any:
    total, sums = 0, list[int]()
    for number in range(6):
        total = await ctx.step.run("add", do.work, total + number)
        sums.append(total)
        await ctx.step.sleep("pause", "10s")
    return sums


@program(["caught ValueError: no", "went on"])
async def step_error_is_caught(ctx: Context, do: Bodies) -> Any:
    try:
        await ctx.step.options(retries=1).run("bad", do.fail, "no")
    except StepError as error:
        return [
            f"caught {error.name}: {error.message}",
            await ctx.step.run("on", do.work, "went on"),
        ]
    return ["no error"]


@program(["one failed", "cleaned up"])
async def task_group_with_a_failure(ctx: Context, do: Bodies) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.options(retries=0).run("bad", do.fail, "no"))
            group.create_task(ctx.step.run("slow", do.work, "slow", 100))
            group.create_task(ctx.step.sleep("long", "1 day"))
    except* StepError:
        pass
    return ["one failed", await ctx.step.run("clean", do.work, "cleaned up")]


@program(["cancelled", "went on"])
async def a_step_is_cancelled(ctx: Context, do: Bodies) -> Any:
    task = asyncio.create_task(ctx.step.run("long", do.work, "long", 1_000))
    await ctx.step.run("short", do.work, "short")
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return ["cancelled", await ctx.step.run("on", do.work, "went on")]
    return ["no"]


@program([["x", "y"], ["event", "condition"]])
async def events_and_conditions(ctx: Context, do: Bodies) -> Any:
    event, condition = asyncio.Event(), asyncio.Condition()
    order: list[str] = []

    async def on_event() -> str:
        await event.wait()
        order.append("event")
        return str(await ctx.step.run("x", do.work, "x"))

    async def on_condition() -> str:
        async with condition:
            await condition.wait()
        order.append("condition")
        return str(await ctx.step.run("y", do.work, "y"))

    tasks = asyncio.gather(on_event(), on_condition())
    await ctx.step.sleep("first", "1m")
    event.set()
    async with condition:
        condition.notify_all()
    return [await tasks, order]


@program([3, 1, 2])
async def as_completed(ctx: Context, do: Bodies) -> Any:
    steps = [ctx.step.run(f"s{n}", do.work, n, s) for n, s in ((1, 0.2), (2, 0.3), (3, 0.1))]
    return [await one for one in asyncio.as_completed(steps)]


@program(["shielded", "shielded"])
async def shield(ctx: Context, do: Bodies) -> Any:
    inner = asyncio.ensure_future(ctx.step.run("kept", do.work, "shielded", 20))
    try:
        async with asyncio.timeout(1):
            await asyncio.shield(inner)
    except TimeoutError:
        return ["shielded", await inner]
    return ["no"]


@program([True, True, True])
async def time_and_chance(ctx: Context, do: Bodies) -> Any:
    before = (ctx.now(), ctx.uuid(), ctx.random().random())
    recorded = await ctx.step.run("record", do.work, [str(part) for part in before])
    await ctx.step.sleep("long", "5 days")
    days = (ctx.now() - before[0]).days
    again = await ctx.step.run("again", do.work, [str(ctx.uuid()), str(ctx.now())])
    return [
        recorded == [str(part) for part in before],
        days >= 5,
        again[0] != recorded[1],
    ]


@program(["inner", 49])
async def invocations(ctx: Context, _: Bodies) -> Any:
    name, square = await asyncio.gather(
        ctx.step.invoke("by id", function="t-inner", data={"n": 1}),
        ctx.step.invoke("square", function="t-square", data={"n": 7}),
    )
    return [name, square]


@program(["late wins", True])
async def loop_time(ctx: Context, do: Bodies) -> Any:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    await ctx.step.sleep("most of it", "29s")
    try:
        async with asyncio.timeout_at(deadline):
            await ctx.step.run("slow", do.work, "slow", 10)
    except TimeoutError:
        return ["late wins", loop.time() >= deadline]
    return ["no"]


def app_for(call: Program) -> tuple[stepfold.App, Bodies]:
    app, bodies = stepfold.App("t"), Bodies()

    @app.function("program")
    async def main(ctx: Context) -> Any:
        return await call(ctx, bodies)

    @app.function("inner")
    async def inner(ctx: Context) -> str:
        await ctx.step.sleep("a while", "3h")
        return "inner"

    @app.function("square")
    async def square(ctx: Context) -> int:
        number: int = ctx.event.data["n"]
        return await ctx.step.run("square", bodies.work, number * number)

    assert main
    assert inner
    assert square
    return app, bodies


def play(call: Program, *, always_replay: bool = False, crash_after: int = 0) -> Run:
    app, bodies = app_for(call)
    with Journal(app, always_replay=always_replay, crash_after=crash_after) as journal:
        bodies.journal = journal
        return journal.finish(journal.start("program"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_hot(name: str) -> None:
    call, expected = PROGRAMS[name]
    assert play(call).result == expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_replayed_at_every_step_does_the_same(name: str) -> None:
    call, expected = PROGRAMS[name]
    hot, replayed = play(call), play(call, always_replay=True)
    assert replayed.result == expected
    kinds = [
        [(type(e).__name__, getattr(e, "name", "")) for e in r.entries] for r in (hot, replayed)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("always_replay", [False, True], ids=["hot", "replaying"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_crashes_anywhere_ends_the_same(name: str, always_replay: bool) -> None:
    call, expected = PROGRAMS[name]
    for crash_after in range(1, play(call).facts[-1].seq + 4):
        run = play(call, always_replay=always_replay, crash_after=crash_after)
        assert run.result == expected, f"after a crash at entry {crash_after}"
