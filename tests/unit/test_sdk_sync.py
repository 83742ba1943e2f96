"""Plain functions: the same programs, blocking."""

import asyncio
import threading
from typing import Any

import pytest

import stepfold
from stepfold import StepError, SyncContext
from stepfold.crew import WorkerSettings
from stepfold_schemas import entries
from stepfold_schemas.events import Event
from tests.unit.sdk_journal import Journal, Run


async def work(value: Any) -> Any:
    await asyncio.sleep(0.01)
    return value


def plain(value: Any) -> Any:
    return value


def run_of(code: Any, **options: Any) -> Run:
    app = stepfold.App("t")
    app.function("f")(code)
    with Journal(app, **options) as journal:
        return journal.finish(journal.start("f", {"n": 1}))


def order(ctx: SyncContext) -> list[Any]:
    results: list[Any] = [ctx.event.data["n"]]
    for number in range(3):
        results.append(ctx.step.run("charge", work, number))
        results.append(ctx.step.run("plain", plain, number))
    ctx.step.sleep("nap", "2d")
    try:
        ctx.step.options(retries=0).run("bad", int, "x")
    except StepError as error:
        results.append(error.name)
    results.append(ctx.step.wait_for_event("w", event="none", timeout="1h"))
    results.append(str(ctx.now())[:10])
    return results


EXPECTED = [1, 0, 0, 1, 1, 2, 2, "ValueError", None, "2025-06-17"]


@pytest.mark.parametrize("always_replay", [False, True], ids=["hot", "replaying"])
def test_a_plain_function_runs_crashes_and_goes_on(always_replay: bool) -> None:
    assert run_of(order).result == EXPECTED
    for crash_after in range(16):
        run = run_of(order, always_replay=always_replay, crash_after=crash_after)
        assert run.result == EXPECTED, f"after a crash at entry {crash_after}"


def test_it_is_parked_without_its_thread_and_woken() -> None:
    app = stepfold.App("t")
    threads: list[str] = []

    @app.function("f")
    def f(ctx: SyncContext) -> str:
        threads.append(threading.current_thread().name)
        try:
            ctx.step.sleep("nap", "2d")
        finally:
            ctx.step.run("clean", plain, 1)
        return "done"

    assert f
    with Journal(app, settings=WorkerSettings(idle_threads_max=0)) as journal:
        run = journal.finish(journal.start("f"))
        assert run.result == "done"
        assert len(threads) == 2
        assert run.named(entries.StepCompleted) == ["clean"]


def test_everything_the_context_offers() -> None:
    app = stepfold.App("t")

    @app.function("double")
    def double(ctx: SyncContext) -> int:
        number: int = ctx.event.data["n"]
        return 2 * number

    @app.function("f")
    def f(ctx: SyncContext) -> list[Any]:
        ctx.logger.info("said")
        ctx.step.sleep_until("then", "2001-01-01T00:00:00Z")
        event = ctx.step.wait_for_event("e", event="a/b", timeout="1d")
        signal = ctx.step.wait_for_signal("s", signal="x", timeout="1d")
        assert event is not None
        assert signal is not None
        return [
            event.data,
            signal.data,
            ctx.step.invoke("double", function=double, data={"n": 21}),
            ctx.step.send_event("send", {"name": "c/d", "id": "mine"}),
            ctx.step.send_signal("signal", "nobody"),
            ctx.attempt,
            len(ctx.run_id),
            ctx.events[0].name,
            ctx.random().random() < 1,
            ctx.uuid().version,
        ]

    assert f
    with Journal(app) as journal:
        run = journal.start("f")
        journal.until(lambda: run.waits)
        journal.publish(Event("a/b", b"[]", "e", 1_750_000_000_000))
        journal.until(lambda: run.signals)
        journal.signal("x", b"5", b"r")
        assert journal.finish(run).result == [
            [], 5, 42, ["internal-mine"], None, 1, 26, "test/f", True, 4,
        ]  # fmt: skip


def test_an_error_of_the_function_is_recorded_with_its_own_frames() -> None:
    def f(_: SyncContext) -> None:
        raise stepfold.NonRetriableError("no")

    error = run_of(f).error
    assert (error.name, error.message) == ("NonRetriableError", "no")
    assert "test_sdk_sync.py" in error.stack
    assert "/stepfold/sync.py" not in error.stack


def test_mistakes_are_told_in_the_thread() -> None:
    def f(ctx: SyncContext) -> str:
        with pytest.raises(TypeError, match="float"):
            ctx.step.sleep("s", 1.5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        return "told"

    assert run_of(f).result == "told"


def test_steps_cannot_be_nested() -> None:
    def f(ctx: SyncContext) -> None:
        ctx.step.run("outer", lambda: ctx.step.run("inner", plain, 1))

    assert "nested" in run_of(f).error.message


def test_a_cancelled_run_leaves_its_thread_at_the_next_call() -> None:
    app = stepfold.App("t")
    ended: list[BaseException] = []

    @app.function("f")
    def f(ctx: SyncContext) -> None:
        try:
            ctx.step.sleep("s", "1d")
        except BaseException as error:
            ended.append(error)
            raise

    assert f
    with Journal(app) as journal:
        run = journal.start("f")
        journal.until(lambda: run.parked)
        journal.cancel(run)
        journal.until(lambda: ended)
        assert not isinstance(ended[0], Exception), "except Exception lets it pass"
