"""The test environment: virtual time, events, signals, runs, and what wrong tests are told."""

import asyncio
import gc
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepfold
from stepfold.testing import (
    Environment,
    MakeEnvironment,
    NotThereError,
    RunNotCompletedError,
    StuckError,
)
from stepfold_engine.errors import EngineError
from stepfold_engine.settings import Settings


@pytest.fixture
def app() -> stepfold.App:
    return stepfold.App("t")


def one() -> int:
    return 1


def test_time_passes_only_when_the_test_says_so(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.sleep("month", "30d")
        return ctx.now().isoformat()

    env = stepfold_env(app, start="2030-01-01T00:00:00Z")
    run = env.send("t/go").run
    assert (run.status, env.now) == ("waiting", datetime(2030, 1, 1, tzinfo=UTC))
    env.advance("29d")
    env.advance(timedelta(hours=23))
    assert run.status == "waiting"
    env.advance(datetime(2030, 1, 31, tzinfo=UTC))
    assert run.status == "completed"
    assert run.result == "2030-01-31T00:00:00+00:00"
    assert run.duration == timedelta(days=30)
    with pytest.raises(ValueError, match="has passed"):
        env.advance(datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(("at", "got"), [("59m59s", 7), ("1h1s", None)])
def test_an_event_comes_in_time_or_too_late(
    app: stepfold.App, stepfold_env: MakeEnvironment, at: str, got: int | None
) -> None:
    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        event = await ctx.step.wait_for_event("e", event="t/e", match="data.k", timeout="1h")
        return event and event.data["n"]

    env = stepfold_env(app)
    run = env.send("t/go", {"k": 1}).run
    env.at("1s").send("t/e", {"k": 2, "n": 8})
    env.at(at).send("t/e", {"k": 1, "n": 7})
    env.finish(run)
    assert run.result == got
    assert run.step("e").status == ("completed" if got else "timed-out")


def test_things_happen_in_order_at_their_times(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    env = stepfold_env(app)
    start, seen = env.now, list[tuple[str, timedelta]]()

    def note(name: str) -> None:
        seen.append((name, env.now - start))

    env.at("2h").call(lambda: note("b"))
    env.at(start + timedelta(hours=1)).call(lambda: note("a"))
    env.at("2h").call(lambda: note("c"))
    env.advance("90m")
    assert [name for name, _ in seen] == ["a"]
    env.advance("1h")
    hours = [(name, at / timedelta(hours=1)) for name, at in seen]
    assert hours == [("a", 1), ("b", 2), ("c", 2)]


def test_signals_find_who_waits(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    @app.function("f", on="t/go")
    def f(ctx: stepfold.SyncContext) -> Any:
        signal = ctx.step.wait_for_signal("ok", signal="ok", timeout="1h")
        return signal and signal.data

    env = stepfold_env(app)
    run = env.send("t/go").run
    assert env.signal("other") is None
    assert env.signal("ok", {"by": "me"}) == run
    assert run.result == {"by": "me"}
    late = env.send("t/go").run
    env.at("2h").signal("ok")
    env.finish(late)
    assert late.result is None


def test_failed_steps_are_tried_again_on_the_virtual_clock(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    at: list[datetime] = []

    @app.function("f", on="t/go", retries=stepfold.Retry(retries=2, delay="10s", jitter=0))
    async def f(ctx: stepfold.Context) -> int:
        def flaky() -> int:
            at.append(env.now)
            if len(at) < 3:
                raise OSError(f"no {len(at)}")
            return len(at)

        return await ctx.step.run("flaky", flaky)

    env = stepfold_env(app)
    run = env.send("t/go").run
    assert run.status == "retrying"
    assert "OSError: no 1" in repr(run)
    env.finish()
    assert run.result == 3
    assert [str(error) for error in run.step("flaky").failures] == [
        "OSError: no 1",
        "OSError: no 2",
    ]
    assert (at[1] - at[0]).total_seconds() == 10


def test_failures_handlers_and_results(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("bad", lambda: 1 // 0)

    @f.on_failure
    async def tell(ctx: stepfold.Context) -> str:
        return str(ctx.event.data["error"]["message"])

    env = stepfold_env(app)
    run = env.send("t/go").run
    assert run.status == "failed"
    assert run.error is not None
    assert "ZeroDivisionError" in str(run.error)
    assert "ZeroDivisionError" in repr(run)
    assert env.run_of("f-failure").result == run.error.message
    with pytest.raises(RunNotCompletedError, match="1 // 0"):
        _ = run.result


def test_runs_end_by_events_and_by_hand(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    stop = stepfold.CancelOn("t/stop", match="data.n")

    @app.function("f", on="t/go", cancel_on=stop, idempotency="data.n")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("long", "10d")

    env = stepfold_env(app)
    first, second = (env.send("t/go", {"n": n}).run for n in (1, 2))
    assert env.send("t/go", {"n": 1}).runs == []
    env.send("t/stop", {"n": 1})
    env.at("1d").cancel(second, "enough")
    env.finish()
    assert (first.status, second.status) == ("cancelled", "cancelled")
    assert second.cancelled_by == "enough"
    assert "enough" in repr(second)
    with pytest.raises(NotThereError, match="it has ended"):
        env.cancel(first)


def test_functions_invoke_each_other(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    @app.function("child")
    def child(ctx: stepfold.SyncContext) -> int:
        ctx.step.sleep("nap", "1h")
        return int(ctx.event.data["n"]) * 2

    @app.function("parent", on="t/go")
    async def parent(ctx: stepfold.Context) -> list[Any]:
        mine = await ctx.step.invoke("mine", function=child, data={"n": 4})
        return [mine, await ctx.step.invoke("theirs", function="billing-charge", data={"n": 5})]

    env = stepfold_env(app)
    charge = env.stub_function("billing-charge", returns="paid", takes="3h")
    run = env.send("t/go").run
    env.finish()
    assert run.result == [8, "paid"]
    assert run.duration == timedelta(hours=4)
    assert [call.args for call in charge.calls] == [({"n": 5},)]
    alone = env.invoke(child, {"n": 10})
    env.finish(alone)
    assert alone.result == 20
    assert env.run_of("parent") == run
    with pytest.raises(NotThereError, match="no function 'nobody', only: t-child"):
        env.invoke("nobody")


def test_what_the_app_sends_is_seen(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    async def tell() -> list[str]:
        return await app.send(name="t/direct", data={"n": 2})

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.send_event("tell", {"name": "t/told", "data": {"n": 1}})
        await ctx.step.run("direct", tell)

    env = stepfold_env(app)
    env.send("t/go")
    assert [(e.name, e.data) for e in env.sent()] == [("t/told", {"n": 1}), ("t/direct", {"n": 2})]
    assert [e.name for e in env.sent("t/told")] == ["t/told"]
    assert env.sent("t/go") == []
    env.close()
    assert app.engine is None


def test_several_events_and_their_runs(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    @app.function("f", on=stepfold.Trigger("t/*", if_="event.data.n > 1"))
    async def f(ctx: stepfold.Context) -> Any:
        return ctx.event.data["n"]

    env = stepfold_env(app)
    sent = env.send([{"name": "t/a", "data": {"n": n}} for n in range(4)])
    assert [run.result for run in sent.runs] == [2, 3]
    with pytest.raises(NotThereError, match="2 runs were started"):
        _ = sent.run
    with pytest.raises(NotThereError, match=r"t-f: t/\* if event.data.n > 1"):
        _ = env.send("t/a", {"n": 0}).run
    later = env.send("t/b", {"n": 5}, ts=env.now + timedelta(days=1)).run
    assert later.status == "scheduled"
    env.advance("1d")
    assert later.result == 5


def test_an_async_test_uses_the_same_calls(app: stepfold.App) -> None:
    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        await ctx.step.sleep("s", "1h")
        return await ctx.step.run("one", one)

    async def test() -> Any:
        with Environment(app) as env:
            run = env.send("t/go").run
            await asyncio.sleep(0)
            env.finish()
            await app.send(name="t/go")
            assert len(env.runs) == 2
            return run.result

    assert asyncio.run(test()) == 1


def test_time_stands_still_while_threads_work(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    ready = threading.Event()

    def body() -> str:
        ready.wait(10)
        return threading.current_thread().name

    @app.function("f", on="t/go")
    def f(ctx: stepfold.SyncContext) -> str:
        return ctx.step.run("body", body)

    env = stepfold_env(app)
    threading.Timer(0.01, ready.set).start()
    run = env.send("t/go").run
    assert run.result.startswith("stepfold-step")
    assert run.duration == timedelta(0)


def test_only_the_test_drives_the_environment(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    async def naughty() -> None:
        env.advance("1h")

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("naughty", naughty)

    env = stepfold_env(app)
    assert "only the test itself" in str(env.send("t/go").run.error)


def test_what_never_ends_is_named_with_what_it_waits_for(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("lock", on="t/lock")
    async def lock(ctx: stepfold.Context) -> None:
        await ctx.step.run("one", one)
        await asyncio.Event().wait()

    @app.function("body", on="t/body")
    async def body(ctx: stepfold.Context) -> None:
        await ctx.step.run("hangs", asyncio.Event().wait)

    env = stepfold_env(app)
    locked = env.send("t/lock").run
    with pytest.raises(StuckError, match=r"(?s)t-lock.*'one' completed.*asyncio lock, event"):
        env.finish(locked)
    hangs = env.send("t/body").run
    with pytest.raises(
        StuckError, match=r"(?s)step 'hangs': its body is under way.*also unf.*t-lock"
    ):
        env.finish(hangs)


def test_a_run_that_waits_says_for_what(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    @app.function("child")
    async def child(ctx: stepfold.Context) -> None:
        async with asyncio.timeout(3600):
            await ctx.step.sleep("s", "2h")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await asyncio.gather(
            ctx.step.wait_for_event("e", event="t/e", timeout="1d"),
            ctx.step.wait_for_signal("g", signal="go", timeout="1d"),
            ctx.step.invoke("i", function=child),
        )

    env = stepfold_env(app, start="2030-01-01T00:00:00Z")
    run = env.send("t/go").run
    env.advance("2s")
    assert run.waits_for == [
        "wait 'e': event t/e until 2030-01-02 00:00:00",
        "signal wait 'g': signal 'go' until 2030-01-02 00:00:00",
        "invocation 'i': function t-child until 2031-01-02 00:00:00",
    ]
    assert "event t/e until 2030-01-02" in repr(run)
    assert env.run_of(child).waits_for == [
        "sleep 's': until 2030-01-01 02:00:00",
        "an asyncio timer: until 2030-01-01 01:00:00",
    ]
    with pytest.raises(RunNotCompletedError, match=r"(?s)waiting for.*env\.finish\(\)"):
        _ = run.result
    with pytest.raises(NotThereError, match="no step 'x', only: 'e', 'g', 'i'"):
        run.step("x")


def test_code_that_diverges_stops_the_run(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    lives: list[int] = []

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        lives.append(1)
        await ctx.step.run(f"step-{len(lives)}", one)
        await ctx.step.sleep("s", "1h")

    env = stepfold_env(app, replay=True)
    run = env.send("t/go").run
    assert run.status == "stopped"
    assert "expected: step 'step-1'; met: step 'step-2'" in str(run.error)
    assert "(tests/testing/test_environment.py:" in str(run.error)
    with pytest.raises(StuckError, match="stopped"):
        env.finish()


def test_a_crash_loses_what_is_in_memory_and_nothing_else(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    ran: list[str] = []

    async def slow() -> str:
        ran.append("begins")
        try:
            await asyncio.sleep(60)
        finally:
            ran.append("ends")
        return "slow"

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[Any]:
        first = await ctx.step.run("one", one)
        return [first, await ctx.step.run("slow", slow)]

    env = stepfold_env(app)
    run = env.send("t/go").run
    env.advance("30s")
    env.crash()
    assert ran == ["begins", "begins"], "the code of a killed process does nothing more"
    assert run.status == "running"
    env.at("10s").crash()
    env.finish()
    assert run.result == [1, "slow"]
    assert ran == ["begins", "begins", "begins", "ends"]
    assert run.duration == timedelta(seconds=100)


def test_limits_of_the_engine_can_be_tested(app: stepfold.App) -> None:
    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        while True:
            await ctx.step.run("again", one)

    with Environment(app, settings=Settings(steps_a_run_max=10)) as env:
        run = env.send("t/go").run
        env.finish()
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.name == "StepLimitError"


def test_a_closed_environment_says_so_and_leaves_nothing(app: stepfold.App) -> None:
    @app.function("f", on="t/go")
    def f(ctx: stepfold.SyncContext) -> None:
        ctx.step.sleep("long", "10d")

    before = set(threading.enumerate())
    env = Environment(app)
    env.send("t/go")
    env.crash()
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="is closed"):
        env.send("t/go")
    gc.collect()
    made = set(threading.enumerate()) - before
    for thread in made:
        thread.join(10)
    assert not [thread for thread in made if thread.is_alive()]


def test_two_tests_do_not_see_each_other(app: stepfold.App) -> None:
    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        return str(ctx.uuid())

    results: list[str] = []
    for _ in range(2):
        with Environment(app) as env:
            results.append(env.send("t/go").run.result)
            assert len(env.runs) == 1
    assert results[0] == results[1], "ids are the same whenever the same test runs"


def test_what_the_engine_refuses_is_raised(app: stepfold.App) -> None:
    @app.function("f", on=stepfold.Trigger("t/go", if_="event.data.n >"))
    async def f(ctx: stepfold.Context) -> None: ...

    with Environment(app) as env, pytest.raises(EngineError, match=r"event\.data\.n >"):
        env.send("t/go")


def test_misuse_is_refused(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    with pytest.raises(TypeError, match="an app or one of its functions"):
        Environment("app.py")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    env = stepfold_env(app)
    with pytest.raises(ValueError, match="reserved"):
        env.send("stepfold/x")
    with pytest.raises(ValueError, match="give one of"):
        env.stub("x", returns=1, raises=OSError)
    env.send("t/go")
    with pytest.raises(RuntimeError, match="before the first event"):
        env.stub_function("x-y")


def test_crons_fire_on_the_virtual_clock(app: stepfold.App, stepfold_env: MakeEnvironment) -> None:
    @app.function("f", cron="0 0 1 * *")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("a while", "1h")
        return ctx.event.data

    env = stepfold_env(app, start="2030-01-15T00:00:00Z")
    assert env.runs == []
    env.advance("16d")
    env.crash()
    env.advance("60d")
    env.finish()
    assert [run.result["scheduled_at"] for run in env.runs_of(f)] == [
        "2030-02-01T00:00:00Z",
        "2030-03-01T00:00:00Z",
        "2030-04-01T00:00:00Z",
    ]


def test_finish_does_not_wait_for_what_crons_start_meanwhile(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("f", on="t/go", cron="*/10 * * * *")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("long", "25m")

    env = stepfold_env(app)
    run = env.send("t/go").run
    env.finish()
    assert run.duration == timedelta(minutes=25)
    assert len(env.runs) == 4  # at 15:10, 15:20 and 15:30


def test_who_waits_for_nothing_is_stuck_although_a_cron_comes_due(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await asyncio.Event().wait()

    @app.function("g", cron="0 0 1 1 *")
    async def g(ctx: stepfold.Context) -> None:
        return None

    env = stepfold_env(app)
    env.send("t/go")
    with pytest.raises(StuckError):
        env.finish()


def test_a_cron_that_means_nothing_is_refused(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("f", cron="0 25 * * *")
    async def f(ctx: stepfold.Context) -> None:
        return None

    with pytest.raises(EngineError, match=r"function t-f: cron '0 25 . . .': bad hour"):
        stepfold_env(app).advance("1h")


def test_debounces_start_runs_on_the_virtual_clock(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("f", on="t/go", debounce=stepfold.Debounce("5m", key="data.k", timeout="1h"))
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("a while", "1h")
        return ctx.event.data["n"]

    env = stepfold_env(app)
    sent = []
    for n in range(3):
        sent.append(env.send("t/go", {"k": n % 2, "n": n}))
        env.advance("2m")
    with pytest.raises(NotThereError, match="time must pass for the debounce of t-f"):
        _ = sent[2].run
    env.crash()
    env.finish()
    assert [run.result for run in env.runs_of(f)] == [1, 2]
    assert sent[0].runs == []
    assert sent[2].run.event.data == {"k": 0, "n": 2}


def test_finish_waits_for_named_runs_only_although_a_debounce_is_pending(
    app: stepfold.App, stepfold_env: MakeEnvironment
) -> None:
    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("a while", "1h")

    @app.function("g", on="t/go", debounce="7d")
    async def g(ctx: stepfold.Context) -> None:
        return None

    env = stepfold_env(app)
    run = env.send("t/go").run
    env.finish(run)
    assert env.runs_of(g) == []
    env.finish()
    assert len(env.runs_of(g)) == 1
