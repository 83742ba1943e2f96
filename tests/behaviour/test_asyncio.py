"""Plain asyncio in functions: hot and replayed it does the same."""

import asyncio
from typing import Any

import stepfold
from tests.behaviour.conftest import Running


def new() -> stepfold.App:
    return stepfold.App("t")


def same(value: int) -> int:
    return value


async def slowly(value: Any, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return value


def test_parallel_steps_overlap_and_keep_their_order(running: Running) -> None:
    app = new()
    under_way = {"now": 0, "most": 0}

    async def body(n: int) -> int:
        under_way["now"] += 1
        under_way["most"] = max(under_way["most"], under_way["now"])
        await asyncio.sleep(10 - n)
        under_way["now"] -= 1
        return n

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[int]:
        return await asyncio.gather(*(ctx.step.run(f"part-{n}", body, n) for n in range(5)))

    with running(app) as s:
        assert s.run("t/go").result == [0, 1, 2, 3, 4]
        assert under_way["most"] == 5


def test_one_of_many_parallel_steps_that_fails_is_retried_alone(running: Running) -> None:
    app = new()
    ran: list[int] = []

    async def body(n: int) -> int:
        ran.append(n)
        if n == 1 and ran.count(1) < 3:
            raise ConnectionError
        return n

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[int]:
        return await asyncio.gather(*(ctx.step.run("part", body, n) for n in range(3)))

    with running(app) as s:
        assert s.run("t/go").result == [0, 1, 2]
        assert sorted(ran) == [0, 1, 1, 1, 2]


def test_a_hundred_users_one_step_each(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        users = await ctx.step.run("users", lambda: list(range(100)))
        found = await asyncio.gather(*(ctx.step.run(f"user-{u}", same, u) for u in users))
        return sum(found)

    with running(app) as s:
        assert s.run("t/go").result == 4950


def test_a_task_group_with_three_sleeping_branches(running: Running) -> None:
    """S38: such a run is parked and woken as if it never had been."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[str]:
        order: list[str] = []

        async def branch(name: str, hours: int) -> None:
            await ctx.step.sleep(f"nap-{name}", f"{hours}h")
            await ctx.step.run(f"work-{name}", lambda: name)
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for name, hours in (("c", 3), ("a", 1), ("b", 2)):
                group.create_task(branch(name, hours))
        return order

    with running(app) as s:
        run = s.run("t/go")
        assert run.result == ["a", "b", "c"]
        assert run.ended_ms - run.started_ms >= 3 * 3_600_000


def test_a_task_group_cancels_its_tasks_in_the_same_order_when_replayed(running: Running) -> None:
    """asyncio keeps them in a set; what they do as they are cancelled may share a step's id."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[int]:
        cleaned: list[int] = []

        async def branch(n: int) -> None:
            try:
                await ctx.step.sleep(f"nap-{n}", "1h")
            finally:
                cleaned.append(await ctx.step.run("clean", lambda: n))
                await ctx.step.sleep("settle", "1m")

        async def fail() -> None:
            await ctx.step.sleep("before", "1m")
            raise stepfold.NonRetriableError("enough")

        try:
            async with asyncio.TaskGroup() as group:
                for n in range(6):
                    group.create_task(branch(n))
                group.create_task(fail())
        except* stepfold.NonRetriableError:
            pass
        return cleaned

    with running(app) as s:
        assert s.run("t/go").result == list(range(6))


def test_a_timeout_around_a_slow_step_takes_the_fallback_again_after_a_crash(
    running: Running,
) -> None:
    """S16: the timeout fires, the fallback begins, crash; the slow step's outcome is not taken."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        try:
            async with asyncio.timeout(5):
                return await ctx.step.run("slow", slowly, "slow", 60)
        except TimeoutError:
            await ctx.step.sleep("think", "1h")
            return await ctx.step.run("fallback", lambda: "fallback")

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(600)
        s.restart()
        assert s.ended(run).result == "fallback"


def test_asyncio_sleep_in_a_function_is_durable(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await asyncio.sleep(7200)
        return "awake"

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(3600)
        s.restart()
        s.ended(run)
        assert run.result == "awake"
        assert 7_200_000 <= run.ended_ms - run.started_ms < 7_300_000


def test_the_first_of_several_wins_and_the_losers_do_not_disturb(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        tasks = {
            asyncio.ensure_future(ctx.step.sleep("long", "9d")): "sleep",
            asyncio.ensure_future(ctx.step.wait_for_event("e", event="t/e", timeout="9d")): "event",
            asyncio.ensure_future(
                ctx.step.wait_for_signal("s", signal="s", timeout="9d")
            ): "signal",
        }
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await ctx.step.sleep("after", "1h")
        return await ctx.step.run("winner", lambda: tasks[done.pop()])

    with running(app) as s:
        for winner in ("event", "signal"):
            run = s.start_run("t/go")
            s.advance(60)
            if winner == "event":
                s.send("t/e")
            else:
                s.signal("s")
            s.advance(60)
            s.restart()
            assert s.ended(run).result == winner
            assert s.signal("s") is None


def test_branches_that_share_a_lock_and_a_step_id_get_the_same_numbers(running: Running) -> None:
    """S17: two outcomes wake two branches that pass a lock and then reuse a step id."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> dict[str, str]:
        lock = asyncio.Lock()
        found: dict[str, str] = {}

        async def branch(name: str) -> None:
            await ctx.step.run(f"first-{name}", slowly, name, 1)
            async with lock:
                found[name] = await ctx.step.run("fetch", lambda: f"fetched for {name}")

        await asyncio.gather(*(branch(n) for n in "abc"))
        await ctx.step.sleep("nap", "1h")
        return found

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(600)
        s.restart()
        assert s.ended(run).result == {n: f"fetched for {n}" for n in "abc"}
        assert sorted(run.steps[3:]) == ["fetch", "fetch:1", "fetch:2"]


def test_queues_events_and_loops(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[int]:
        queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
        found: list[int] = []

        async def produce() -> None:
            for n in range(6):
                await queue.put(await ctx.step.run("make", same, n))
            await queue.put(None)

        async def consume() -> None:
            while (item := await queue.get()) is not None:
                found.append(await ctx.step.run("use", same, item * 10))

        await asyncio.gather(produce(), consume())
        return found

    with running(app) as s:
        assert s.run("t/go").result == [0, 10, 20, 30, 40, 50]


def test_code_that_catches_everything_and_awaits_a_step_in_finally(running: Running) -> None:
    """S26: parked and woken as if it never had been; nothing is recorded by the closing."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[str]:
        seen: list[str] = []
        try:
            try:
                await ctx.step.sleep("nap", "1d")
            except BaseException as error:
                seen.append(type(error).__name__)
            await ctx.step.sleep("nap", "1d")
        finally:
            seen.append(await ctx.step.run("clean up", lambda: "clean"))
        return seen

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(3600)
        s.restart()
        assert s.ended(run).result == ["clean"]
        assert run.steps == ["clean up"]


def test_recursion_and_errors_as_in_any_program(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        async def fib(n: int) -> int:
            if n < 2:
                return await ctx.step.run("leaf", lambda: n)
            return sum(await asyncio.gather(fib(n - 1), fib(n - 2)))

        return await fib(6)

    with running(app) as s:
        assert s.run("t/go").result == 8


def test_a_saga_undoes_in_reverse_order_once_each(running: Running) -> None:
    app = new()
    done: list[str] = []

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        undo: list[str] = []
        try:
            for name in ("hotel", "flight", "car"):
                if name == "car":
                    await ctx.step.options(retries=1).run("car", lambda: 1 // 0)
                await ctx.step.run(name, done.append, name)
                undo.append(name)
        except stepfold.StepError:
            for name in reversed(undo):
                await ctx.step.run(f"undo-{name}", done.append, f"undo {name}")
        return "undone"

    with running(app) as s:
        assert s.run("t/go").result == "undone"
        assert done == ["hotel", "flight", "undo flight", "undo hotel"]


def test_now_uuid_and_random_are_the_same_when_replayed(running: Running) -> None:
    app = new()
    seen: list[Any] = []

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[Any]:
        found: list[Any] = []
        for _ in range(3):
            found.append([ctx.now().isoformat(), str(ctx.uuid()), ctx.random().random()])
            await ctx.step.sleep("nap", "1h")
        seen.append(found[0])
        return found

    with running(app) as s:
        run = s.start_run("t/go")
        for _ in range(3):
            s.advance(3000)
            s.restart()
        result = s.ended(run).result
        assert all(first == seen[0] for first in seen)
        assert result[0] == seen[0]
        assert len({tuple(x) for x in result}) == 3


def test_the_logger_is_silent_while_code_is_replayed(running: Running, caplog: Any) -> None:
    app = new()
    caplog.set_level("INFO")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        ctx.logger.info("one")
        await ctx.step.sleep("nap", "1h")
        ctx.logger.info("two")

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        s.restart()
        s.ended(run)
        assert [r.message for r in caplog.records if r.name == "stepfold.function"] == [
            "one",
            "two",
        ]


def test_code_that_diverges_is_stopped_with_a_report_and_goes_on_after_a_fix(
    running: Running,
) -> None:
    app = new()
    step = "charge"

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.run(step, lambda: 1)
        await ctx.step.sleep("nap", "1h")
        return "done"

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        step = "charge-card"
        s.restart()
        s.ended(run)
        assert run.status == "stopped"
        report = str(run.entries[-1])
        assert "charge-card" in report
        assert "test_asyncio.py" in report
        step = "charge"
        s.do(s.node.resume_run(run.id))
        s.until(lambda: run.end is not None)
        assert run.result == "done"
