"""Sleeps, waits for events, signals, invocations, events sent: in virtual time, on every log."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stepfold
from stepfold_engine.core.timers import GONE_MIN
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, NewRecord
from stepfold_engine.readers import event_record
from stepfold_schemas.events import Event
from tests.behaviour.conftest import Running
from tests.behaviour.scenario import EPOCH_MS, Variant, scenario

HOUR = 3_600_000


def new() -> stepfold.App:
    return stepfold.App("t")


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        ("30s", 30_000),
        ("7 days", 7 * 24 * HOUR),
        ("1h30m", 5_400_000),
        (60_000, 60_000),
        (timedelta(days=366), 366 * 24 * HOUR),
    ],
    ids=str,
)
def test_a_sleep_ends_at_its_time_and_not_before(running: Running, duration: Any, ms: int) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("nap", duration)

    with running(app) as s:
        run = s.run("t/go")
        assert ms <= run.ended_ms - run.started_ms < ms + 1_000


def test_sleep_until_a_date_a_text_and_a_past_time(running: Running) -> None:
    app = new()
    at = datetime.fromtimestamp(EPOCH_MS / 1000, UTC) + timedelta(days=2)

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[float]:
        times = []
        for until in (at, (at + timedelta(days=1)).isoformat(), at - timedelta(days=9)):
            await ctx.step.sleep_until("nap", until)
            times.append((ctx.now() - at).total_seconds())
        return times

    with running(app) as s:
        first, second, third = s.run("t/go").result
        assert 0 <= first < 1
        assert 86_400 <= second < 86_401
        assert second <= third < second + 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.step.sleep("nap", 1.5), "1.5s"),
        (lambda c: c.step.sleep("nap", "5 parsecs"), "parsecs"),
        (lambda c: c.step.sleep("nap", "367d"), "366 days"),
        (lambda c: c.step.sleep_until("nap", datetime(2030, 1, 1)), "UTC"),  # noqa: DTZ001 - no zone
    ],
)
def test_a_bad_duration_fails_with_what_to_write_instead(
    running: Running, call: Any, says: str
) -> None:
    app = new()

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await call(ctx)

    with running(app) as s:
        assert says in s.run("t/go").error


def test_a_wait_gets_the_event_that_matches_and_no_other(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        event = await ctx.step.wait_for_event(
            "paid", event="t/paid", match="data.user", timeout="1d"
        )
        return None if event is None else event.data

    with running(app) as s:
        run = s.start_run("t/go", {"user": 7})
        s.advance(5)
        s.send("t/paid", {"user": 8})
        s.send("t/other", {"user": 7})
        s.advance(5)
        assert run.end is None
        s.send("t/paid", {"user": 7, "n": 1})
        assert s.ended(run).result == {"user": 7, "n": 1}


def test_a_wait_by_expression_gets_only_the_exact_event(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        event = await ctx.step.wait_for_event(
            "pro",
            event="t/plan",
            if_="event.data.user == async.data.user && async.data.plan == 'pro'",
            timeout="1d",
        )
        return None if event is None else event.data["n"]

    with running(app) as s:
        run = s.start_run("t/go", {"user": 7})
        s.advance(1)
        s.send("t/plan", {"user": 7, "plan": "free", "n": 1})
        s.send("t/plan", {"user": 8, "plan": "pro", "n": 2})
        s.send("t/plan", {"user": 7, "plan": "pro", "n": 3})
        assert s.ended(run).result == 3


def test_a_wait_that_nothing_matches_gives_none_at_its_timeout(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        return await ctx.step.wait_for_event("never", event="t/never", timeout="72h")

    with running(app) as s:
        run = s.run("t/go")
        assert run.result is None
        assert 72 * HOUR <= run.ended_ms - run.started_ms < 72 * HOUR + 60_000


def test_s25_the_runs_own_trigger_and_a_second_copy_of_an_event_wake_nothing(
    running: Running,
) -> None:
    """S25: the same event is published twice while a run waits for its name in a loop."""
    app = new()

    @app.function("f", on="t/tick")
    async def f(ctx: stepfold.Context) -> list[int]:
        found: list[int] = []
        while True:
            event = await ctx.step.wait_for_event("tick", event="t/tick", timeout="1h")
            if event is None:
                return found
            found.append(event.data["n"])

    with running(app) as s:
        run = s.start_run("t/tick", {"n": 0}, id="tick-0")
        s.advance(1)
        for n in (0, 1, 1, 2, 1):
            s.send("t/tick", {"n": n}, id=f"tick-{n}")
            s.advance(1)
        s.until(lambda: run.end is not None)
        assert run.result == [1, 2]


def test_one_event_wakes_every_run_that_waits_for_it_once(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        event = await ctx.step.wait_for_event("all", event="t/all", timeout="1d")
        return -1 if event is None else event.data["n"]

    with running(app) as s:
        for n in range(20):
            s.send("t/go", {"n": n})
        s.advance(60)
        s.send("t/all", {"n": 99})
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 20)
        assert [r.result for r in s.of("f")] == [99] * 20


def test_since_run_finds_an_event_that_came_before_the_wait(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("busy", "1h")
        event = await ctx.step.wait_for_event(
            "early", event="t/early", match="data.k", timeout="1h", since="run"
        )
        return None if event is None else event.data["n"]

    with running(app) as s:
        s.send("t/early", {"k": 1, "n": 0})
        s.advance(10)
        run = s.start_run("t/go", {"k": 1})
        s.advance(60)
        s.send("t/early", {"k": 2, "n": 1})
        s.send("t/early", {"k": 1, "n": 2})
        assert s.ended(run).result == 2


def test_since_run_finds_an_event_that_came_before_the_process_that_began_the_run(
    running: Running,
) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        event = await ctx.step.wait_for_event(
            "early", event="t/early", match="data.k", timeout="1h", since="run"
        )
        return None if event is None else event.data["n"]

    with running(app) as s:
        s.crash()
        for n, name in enumerate(["t/early", "t/go", "t/early"]):
            s.append_while_down(name, {"k": 1, "n": n})
            s.advance(600)
        s.start()
        s.until(lambda: s.of("f") and s.of("f")[0].end)
        assert s.of("f")[0].result == 2


def test_waits_that_end_soon_leave_no_timeouts_behind(tmp_path: Path) -> None:
    """A timeout of a month is not kept for a month by a partition in which thousands end a day."""
    app = new()

    @app.function("f", on="t/go", finish_timeout="90d")
    async def f(ctx: stepfold.Context) -> None:
        wait = ctx.step.wait_for_event("paid", event="t/paid", match="data.n", timeout="30d")
        signal = ctx.step.wait_for_signal(
            "approved", signal=f"approve/{ctx.event.data['n']}", timeout="30d"
        )
        await asyncio.gather(wait, signal)

    with scenario(Variant("memory", False, 1), app, tmp_path) as s:
        for n in range(1_500):
            s.send("t/go", {"n": n})
            s.advance(0.1)
            s.send("t/paid", {"n": n})
            s.signal(f"approve/{n}")
        s.advance(1)
        assert all(run.end is not None for run in s.runs.values())
        assert len(s.node.owners[0].state.timers) <= GONE_MIN


def test_events_that_many_others_surround_are_met_one_by_one(running: Running) -> None:
    """Behind hundreds of events of other names, in the same row: each is looked at in its turn."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        wait, names = ctx.step.wait_for_event, ("a", "b", "c", "a")
        events = await asyncio.gather(
            *(
                wait(f"{name} {i}", event="t/tick", if_=f"async.data.k == '{name}'", timeout="1h")
                for i, name in enumerate(names)
            )
        )
        return [event and event.data["n"] for event in events]

    ticks = {3: "a", 300: "b", 301: "x", 302: "c", 600: "a"}
    with running(app) as s:
        runs = [s.start_run("t/go") for _ in range(4)]
        s.advance(1)
        s.crash()
        for n in range(700):
            s.append_while_down("t/tick" if n in ticks else "t/noise", {"n": n, "k": ticks.get(n)})
            if n == 299:
                s.do(s.log.append(EVENTS, 0, [NewRecord(b"no event")]))
        s.start()
        for run in runs:
            assert s.ended(run).result == [3, 300, 302, 3]
        ends = [s.do(s.log.bounds(DEAD_LETTERS, p)).end for p in range(s.variant.partitions)]
        assert sum(ends) == 1, "the record that is no event is kept, by one of them"


def test_since_run_looks_back_to_the_copy_that_was_read_first(tmp_path: Path) -> None:
    """That one started the run; what came before it is not found, even behind an older copy."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        early = await ctx.step.wait_for_event("early", event="t/early", timeout="1h", since="run")
        return None if early is None else early.data["n"]

    with scenario(Variant("memory", False, 2), app, tmp_path) as s:
        s.crash()
        go = Event("t/go", b"{}", "go")
        for partition, event in ((1, go), (0, Event("t/early", b'{"n": 1}', "early")), (0, go)):
            s.do(s.log.append(EVENTS, partition, [event_record(event)]))
            s.advance(1)
        s.start()
        s.until(lambda: s.of("f") and s.of("f")[0].end)
        assert s.of("f")[0].result is None


def test_s24_since_run_misses_nothing_that_comes_while_the_log_is_searched(
    running: Running,
) -> None:
    """S24: answers arrive before, while and after the wait looks back."""
    app = new()

    @app.function("ask", on="t/ask")
    async def ask(ctx: stepfold.Context) -> Any:
        n = ctx.event.data["n"]
        await ctx.step.send_event("question", {"name": "t/question", "data": {"n": n}})
        answer = await ctx.step.wait_for_event(
            "answer", event="t/answer", match="data.n", timeout="1h", since="run"
        )
        return None if answer is None else answer.data["n"]

    @app.function("answer", on="t/question")
    async def answer(ctx: stepfold.Context) -> None:
        data = {"n": ctx.event.data["n"]}
        await ctx.step.send_event("answer", {"name": "t/answer", "data": data})

    with running(app) as s:
        for n in range(60):
            s.send("t/ask", {"n": n})
        s.until(lambda: len([r for r in s.of("ask") if r.end]) == 60)
        assert sorted(r.result for r in s.of("ask")) == list(range(60))


def test_waits_that_look_back_at_once_each_find_an_event(running: Running) -> None:
    """An event comes to a run once; a search that finds what came to another wait goes on."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("busy", "1h")
        events = await asyncio.gather(
            *(
                ctx.step.wait_for_event(f"early {n}", event="t/early", timeout="1h", since="run")
                for n in range(3)
            )
        )
        return [None if event is None else event.data["n"] for event in events]

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        for n in range(3):
            s.send("t/early", {"n": n})
        assert sorted(s.ended(run).result) == [0, 1, 2]


def test_without_since_an_event_before_the_wait_is_not_meant(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("busy", "1h")
        return await ctx.step.wait_for_event("early", event="t/early", timeout="1h")

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        s.send("t/early")
        assert s.ended(run).result is None


def test_a_bad_expression_fails_the_step_and_nothing_else(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.wait_for_event("bad", event="t/x", if_="event.data. ==", timeout="1h")
        except stepfold.StepError as error:
            return str(error)
        return "?"

    with running(app) as s:
        assert "event.data. ==" in s.run("t/go").result


def test_a_signal_goes_to_its_one_waiter(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        name = f"review/{ctx.event.data['id']}"
        signal = await ctx.step.wait_for_signal("review", signal=name, timeout="1h")
        return None if signal is None else signal.data

    with running(app) as s:
        assert s.signal("review/1") is None
        run = s.start_run("t/go", {"id": 1})
        s.advance(5)
        assert s.signal("review/1", {"ok": True}) == run.text
        assert s.ended(run).result == {"ok": True}
        assert s.signal("review/1") is None


def test_a_signal_that_does_not_come_gives_none(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        return await ctx.step.wait_for_signal("s", signal="never", timeout="1h")

    with running(app) as s:
        run = s.run("t/go")
        assert run.result is None
        assert HOUR <= run.ended_ms - run.started_ms < HOUR + 60_000


def test_s14_a_second_waiter_for_a_signal_gets_the_conflict(running: Running) -> None:
    """S14: two runs in different partitions wait for the same name."""
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        try:
            signal = await ctx.step.wait_for_signal("s", signal="one", timeout="1h")
        except stepfold.SignalConflictError:
            return "conflict"
        return None if signal is None else signal.data

    with running(app) as s:
        first = s.start_run("t/go")
        s.advance(5)
        for _ in range(5):
            assert s.run("t/go").result == "conflict"
        assert s.signal("one", "yes") == first.text
        assert s.ended(first).result == "yes"


def test_replace_takes_the_signal_over_and_the_older_wait_goes_to_its_timeout(
    running: Running,
) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        signal = await ctx.step.wait_for_signal(
            "s", signal="one", timeout="1h", on_conflict="replace"
        )
        return None if signal is None else signal.data

    with running(app) as s:
        first = s.start_run("t/go")
        s.advance(60)
        second = s.start_run("t/go")
        s.advance(60)
        assert s.signal("one", "yes") == second.text
        assert s.ended(second).result == "yes"
        assert s.ended(first).result is None


def test_a_function_signals_another(running: Running) -> None:
    app = new()

    @app.function("waiter", on="t/go")
    async def waiter(ctx: stepfold.Context) -> Any:
        signal = await ctx.step.wait_for_signal("s", signal="from-other", timeout="1h")
        return None if signal is None else signal.data

    @app.function("sender", on="t/send")
    async def sender(ctx: stepfold.Context) -> Any:
        return [
            await ctx.step.send_signal("a", "from-other", {"n": 1}),
            await ctx.step.send_signal("b", "from-other", {"n": 2}),
        ]

    with running(app) as s:
        waiting = s.start_run("t/go")
        s.advance(5)
        assert s.run("t/send").result == [waiting.text, None]
        assert s.ended(waiting).result == {"n": 1}


def test_invoke_gives_the_other_functions_result(running: Running) -> None:
    app = new()

    @app.function("square")
    async def square(ctx: stepfold.Context) -> int:
        n = int(ctx.event.data["n"])
        return await ctx.step.run("multiply", lambda: n * n)

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        parts = await asyncio.gather(
            *(ctx.step.invoke(f"part-{n}", function=square, data={"n": n}) for n in range(6))
        )
        return [*parts, await ctx.step.invoke("again", function="t-square", data={"n": 4})]

    with running(app) as s:
        assert s.run("t/go").result == [0, 1, 4, 9, 16, 25, 16]


def test_a_failing_invoked_function_is_a_step_error_here(running: Running) -> None:
    app = new()

    @app.function("bad", retries=0)
    async def bad(ctx: stepfold.Context) -> None:
        raise ValueError("it broke")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.invoke("call", function=bad, data={})
        except stepfold.StepError as error:
            return error.message
        return "?"

    with running(app) as s:
        assert "it broke" in s.run("t/go").result


def test_invoking_what_is_not_there_and_what_takes_too_long(running: Running) -> None:
    app = new()

    @app.function("slow")
    async def slow(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("long", "10d")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[str]:
        found = []
        for name in ("t-missing", "t-slow"):
            try:
                await ctx.step.invoke("call", function=name, timeout="1d")
            except stepfold.StepError as error:
                found.append(str(error))
        return found

    with running(app) as s:
        missing, slow_one = s.run("t/go").result
        assert "could not find function with ID: t-missing" in missing
        assert "timeout" in slow_one


def test_events_sent_by_a_step_start_functions_once_even_if_the_step_is_retried(
    running: Running,
) -> None:
    app = new()

    @app.function("parent", on="t/go")
    async def parent(ctx: stepfold.Context) -> int:
        ids = await ctx.step.send_event(
            "fan-out", [{"name": "t/child", "data": {"n": n}} for n in range(5)]
        )
        return len(set(ids))

    @app.function("child", on="t/child")
    async def child(ctx: stepfold.Context) -> int:
        return ctx.event.data["n"]

    with running(app) as s:
        s.send("t/go")
        s.until(lambda: len([r for r in s.runs.values() if r.end]) == 6)
        assert sorted(r.result for r in s.of("child")) == [0, 1, 2, 3, 4]
        assert s.of("parent")[0].result == 5
