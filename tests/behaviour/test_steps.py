"""Steps: outcomes, retries, timeouts, what may be returned, limits."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

import stepfold
from stepfold.port import Fact
from stepfold_engine.core.decide.timers import Retry
from stepfold_engine.effects import ProcessEffects
from stepfold_engine.histories import read_history
from stepfold_engine.native import Native
from stepfold_engine.owner import Owner
from stepfold_engine.settings import Settings
from stepfold_schemas.reports import ReportItem, RunRaised
from tests.behaviour.conftest import Running


def app_of(body: Any, **options: Any) -> stepfold.App:
    app = stepfold.App("t")
    app.function("f", on="t/go", **options)(body)
    return app


def test_data_flows_from_step_to_step_and_into_the_result(running: Running) -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    async def f(ctx: stepfold.Context) -> dict[str, Any]:
        one = await ctx.step.run("one", add, ctx.event.data["n"], b=1)
        two = await ctx.step.run("two", lambda: {"value": one * 2})
        return {"one": one, "two": two}

    with running(app_of(f)) as s:
        run = s.run("t/go", {"n": 4})
        assert run.result == {"one": 5, "two": {"value": 10}}
        assert run.steps == ["one", "two"]


def test_a_step_body_runs_once_although_the_run_goes_on_for_long(running: Running) -> None:
    ran: list[str] = []

    async def f(ctx: stepfold.Context) -> None:
        for i in range(5):
            await ctx.step.run("page", ran.append, f"page {i}")
            await ctx.step.sleep("pause", "1h")

    with running(app_of(f)) as s:
        run = s.run("t/go")
        assert ran == [f"page {i}" for i in range(5)]
        assert run.steps == ["page", "page:1", "page:2", "page:3", "page:4"]
        assert run.ended_ms - run.started_ms == pytest.approx(5 * 3_600_000, abs=1000)


def test_a_failing_step_is_retried_alone(running: Running) -> None:
    ran = {"first": 0, "second": 0}

    def first() -> int:
        ran["first"] += 1
        return 1

    async def second() -> str:
        ran["second"] += 1
        if ran["second"] < 3:
            raise ConnectionError("not now")
        return "done"

    async def f(ctx: stepfold.Context) -> Any:
        return [await ctx.step.run("a", first), await ctx.step.run("b", second)]

    with running(app_of(f)) as s:
        run = s.run("t/go")
        assert run.result == [1, "done"]
        assert ran == {"first": 1, "second": 3}
        assert run.failed_attempts("b") == 2


def test_when_its_retries_are_spent_the_function_gets_a_step_error(running: Running) -> None:
    attempts: list[int] = []

    async def fail() -> None:
        attempts.append(stepfold.step_info().attempt)
        raise ValueError("no good")

    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.options(retries=2).run("bad", fail)
        except stepfold.StepError as error:
            return f"{error.step} {error.name} {error.message}"
        return "?"

    with running(app_of(f)) as s:
        assert s.run("t/go").result == "bad ValueError no good"
        assert attempts == [1, 2, 3]


def test_the_default_is_four_retries_and_an_uncaught_step_error_fails_the_run(
    running: Running,
) -> None:
    attempts: list[int] = []

    async def f(ctx: stepfold.Context) -> None:
        def fail() -> None:
            attempts.append(1)
            raise ValueError("no good")

        await ctx.step.run("bad", fail)

    with running(app_of(f)) as s:
        run = s.run("t/go")
        assert run.status == "failed"
        assert "no good" in run.error
        assert len(attempts) == 5


def test_a_non_retriable_error_is_not_retried(running: Running) -> None:
    attempts: list[int] = []

    async def f(ctx: stepfold.Context) -> str:
        def fail() -> None:
            attempts.append(1)
            raise stepfold.NonRetriableError("never")

        try:
            await ctx.step.run("bad", fail)
        except stepfold.StepError as error:
            return error.name
        return "?"

    with running(app_of(f)) as s:
        assert s.run("t/go").result == "NonRetriableError"
        assert len(attempts) == 1


@pytest.mark.parametrize("after", [90, timedelta(seconds=90)])
def test_retry_after_is_obeyed(running: Running, after: Any) -> None:
    times: list[int] = []

    with running(stepfold.App("empty")):
        pass
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        def limited() -> None:
            times.append(1)
            if len(times) == 1:
                raise stepfold.RetryAfterError("slow down", after)

        await ctx.step.run("call", limited)

    with running(app) as s:
        run = s.run("t/go")
        assert run.ended_ms - run.started_ms >= 90_000
        assert run.ended_ms - run.started_ms < 100_000


def test_an_attempt_that_takes_too_long_fails_and_names_step_and_timeout(
    running: Running,
) -> None:
    async def slow() -> None:
        await asyncio.sleep(3600)

    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.options(retries=1, timeout="30s").run("slow", slow)
        except stepfold.StepError as error:
            return str(error)
        return "?"

    with running(app_of(f)) as s:
        run = s.run("t/go")
        assert "slow" in run.result
        assert "30" in run.result
        assert run.failed_attempts("slow") == 1


class Order(BaseModel):
    id: int
    at: datetime


@dataclass
class Line:
    name: str
    amount: float


def test_annotated_results_come_back_as_their_types(running: Running) -> None:
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

    async def order() -> Order:
        return Order(id=1, at=at)

    def lines() -> list[Line]:
        return [Line("a", 1.5)]

    def when() -> datetime:
        return at

    async def f(ctx: stepfold.Context) -> bool:
        same = await ctx.step.run("order", order) == Order(id=1, at=at)
        same = same and await ctx.step.run("lines", lines) == [Line("a", 1.5)]
        return same and await ctx.step.run("when", when) == at

    with running(app_of(f)) as s:
        assert s.run("t/go").result is True


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1.5, "é\u2028\x00", [], {}, [1, [2, {"a": None}]], 2**63, {"": {"": ""}}],
    ids=repr,
)
def test_any_json_value_is_recorded(running: Running, value: Any) -> None:
    async def f(ctx: stepfold.Context) -> Any:
        return [await ctx.step.run("value", lambda: value)]

    with running(app_of(f)) as s:
        assert s.run("t/go").result == [value]


UNHEARD_OF = {"nan": float("nan"), "inf": float("inf"), "object": object(), "surrogate": "\ud800"}


@pytest.mark.parametrize("kind", sorted(UNHEARD_OF))
def test_what_json_cannot_hold_fails_the_step_by_name(running: Running, kind: str) -> None:
    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.run("bad value", lambda: UNHEARD_OF[kind])
        except stepfold.StepError as error:
            return str(error)
        return "?"

    with running(app_of(f)) as s:
        result = s.run("t/go").result
        assert "bad value" in result
        assert "JSON" in result


def test_an_outcome_over_the_limit_is_refused_with_step_size_and_limit(running: Running) -> None:
    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.run("big", lambda: "x" * (4 * 1024 * 1024))
        except stepfold.StepError as error:
            return str(error)
        return "?"

    with running(app_of(f)) as s:
        result = s.run("t/go").result
        assert "big" in result
        assert str(4 * 1024 * 1024) in result


def test_too_many_steps_end_the_run_with_the_limit_named(running: Running) -> None:
    async def f(ctx: stepfold.Context) -> None:
        for _ in range(30):
            await ctx.step.run("again", lambda: 1)

    with running(app_of(f), steps_a_run_max=20) as s:
        run = s.run("t/go")
        assert "20 steps" in run.error
        assert Settings().steps_a_run_max == 1_000


def test_too_much_state_ends_the_run_with_the_limit_named(running: Running) -> None:
    async def f(ctx: stepfold.Context) -> None:
        for _ in range(30):
            await ctx.step.run("big", lambda: "x" * 1000)

    with running(app_of(f), state_bytes_max=10_000) as s:
        assert "10000" in s.run("t/go").error


def test_a_thread_that_outlives_its_timeout_does_not_count(running: Running) -> None:
    """S18: attempt 1 of a sync step times out, attempt 2 runs, then attempt 1 returns."""
    attempts: list[int] = []

    def body() -> int:
        number = stepfold.step_info().attempt
        attempts.append(number)
        if number == 1:
            time.sleep(0.3)  # a real thread: virtual time stands still for it
        return number

    async def f(ctx: stepfold.Context) -> int:
        return await ctx.step.options(timeout="50ms", retries=3).run("slow", body)

    with running(app_of(f)) as s:
        run = s.run("t/go")
        assert run.result == attempts[-1]
        assert len([e for e in run.entries if type(e).__name__ == "StepCompleted"]) == 1


def test_step_info_gives_a_key_that_stays_the_same_over_attempts(running: Running) -> None:
    keys: list[str] = []

    def body() -> None:
        keys.append(stepfold.step_info().idempotency_key)
        if len(keys) == 1:
            raise ValueError

    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("charge", body)

    with running(app_of(f)) as s:
        s.run("t/go")
        assert len(keys) == 2
        assert len(set(keys)) == 1


def test_the_functions_own_code_is_retried_and_recorded_steps_are_not_run_again(
    running: Running,
) -> None:
    ran: list[str] = []
    attempts: list[int] = []

    async def f(ctx: stepfold.Context) -> int:
        attempts.append(ctx.attempt)
        await ctx.step.run("once", ran.append, "x")
        if ctx.attempt < 3:
            raise RuntimeError("flaky code")
        return ctx.attempt

    with running(app_of(f)) as s:
        assert s.run("t/go").result == 3
        assert ran == ["x"]
        assert sorted(set(attempts)) == [1, 2, 3]


def test_the_next_attempt_of_the_code_waits_although_the_run_is_woken_meanwhile(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wakes a run while its failure is being written: its history is read around it."""
    app = stepfold.App("t")
    began: list[float] = []
    report = Native.report

    @app.function("f", on="t/go", retries=1)
    async def f(ctx: stepfold.Context) -> None:
        began.append(s.clock.now_ms())
        raise stepfold.RetryAfterError("once", timedelta(hours=1))

    def report_and_wake(
        native: Native, run: bytes, session: int, items: Sequence[ReportItem]
    ) -> None:
        report(native, run, session, items)
        if any(isinstance(item, RunRaised) for item in items):
            native.missing(run)

    async def read_slowly(*about: Any) -> list[Fact]:
        facts = await read_history(*about)
        await asyncio.sleep(1)
        return facts

    monkeypatch.setattr(Native, "report", report_and_wake)
    monkeypatch.setattr("stepfold_engine.native.read_history", read_slowly)
    with running(app) as s:
        run = s.run("t/go")
        assert run.status == "failed"
        first, second = began
        assert second - first >= 3_600_000


def test_an_attempt_that_came_due_begins_although_the_clock_goes_back(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its timer fires once: what asks whether its time has come must not undo that."""
    app = stepfold.App("t")
    back_ms = 0

    tried: list[str] = []

    async def fail_once() -> None:
        tried.append("step")
        if len(tried) == 1:
            raise stepfold.RetryAfterError("once", timedelta(minutes=5))

    @app.function("f", on="t/go", retries=1)
    async def f(ctx: stepfold.Context) -> int:
        await ctx.step.run("s", fail_once)
        if ctx.attempt == 1:
            raise stepfold.RetryAfterError("once", timedelta(minutes=5))
        return ctx.attempt

    def retry_on_a_clock_that_is_set(effects: ProcessEffects, owner: Owner, due: Retry) -> None:
        nonlocal back_ms
        back_ms += 3_600_000
        if due.step:
            # Its code is not in memory.
            s.worker.leave(due.run)
            effects.native.forget(due.run)
        retry(effects, owner, due)

    retry = ProcessEffects.retry
    monkeypatch.setattr(ProcessEffects, "retry", retry_on_a_clock_that_is_set)
    monkeypatch.setattr(Owner, "now_ms", lambda owner: owner._clock.now_ms() - back_ms)
    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(700)
        assert run.result == 2


def test_plain_functions_have_the_same_steps(running: Running) -> None:
    def f(ctx: stepfold.SyncContext) -> Any:
        a = ctx.step.run("a", lambda: 20)
        ctx.step.sleep("nap", "2h")
        b = ctx.step.run("b", lambda: a + 1)
        event = ctx.step.wait_for_event("none", event="t/none", timeout="1h")
        ids = ctx.step.send_event("tell", {"name": "t/told", "data": {"b": b}})
        name = ""
        try:
            ctx.step.options(retries=0).run("bad", lambda: 1 // 0)
        except stepfold.StepError as error:
            name = error.name
        return [b, event, len(ids), name]

    with running(app_of(f)) as s:
        run = s.run("t/go")
        assert run.result == [21, None, 1, "ZeroDivisionError"]
        assert run.ended_ms - run.started_ms >= 3 * 3_600_000


def test_steps_cannot_be_nested_and_the_message_says_so(running: Running) -> None:
    async def f(ctx: stepfold.Context) -> str:
        async def inner() -> None:
            await ctx.step.run("inner", lambda: 1)

        try:
            await ctx.step.options(retries=0).run("outer", inner)
        except stepfold.StepError as error:
            return str(error)
        return "?"

    with running(app_of(f)) as s:
        assert "nested" in s.run("t/go").result
