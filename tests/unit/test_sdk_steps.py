"""Steps, waits, signals, invocations: what an author sees of them."""

import asyncio
import contextvars
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import stepfold
from stepfold import (
    Context,
    InvokeTimeoutError,
    NonRetriableError,
    RetryAfterError,
    Signal,
    SignalConflictError,
    StepError,
)
from stepfold.crew import WorkerSettings
from stepfold_schemas import entries
from stepfold_schemas.events import Event
from stepfold_schemas.ids import parse_ulid, time_of
from stepfold_schemas.reports import AskWait, AttemptRunning
from tests.unit.sdk_journal import Journal, Run

CORRELATION = contextvars.ContextVar("correlation", default="none")


async def work(value: Any = None, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


def run_of(code: Any, data: dict[str, Any] | None = None, **options: Any) -> Run:
    app = stepfold.App("t")
    app.function("f", retries=options.pop("retries", None))(code)
    with Journal(app, **options) as journal:
        return journal.finish(journal.start("f", data))


def waited(run: Run, kind: type[Any]) -> list[float]:
    """Seconds between a fact of a kind and the one before it."""
    pairs = zip(run.facts, run.facts[1:], strict=False)
    return [(b.at_ms - a.at_ms) / 1000 for a, b in pairs if isinstance(b.entry, kind)]


def test_a_body_gets_its_arguments_whatever_they_are_called() -> None:
    async def body(*args: int, id: str, call: str) -> list[Any]:  # noqa: A002
        return [*args, id, call]

    async def f(ctx: Context) -> list[Any]:
        return await ctx.step.run("s", body, 1, 2, id="x", call="y")

    assert run_of(f).result == [1, 2, "x", "y"]


def test_bodies_may_be_lambdas_partials_methods_and_callable_objects() -> None:
    from functools import partial

    class Service:
        async def fetch(self, n: int) -> int:
            return n + 1

        async def __call__(self, n: int) -> int:
            return n + 2

    service = Service()

    async def f(ctx: Context) -> list[Any]:
        return [
            await ctx.step.run("lambda", lambda: 1),
            await ctx.step.run("lambda that awaits", lambda: work(2)),
            await ctx.step.run("partial", partial(work, 3)),
            await ctx.step.run("method", service.fetch, 3),
            await ctx.step.run("object", service, 3),
            await ctx.step.run("builtin", sum, [1, 2, 3]),
            await ctx.step.run("nothing", print),
        ]

    assert run_of(f).result == [1, 2, 3, 4, 5, 6, None]


def test_a_failed_attempt_is_repeated_by_the_steps_policy() -> None:
    calls: list[int] = []

    async def flaky() -> str:
        calls.append(stepfold.step_info().attempt)
        if len(calls) < 3:
            raise ConnectionError("not yet")
        return "ok"

    async def f(ctx: Context) -> str:
        policy = stepfold.Retry(5, delay="10s", factor=3, jitter=0)
        return await ctx.step.options(retries=policy).run("flaky", flaky)

    run = run_of(f)
    assert run.result == "ok"
    assert calls == [1, 2, 3]
    failures = [e for e in run.entries if isinstance(e, entries.StepAttemptFailed)]
    assert [(e.error.name, e.error.message) for e in failures] == [
        ("ConnectionError", "not yet")
    ] * 2
    assert "not yet" in failures[0].error.stack
    assert "/stepfold/" not in failures[0].error.stack
    assert waited(run, entries.StepAttemptFailed)[-1] == pytest.approx(10, abs=0.1)
    assert waited(run, entries.StepCompleted)[-1] == pytest.approx(30, abs=0.1)


def test_the_decorator_gives_a_body_its_policy_and_options_go_before_it() -> None:
    calls: list[str] = []

    @stepfold.step(retries=1, timeout="1s")
    async def slow(name: str) -> None:
        calls.append(name)
        await asyncio.sleep(5)

    async def f(ctx: Context) -> list[str]:
        messages: list[str] = []
        for name, step in (("a", ctx.step), ("b", ctx.step.options(retries=0))):
            try:
                await step.run(name, slow, name)
            except StepError as error:
                messages.append(error.message)
        return messages

    run = run_of(f)
    assert calls == ["a", "a", "b"]
    assert run.result == [
        "step 'a': attempt 2 took longer than its timeout, 1 s",
        "step 'b': attempt 1 took longer than its timeout, 1 s",
    ]


def test_errors_by_kind() -> None:
    async def body(kind: str) -> None:
        if kind == "never":
            raise NonRetriableError("bad input")
        if stepfold.step_info().attempt == 1:
            raise RetryAfterError("busy", timedelta(minutes=7))

    async def f(ctx: Context) -> list[str]:
        await ctx.step.run("after", body, "after")
        try:
            await ctx.step.run("never", body, "never")
        except StepError as error:
            return [error.name, error.step, error.message, str(error)]
        return []

    run = run_of(f)
    assert run.result == [
        "NonRetriableError",
        "never",
        "bad input",
        "step 'never' failed: NonRetriableError: bad input",
    ]
    assert waited(run, entries.StepCompleted)[-1] == pytest.approx(420, abs=0.1)
    (failed,) = [e for e in run.entries if isinstance(e, entries.StepFailed)]
    assert failed.attempt == 1


@pytest.mark.parametrize(
    ("after", "seconds"),
    [(90, 90), (1.5, 1.5), (timedelta(hours=1), 3600), (-5, 0)],
)
def test_retry_after_takes_seconds_and_more(after: Any, seconds: float) -> None:
    assert RetryAfterError("x", after).delay_ms(0) == seconds * 1000


def test_retry_after_takes_a_time_but_not_a_naive_one() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert RetryAfterError("x", at).delay_ms(int(at.timestamp() * 1000) - 5) == 5
    with pytest.raises(ValueError, match="aware datetime"):
        RetryAfterError("x", datetime(2030, 1, 1))  # noqa: DTZ001


def test_an_uncaught_step_error_ends_the_run_and_other_errors_are_tried_again() -> None:
    async def bad() -> None:
        raise NonRetriableError("no")

    async def fails_by_step(ctx: Context) -> None:
        await ctx.step.run("bad", bad)

    assert run_of(fails_by_step).error.message == "step 'bad' failed: NonRetriableError: no"

    async def fails_itself(ctx: Context) -> list[int]:
        once = await ctx.step.run("once", work, 1)
        if ctx.attempt < 3:
            raise ValueError("again")
        return [ctx.attempt, once]

    run = run_of(fails_itself)
    assert run.result == [3, 1]
    assert run.named(entries.StepCompleted) == ["once"]

    async def in_a_group(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.run("bad", bad))
            group.create_task(ctx.step.sleep("long", "1d"))

    assert run_of(in_a_group).attempt == 1


def test_a_group_that_was_cancelled_by_an_error_is_whole_again_in_the_next_attempt() -> None:
    failures = iter([True, False])

    async def f(ctx: Context) -> list[Any]:
        async def io() -> str:
            await ctx.step.run("first", work, 1)
            await asyncio.sleep(3)
            if next(failures):
                raise ConnectionError("of the function's own")
            return "io"

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(io()),
                group.create_task(ctx.step.sleep("nap", "10s")),
                group.create_task(ctx.step.run("slow", work, "slow", 20)),
            ]
        return [task.result() for task in tasks]

    run = run_of(f)
    assert run.result == ["io", None, "slow"]
    assert run.attempt == 2


def test_what_a_body_may_know_of_itself() -> None:
    infos: list[stepfold.StepInfo] = []

    async def body() -> None:
        infos.append(stepfold.step_info())
        if len(infos) == 1:
            raise ValueError("again")

    def plain() -> None:
        infos.append(stepfold.step_info())

    async def f(ctx: Context) -> str:
        await ctx.step.run("s", body)
        await ctx.step.run("s", plain)
        return ctx.run_id

    run = run_of(f)
    first, second, third = infos
    assert (first.step, first.attempt, second.attempt) == ("s", 1, 2)
    assert first.idempotency_key == second.idempotency_key
    assert third.step == "s:1"
    assert third.idempotency_key != first.idempotency_key
    assert {info.run_id for info in infos} == {run.result} == {run.text}
    with pytest.raises(RuntimeError, match="body of a step"):
        stepfold.step_info()


def test_steps_cannot_be_nested() -> None:
    async def f(ctx: Context) -> None:
        async def body() -> None:
            await ctx.step.run("inner", work)

        await ctx.step.run("outer", body)

    error = run_of(f).error
    assert "steps cannot be nested: 'inner'" in error.message


def test_a_context_belongs_to_its_function() -> None:
    kept: list[Context] = []

    async def f(ctx: Context) -> None:
        kept.append(ctx)

    run_of(f)

    async def outside() -> None:
        await kept[0].step.sleep("s", "1s")

    # The life has ended: what it asks for is let out by a private exception.
    with pytest.raises(BaseException, match=r"^$"):
        asyncio.run(outside())


def test_context_variables_reach_the_body() -> None:
    async def body() -> str:
        return CORRELATION.get()

    async def f(ctx: Context) -> str:
        CORRELATION.set("order-7")
        return await ctx.step.run("s", body)

    assert run_of(f).result == "order-7"


def test_an_attempt_that_takes_long_is_noted_once() -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> None:
        await asyncio.gather(ctx.step.run("long", work, 1, 90), ctx.step.run("short", work, 1, 0.5))

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        noted = [i for _, items in journal.reported for i in items if isinstance(i, AttemptRunning)]
        assert [item.name for item in noted] == ["long"]
        assert [e.name for e in run.entries if isinstance(e, entries.AttemptStarted)] == ["long"]


def test_sys_exit_in_a_step_or_a_function_is_an_ordinary_failure() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def f(ctx: Context) -> str:
        try:
            await ctx.step.options(retries=0).run("leave", leave)
        except StepError as error:
            if ctx.attempt == 1:
                raise SystemExit(4) from error
            return f"{error.name} {error.message}"
        return "?"

    assert run_of(f).result == "SystemExit 3"


def test_sleeps_last_as_long_as_they_should() -> None:
    async def f(ctx: Context) -> list[str]:
        start = ctx.now()
        await ctx.step.sleep("a", "1h30m")
        await ctx.step.sleep_until("b", start + timedelta(hours=5))
        await ctx.step.sleep_until("past", "2001-01-01T00:00:00Z")
        await ctx.step.sleep("c", timedelta(days=30))
        await ctx.step.sleep("d", 60_000)
        return [str(ctx.now() - start)]

    (lasted,) = run_of(f).result
    assert lasted.startswith("30 days, 5:01:00.0")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s: s.sleep("s", 1.5), TypeError, '"1.5s"'),
        (lambda s: s.sleep("s", "-1s"), ValueError, "cannot be read"),
        (lambda s: s.sleep("s", "367d"), ValueError, "366 days"),
        (lambda s: s.sleep_until("s", datetime(2030, 1, 1)), ValueError, "naive"),  # noqa: DTZ001
        (lambda s: s.sleep_until("s", "2100-01-01T00:00:00Z"), ValueError, "366 days"),
        (lambda s: s.sleep("", "1s"), TypeError, "step's id"),
        (lambda s: s.run(7, work), TypeError, "step's id"),
        (lambda s: s.options(retries=21), ValueError, "from 0 to 20"),
        (lambda s: s.options(timeout="0s"), ValueError, "timeout is '0s': give at least 1 ms"),
        (lambda s: s.send_event("s", "name"), TypeError, "NewEvent or a dict"),
        (lambda s: s.send_event("s", {"data": {}}), ValueError, "needs a name"),
        (lambda s: s.send_event("s", {"name": "a", "dat": {}}), ValueError, "no field 'dat'"),
        (
            lambda s: s.wait_for_event("s", event="e", timeout="1h", match="order_id"),
            ValueError,
            "data.order_id",
        ),
        (
            lambda s: s.wait_for_signal("s", signal="e", timeout="1h", on_conflict="x"),
            ValueError,
            "'fail' or 'replace'",
        ),
    ],
)
def test_mistakes_are_told_at_the_call(call: Any, error: type[Exception], text: str) -> None:
    async def f(ctx: Context) -> str:
        with pytest.raises(error, match=text.replace(".", r"\.")):
            call(ctx.step)
        return "told"

    assert run_of(f).result == "told"


def test_a_wait_gets_the_event_that_matches() -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> list[Any]:
        got = await ctx.step.wait_for_event(
            "paid", event="shop/paid", timeout="24h", match="data.order", since="run"
        )
        none = await ctx.step.wait_for_event("never", event="shop/never", timeout="1h")
        assert got is not None
        return [got.name, got.data, got.id, got.ts.isoformat(), none]

    assert f
    with Journal(app) as journal:
        run = journal.start("f", {"order": 7})
        journal.until(lambda: run.parked)
        journal.publish(Event("shop/paid", b'{"order":8}', "other", 1_750_000_000_000))
        journal.publish(Event("shop/paid", b'{"order":7,"by":"card"}', "mine", 1_750_000_000_000))
        assert journal.finish(run).result == [
            "shop/paid",
            {"order": 7, "by": "card"},
            "mine",
            "2025-06-15T15:06:40+00:00",
            None,
        ]
        asked = [i for _, items in journal.reported for i in items if isinstance(i, AskWait)]
        assert asked[0].since_ms == -1
        assert asked[0].trigger["data"] == {"order": 7}
        assert asked[0].trigger["id"] == "event-0"


def test_signals() -> None:
    app = stepfold.App("t")

    @app.function("waiter")
    async def waiter(ctx: Context) -> Any:
        got = await ctx.step.wait_for_signal("s", signal="approval", timeout="1d")
        late = await ctx.step.wait_for_signal("t", signal="other", timeout="1h")
        return [None if got is None else got.data, late]

    @app.function("rival")
    async def rival(ctx: Context) -> Any:
        try:
            await ctx.step.wait_for_signal("s", signal="approval", timeout="1d")
        except SignalConflictError as error:
            return [error.step, error.message]

    @app.function("sender")
    async def sender(ctx: Context) -> Any:
        to = await ctx.step.send_signal("send", "approval", {"by": "eve"})
        nobody = await ctx.step.send_signal("again", "approval")
        return [to, nobody]

    assert waiter
    assert rival
    assert sender
    with Journal(app) as journal:
        run = journal.start("waiter")
        journal.until(lambda: run.parked)
        other = journal.finish(journal.start("rival"))
        assert other.result[0] == "s"
        assert run.text in other.result[1]
        sent = journal.finish(journal.start("sender"))
        assert sent.result == [run.text, None]
        assert journal.finish(run).result == [{"by": "eve"}, None]
    assert Signal(None) != None  # noqa: E711 - a signal without data is not a timeout


def test_events_are_sent_once_with_ids_made_from_the_step() -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> list[Any]:
        at = datetime(2030, 1, 1, tzinfo=UTC)
        return [
            await ctx.step.send_event("one", {"name": "a/one", "data": {"n": 1}}),
            await ctx.step.send_event(
                "two", [stepfold.NewEvent("a/two", {"at": at}), {"name": "a/three", "id": "given"}]
            ),
        ]

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        one, two, three = journal.published
        assert one.id.startswith(f"{run.text}:")
        assert one.id.endswith(":0")
        assert two.id.endswith(":0")
        assert three.id == "given"
        assert two.data == b'{"at":"2030-01-01T00:00:00Z"}'
        assert run.result == [[f"internal-{one.id}"], [f"internal-{two.id}", "internal-given"]]


def test_an_event_that_cannot_be_sent_fails_the_step_at_once() -> None:
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.send_event("s", {"name": "stepfold/x", "data": {}})
        except StepError as error:
            return error.message
        return ""

    assert "reserved" in run_of(f).result


def test_invocations_give_results_and_errors() -> None:
    app = stepfold.App("t")

    @app.function("square")
    async def square(ctx: Context) -> int:
        number: int = ctx.event.data["n"]
        return number * number

    @app.function("slow")
    async def slow(ctx: Context) -> None:
        await ctx.step.sleep("s", "10d")

    @app.function("bad")
    async def bad(_: Context) -> None:
        raise NonRetriableError("no")

    @app.function("f")
    async def f(ctx: Context) -> list[Any]:
        result: list[Any] = [await ctx.step.invoke("4", function=square, data={"n": 4})]
        try:
            await ctx.step.invoke("bad", function="t-bad")
        except StepError as error:
            result.append([type(error).__name__, error.name, error.message])
        try:
            await ctx.step.invoke("slow", function=slow, timeout="1d")
        except InvokeTimeoutError as error:
            result.append(error.step)
        return result

    assert f
    assert bad
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        assert run.result == [16, ["StepError", "NonRetriableError", "no"], "slow"]


def test_the_logger_says_each_thing_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body(ctx: Context) -> None:
        ctx.logger.info("in the step")

    async def f(ctx: Context) -> None:
        ctx.logger.info("begin")
        await ctx.step.run("a", body, ctx)
        ctx.logger.info("after a")
        await ctx.step.sleep("s", "1d")
        ctx.logger.info("after s", extra={"more": 1})

    variants: list[dict[str, Any]] = [
        {},
        {"always_replay": True},
        {"settings": WorkerSettings(idle_max=0)},
    ]
    for options in variants:
        caplog.clear()
        with caplog.at_level(logging.INFO, "stepfold.function"):
            run = run_of(f, **options)
        records = [r for r in caplog.records if r.name == "stepfold.function"]
        assert [r.message for r in records] == ["begin", "in the step", "after a", "after s"], (
            options
        )
        assert {getattr(r, "run_id", "") for r in records} == {run.text}
        assert getattr(records[-1], "more", 0) == 1


def test_the_context_shows_the_run() -> None:
    async def f(ctx: Context) -> list[Any]:
        return [ctx.run_id, ctx.attempt, ctx.event.name, ctx.events[0].data, ctx.now().isoformat()]

    run = run_of(f, {"a": [1, "ü"]})
    assert run.result[0] == run.text
    assert time_of(parse_ulid(run.text)) == run.started_ms
    assert run.result[1:] == [1, "test/f", {"a": [1, "ü"]}, "2025-06-15T15:06:40+00:00"]


def test_chance_is_real_in_a_body_and_repeatable_outside() -> None:
    drawn: list[Any] = []

    async def body(ctx: Context) -> list[Any]:
        drawn.append(ctx.uuid())
        return [str(ctx.uuid()), ctx.random().random(), ctx.now().year]

    async def f(ctx: Context) -> list[Any]:
        a, b = ctx.uuid(), ctx.uuid()
        inside = await ctx.step.run("s", body, ctx)
        return [
            str(a),
            str(b),
            a.version,
            ctx.random().random() == ctx.random().random(),
            inside[2],
        ]

    run, again = run_of(f), run_of(f, always_replay=True)
    assert run.result[0] != run.result[1]
    assert run.result[2:4] == [4, False]
    assert run.result[:2] == again.result[:2], "the same run id and the same calls"
    assert len(set(drawn)) == 2


def test_a_failure_handler_is_a_function_of_its_own() -> None:
    app = stepfold.App("t")

    @app.function("f", on="a/b", retries=0)
    async def f(_: Context) -> None:
        raise ValueError("no")

    @f.on_failure
    async def alert(ctx: Context) -> str:
        return ctx.event.data["error"]["message"]

    assert list(app.functions) == ["t-f", "t-f-failure"]
    assert f.spec().on_failure == "t-f-failure"
    assert alert.spec().triggers == []
    assert alert.spec().retry.retries == 1
