"""The worker: what stays in memory, what survives a change of lives, and blocked loops."""

import asyncio
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

import stepfold
from stepfold import Context, SyncContext
from stepfold.crew import WorkerSettings
from stepfold.port import Fact, RunBrief
from stepfold.worker import NativeWorker
from stepfold_schemas import codec, entries
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_id, run_key, step_key
from stepfold_schemas.reports import (
    AttemptRunning,
    AttemptSucceeded,
    ReportItem,
    RunIdle,
    RunReturned,
)
from tests.unit.sdk_journal import Journal, Run


async def work(value: Any = None, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


def test_the_runs_that_rested_longest_make_room() -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> int:
        got = await ctx.step.wait_for_event("w", event="go", timeout="9d", match="data.n")
        assert got is not None
        return int(got.data["n"])

    assert f
    with Journal(app, settings=WorkerSettings(idle_max=2)) as journal:
        runs: list[Run] = []
        for n in range(4):
            runs.append(journal.start("f", {"n": n}))
            journal.settle(5)
        journal.missed.clear()
        for n in (3, 2, 1, 0):
            journal.publish(Event("go", b'{"n":%d}' % n, f"go-{n}", journal.loop.now_ms()))
            assert journal.finish(runs[n]).result == n
        missed = [[run.id for run in runs].index(run) for run in journal.missed]
        assert missed == [1, 0], "the newest two were in memory"


def test_a_run_that_has_ended_leaves_nothing_behind() -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> Any:
        return await ctx.step.run("s", work, 1)

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f", {}))
        assert run.result == 1
        journal.settle(5)
        assert not [where for where, held in containers(journal.worker).items() if run.id in held]


def containers(worker: NativeWorker) -> dict[str, Any]:
    """Return what a worker, and the parts that it is made of, keep by the ids of runs."""
    crew = worker._crew
    shared = worker._equipment.attempts
    parts: list[object] = [worker, crew, crew.attempts, shared]
    found: dict[str, Any] = {}
    for part in parts:
        names = getattr(part, "__dict__", None) or type(part).__slots__  # type: ignore[attr-defined]
        for name in names:
            if isinstance(held := getattr(part, name), dict | set):
                found[f"{type(part).__name__}.{name}"] = held
    return found


@pytest.fixture(name="app")
def _app() -> stepfold.App:
    return stepfold.App("t")


def test_a_sleeping_run_is_idle_in_the_same_report(app: stepfold.App) -> None:
    @app.function("f")
    async def f(ctx: Context) -> None:
        await asyncio.gather(ctx.step.sleep("a", "1h"), ctx.step.sleep("b", "2h"))

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        reports = [[type(i).__name__ for i in items] for _, items in journal.reported]
        assert reports == [["AskSleep", "AskSleep", "RunIdle"], ["RunIdle"], ["RunReturned"]]
        assert run.result is None


def test_a_run_with_a_step_under_way_is_idle_only_after_it(app: stepfold.App) -> None:
    @app.function("f")
    async def f(ctx: Context) -> None:
        await asyncio.gather(ctx.step.sleep("a", "1h"), ctx.step.run("s", work, 1, 0.5))

    assert f
    with Journal(app) as journal:
        journal.finish(journal.start("f"))
        kinds = [[type(i).__name__ for i in items] for _, items in journal.reported]
        assert kinds == [["AskSleep"], ["AttemptSucceeded"], ["RunIdle"], ["RunReturned"]]


def test_a_run_that_goes_on_at_once_never_says_that_it_is_idle(app: stepfold.App) -> None:
    @app.function("f")
    async def f(ctx: Context) -> None:
        for _ in range(5):
            await ctx.step.run("s", work)

    assert f
    with Journal(app) as journal:
        journal.finish(journal.start("f"))
        items = [item for _, items in journal.reported for item in items]
        assert not any(isinstance(item, RunIdle) for item in items)
        assert len(journal.reported) == 6


def test_a_timer_that_is_taken_back_at_once_is_never_recorded(app: stepfold.App) -> None:
    @app.function("f")
    async def f(ctx: Context) -> None:
        for _ in range(3):
            async with asyncio.timeout(60):
                await ctx.step.run("s", work, 1, 0.01)

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        assert [type(e).__name__ for e in run.entries] == [*["StepCompleted"] * 3, "RunCompleted"]


def test_a_body_outlives_the_life_that_started_it(app: stepfold.App) -> None:
    ran: list[str] = []

    async def slow() -> str:
        ran.append("slow")
        await asyncio.sleep(60)
        return "slow"

    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.run("slow", slow)

    assert f
    with Journal(app) as journal:
        run = journal.start("f")
        for _ in range(5):
            journal.settle(3)
            journal.begin(run.id)
        assert journal.finish(run).result == "slow"
        assert ran == ["slow"]


def test_an_outcome_that_was_refused_is_offered_again_and_the_body_does_not_run_twice(
    app: stepfold.App,
) -> None:
    ran: list[str] = []

    async def charge() -> str:
        ran.append("charge")
        return "charged"

    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.run("charge", charge)

    assert f
    with Journal(app) as journal:
        run = journal.start("f")
        take, journal.take = journal.take, lambda *_: None  # type: ignore[method-assign]
        journal.settle(5)
        assert ran == ["charge"]
        journal.take = take  # type: ignore[method-assign]
        journal.begin(run.id)
        assert journal.finish(run).result == "charged"
        assert ran == ["charge"]


def test_a_cancelled_run_ends_its_bodies_and_says_nothing(app: stepfold.App) -> None:
    seen: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            seen.append("body")
            raise

    @app.function("f")
    async def f(ctx: Context) -> None:
        try:
            await ctx.step.run("slow", slow)
        except asyncio.CancelledError:
            seen.append("function")
            await ctx.step.run("clean up", work)

    assert f
    with Journal(app) as journal:
        run = journal.start("f")
        journal.settle(3)
        reported = len(journal.reported)
        journal.cancel(run)
        journal.settle(3)
        assert sorted(seen) == ["body", "function"]
        assert len(journal.reported) == reported


def test_functions_are_replaced_under_living_runs(app: stepfold.App) -> None:
    def version(number: int) -> stepfold.App:
        made = stepfold.App("t")

        async def body(seconds: float) -> int:
            await asyncio.sleep(seconds)
            return number

        @made.function("f")
        async def f(ctx: Context) -> list[int]:
            first = await ctx.step.run("first", body, 20)
            return [first, await ctx.step.run("second", body, 0), number]

        assert f
        return made

    with Journal(version(1)) as journal:
        run = journal.start("f")
        journal.settle(5)
        journal.app = version(2)
        journal.worker.replace_functions(journal.app.functions)
        assert journal.finish(run).result == [1, 2, 2]
        assert len(journal.missed) == 2


def test_a_cautious_run_notes_an_attempt_before_it_begins(app: stepfold.App) -> None:
    ran: list[int] = []

    async def body() -> str:
        ran.append(len(noted()))
        return "ok"

    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.run("dangerous", body)

    def noted() -> list[ReportItem]:
        return [i for _, items in journal.reported for i in items if isinstance(i, AttemptRunning)]

    assert f
    with Journal(app) as journal:
        start = journal.worker.start
        journal.worker.start = lambda brief, history: start(  # type: ignore[method-assign]
            replace(brief, cautious=True), history
        )
        run = journal.finish(journal.start("f"))
        assert run.result == "ok"
        assert ran == [1]
        kinds = [type(e).__name__ for e in run.entries]
        assert kinds == ["AttemptStarted", "StepCompleted", "RunCompleted"]


def test_a_run_of_an_unknown_function_waits(
    app: stepfold.App, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(app) as journal:
        brief = RunBrief(b"r" * 16, "t-gone", 1, 1, [Event("e", b"{}")], 0)
        journal.worker.start(brief, [])
        journal.settle(1)
        assert journal.reported == []
        assert "no function t-gone" in caplog.text


class Engine:
    """The engine's side for a worker in a thread of its own."""

    def __init__(self) -> None:
        self.reports: queue.Queue[tuple[bytes, int, ReportItem]] = queue.Queue()
        self.missed: queue.Queue[bytes] = queue.Queue()

    def report(self, run: bytes, session: int, items: Sequence[ReportItem]) -> None:
        for item in items:
            self.reports.put((run, session, item))

    def missing(self, run: bytes) -> None:
        self.missed.put(run)

    async def publish(self, events: Sequence[Event]) -> list[str]:
        raise NotImplementedError

    async def signal(self, signal: str, data: bytes, request: bytes) -> bytes | None:
        raise NotImplementedError

    def next(self, kind: type[Any]) -> tuple[bytes, Any]:
        while True:
            run, _, item = self.reports.get(timeout=20)
            if isinstance(item, kind):
                return run, item


def brief(number: int, function: str, session: int = 1) -> RunBrief:
    run = run_id(1_750_000_000_000, run_key(0, function, str(number)))
    return RunBrief(
        run, f"t-{function}", session, 1, [Event("e", b"{}", "i", 1_750_000_000_000)], 0
    )


@pytest.fixture(name="engine")
def _engine() -> Engine:
    return Engine()


@pytest.fixture(name="worker")
def _worker(app: stepfold.App, engine: Engine) -> Iterator[NativeWorker]:
    settings = WorkerSettings(blocked_s=0.2)
    worker = NativeWorker(app.functions, engine, decode_event=codec.decode_event, settings=settings)
    worker.run_in_thread()
    yield worker
    worker.close()


def test_a_worker_in_a_thread(app: stepfold.App, engine: Engine, worker: NativeWorker) -> None:
    @app.function("f")
    def f(ctx: SyncContext) -> int:
        return ctx.step.run("one", lambda: 1) + 1

    assert f
    worker.start(brief(1, "f"), [])
    run, item = engine.next(AttemptSucceeded)
    done = entries.StepCompleted(run, item.step, item.name, item.attempt, 0, item.data)
    worker.deliver(run, [Fact(1, 0, 5, done)])
    assert engine.next(RunReturned) == (run, RunReturned(b"2"))
    worker.stop(run)
    worker.deliver(run, [])
    assert engine.missed.get(timeout=20) == run


def test_a_blocked_loop_is_left_to_the_function_that_blocks_it(
    app: stepfold.App, engine: Engine, worker: NativeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    @app.function("blocks")
    async def blocks(_: Context) -> str:
        go_on.wait(30)
        return "blocked"

    @app.function("waits")
    async def waits(ctx: Context) -> str:
        await ctx.step.sleep("s", "1h")
        return "other"

    assert blocks
    assert waits
    first = worker.loop
    other = brief(2, "waits")
    worker.start(other, [])
    engine.next(RunIdle)
    with caplog.at_level(logging.WARNING, "stepfold"):
        worker.start(brief(1, "blocks"), [])
        assert engine.missed.get(timeout=20) == other.run
    assert worker.loop is not first
    assert "the code of run" in caplog.text
    assert "of t-blocks has blocked the event loop" in caplog.text
    assert f"{__file__}:{blocks.call.__code__.co_firstlineno + 2}" in caplog.text
    slept = [
        Fact(1, 0, 5, entries.SleepBegan(other.run, step_key("s"), "s", 5)),
        Fact(2, 0, 6, entries.SleepEnded(other.run, step_key("s"))),
    ]
    worker.start(replace(other, session=2), slept)
    assert engine.next(RunReturned) == (other.run, RunReturned(b'"other"'))
    go_on.set()
    assert engine.next(RunReturned) == (brief(1, "blocks").run, RunReturned(b'"blocked"'))
    assert engine.missed.empty()


def test_a_body_that_blocks_counts_and_its_run_goes_on_elsewhere(
    app: stepfold.App, engine: Engine, worker: NativeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    ran: list[str] = []

    async def hog() -> str:
        ran.append("hog")
        go_on.wait(30)
        return "hogged"

    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.run("hog", hog)

    assert f
    mine = brief(1, "f")
    with caplog.at_level(logging.WARNING, "stepfold"):
        worker.start(mine, [])
        assert engine.missed.get(timeout=20) == mine.run
    assert "step 'hog' of run" in caplog.text
    worker.start(replace(mine, session=2), [])
    go_on.set()
    run, item = engine.next(AttemptSucceeded)
    done = entries.StepCompleted(run, item.step, item.name, item.attempt, 0, item.data)
    worker.deliver(run, [Fact(1, 0, 5, done)])
    assert engine.next(RunReturned) == (run, RunReturned(b'"hogged"'))
    assert ran == ["hog"]


def test_an_attempt_begins_whose_time_had_come_before_the_failure_was_confirmed(
    app: stepfold.App, engine: Engine, worker: NativeWorker
) -> None:
    """Nor had the code, which was started again meanwhile, begun the attempt that failed."""

    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.options(retries=5).run("s", work, "ok")

    assert f
    mine = replace(brief(1, "f"), retries_due={step_key("s"): 3})
    one, two = (
        entries.StepAttemptFailed(mine.run, step_key("s"), "s", n, 0, entries.Error("E", "no"), 0)
        for n in (1, 2)
    )
    worker.start(mine, [Fact(1, 0, 5, one)])
    engine.next(RunIdle)
    worker.deliver(mine.run, [Fact(2, 0, 6, two)])
    run, item = engine.next(AttemptSucceeded)
    assert (run, item.attempt) == (mine.run, 3)


def test_a_loop_that_only_waits_is_not_blocked(
    app: stepfold.App, engine: Engine, worker: NativeWorker
) -> None:
    @app.function("f")
    async def f(ctx: Context) -> str:
        return await ctx.step.run("slow", work, "ok", 0.6)

    assert f
    first = worker.loop
    worker.start(brief(1, "f"), [])
    engine.next(AttemptSucceeded)
    assert worker.loop is first


def test_closing_ends_the_thread(app: stepfold.App, engine: Engine, worker: NativeWorker) -> None:
    seen: list[str] = []
    begun = threading.Event()

    async def slow() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            seen.append("ended")

    @app.function("f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("slow", slow)

    assert f
    worker.start(brief(1, "f"), [])
    assert begun.wait(20)
    worker.close()
    assert worker.loop.is_closed()
    assert seen == ["ended"]
    assert engine.reports.empty()
