"""Orders of things that would break a naive replay; the numbers are those of the design's list."""

import asyncio
import gc
import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stepfold
from stepfold import Context, SyncContext
from stepfold.crew import WorkerSettings
from stepfold_schemas import entries
from stepfold_schemas.ids import step_key
from stepfold_schemas.reports import AskTimer, AttemptSucceeded
from tests.unit.sdk_journal import Journal, Run

MODES = pytest.mark.parametrize("always_replay", [False, True], ids=["hot", "replaying"])


async def work(value: Any, seconds: float = 0.01) -> Any:
    await asyncio.sleep(seconds)
    return value


@contextmanager
def time_passes(journal: Journal) -> Iterator[None]:
    """Let virtual time go on while a thread works."""
    journal.loop.call_soon_threadsafe(journal.loop.thread_ended)
    yield
    journal.loop.call_soon_threadsafe(journal.loop.thread_began)


def shape(run: Run) -> list[tuple[str, str]]:
    return [(type(e).__name__, getattr(e, "name", "")) for e in run.entries]


def everywhere(app: stepfold.App, function: str = "f", **more: Any) -> list[Run]:
    """Run a function hot, replaying, and with a crash after every entry."""
    runs: list[Run] = []
    with Journal(app, **more) as journal:
        runs.append(journal.finish(journal.start(function)))
    for always_replay in (False, True):
        for crash_after in range(len(runs[0].facts) + 3):
            with Journal(
                app, always_replay=always_replay, crash_after=crash_after, **more
            ) as journal:
                runs.append(journal.finish(journal.start(function)))
    return runs


def test_s16_a_late_outcome_does_not_change_the_branch_that_a_timeout_took() -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> list[str]:
        try:
            async with asyncio.timeout(5):
                return [await ctx.step.run("slow", work, "slow", 60)]
        except TimeoutError:
            return ["fallback", await ctx.step.run("fallback", work, "ok", 100)]

    assert f
    with Journal(app) as journal:
        run = journal.start("f")
        journal.until(lambda: any(isinstance(e, entries.TimerFired) for e in run.entries))
        journal.settle(0.001)
        # The slow step's outcome reaches the journal although the code no longer awaits it.
        slow = step_key("slow")
        late = entries.StepCompleted(run.id, slow, "slow", 1, 0, b'"slow"')
        run.done.add(slow)
        journal.record(run, [late])
        journal.settle(10)
        journal.crash()
        assert journal.finish(run).result == ["fallback", "ok"]


@MODES
def test_s17_branches_woken_by_one_batch_get_the_same_numbers_again(always_replay: bool) -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> dict[str, list[str]]:
        lock = asyncio.Lock()
        got: dict[str, list[str]] = {"a": [], "b": []}

        async def branch(name: str) -> None:
            await ctx.step.run(f"begin {name}", work, name)
            async with lock:
                for _ in range(3):
                    got[name].append(await ctx.step.run("fetch", fetch, name))

        await asyncio.gather(branch("a"), branch("b"))
        return got

    async def fetch(name: str) -> str:
        return f"{name} got {stepfold.step_info().step}"

    assert f
    results: list[Any] = []
    for crash_after in range(12):
        with Journal(app, always_replay=always_replay, crash_after=crash_after) as journal:
            results.append(journal.finish(journal.start("f")).result)
    assert all(result == results[0] for result in results)


def test_s18_a_thread_that_outlives_its_timeout_is_ignored() -> None:
    app = stepfold.App("t")
    go_on, ended = threading.Event(), threading.Event()
    calls: list[int] = []

    def slow() -> str:
        attempt = stepfold.step_info().attempt
        calls.append(attempt)
        if attempt == 1:
            with time_passes(journal):
                go_on.wait(10)
            ended.set()
        return f"attempt {attempt}"

    @app.function("f")
    async def f(ctx: Context) -> str:
        result = await ctx.step.options(timeout="30s", retries=1).run("slow", slow)
        go_on.set()
        ended.wait(10)
        await ctx.step.sleep("let it speak", "1m")
        return result

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        assert run.result == "attempt 2"
        assert calls == [1, 2]
        (failed,) = [e for e in run.entries if isinstance(e, entries.StepAttemptFailed)]
        assert "step 'slow'" in failed.error.message
        assert "30 s" in failed.error.message
        succeeded = [
            i for _, items in journal.reported for i in items if isinstance(i, AttemptSucceeded)
        ]
        assert [i.attempt for i in succeeded] == [2]


RELEASED = threading.Event()
"""What would swallow for ever gives in when a test is over."""

SWALLOWERS: dict[str, Callable[[Context], Any]] = {}


def swallower(call: Callable[[Context], Any]) -> Callable[[Context], Any]:
    SWALLOWERS[call.__name__] = call
    return call


@swallower
async def awaits_a_step_in_finally(ctx: Context) -> str:
    try:
        await ctx.step.sleep("long", "3d")
    finally:
        await ctx.step.run("clean up", work, "clean")
    return "done"


@swallower
async def catches_base_exception(ctx: Context) -> str:
    try:
        await ctx.step.sleep("long", "3d")
    except BaseException:
        await ctx.step.run("never", work, "never")
        raise
    return "done"


@swallower
async def swallows_everything_in_a_loop(ctx: Context) -> str:
    while True:
        try:
            await ctx.step.sleep("long", "3d")
        except BaseException:
            if RELEASED.is_set():
                raise
            continue
        return "done"


@swallower
async def sleeps_when_cancelled(ctx: Context) -> str:
    try:
        await ctx.step.sleep("long", "3d")
    except asyncio.CancelledError:
        await asyncio.sleep(60)
        ctx.logger.warning("on my way out")
        raise
    return "done"


@swallower
async def swallows_in_a_task(ctx: Context) -> str:
    async def child() -> None:
        try:
            await ctx.step.sleep("child", "1d")
        except asyncio.CancelledError:
            await ctx.step.run("in child", work, 1)

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        await ctx.step.sleep("long", "3d")
    return "done"


@pytest.mark.parametrize("name", SWALLOWERS)
def test_s26_code_that_resists_being_parked_goes_on_as_if_it_never_was(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = stepfold.App("t")
    app.function("f")(SWALLOWERS[name])
    with Journal(app) as journal:
        hot = journal.finish(journal.start("f"))
    with (
        Journal(app, settings=WorkerSettings(idle_max=0)) as journal,
        caplog.at_level(logging.DEBUG),
    ):
        run = journal.start("f")
        journal.until(lambda: run.parked)
        journal.settle(20)
        reported = len(journal.reported)
        entries_before = shape(run)
        journal.settle(3600)
        assert len(journal.reported) == reported
        assert shape(run) == entries_before
        assert journal.finish(run).result == "done"
        assert len(journal.missed) > 1, "it was woken from nothing"
        assert shape(run) == shape(hot)
    assert "on my way out" not in caplog.text
    RELEASED.set()
    del journal
    gc.collect()
    RELEASED.clear()


def test_s38_a_task_group_of_sleeping_branches_is_parked_and_woken() -> None:
    app = stepfold.App("t")
    closed: list[str] = []

    @app.function("f")
    async def f(ctx: Context) -> list[str]:
        async def branch(name: str, days: int) -> str:
            try:
                await ctx.step.sleep(name, f"{days}d")
            finally:
                closed.append(name)
            return await ctx.step.run(f"after {name}", work, name)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(n, d)) for n, d in (("a", 1), ("b", 2), ("c", 3))]
        return [task.result() for task in tasks]

    assert f
    with Journal(app, settings=WorkerSettings(idle_max=0)) as journal:
        run = journal.start("f")
        journal.until(lambda: run.parked)
        journal.settle(1)
        assert closed == ["c", "b", "a"], "the newest first"
        assert journal.finish(run).result == ["a", "b", "c"]
        assert len(journal.missed) == 4
    for run in everywhere(app):
        assert run.result == ["a", "b", "c"]


def test_s38_a_run_with_a_thread_under_way_is_not_parked() -> None:
    app = stepfold.App("t")
    go_on, started = threading.Event(), threading.Event()

    def compute() -> str:
        with time_passes(journal):
            started.set()
            go_on.wait(10)
        return "computed"

    @app.function("f")
    async def f(ctx: Context) -> Any:
        return await asyncio.gather(asyncio.to_thread(compute), ctx.step.sleep("s", "1d"))

    assert f
    with Journal(app, settings=WorkerSettings(idle_max=0)) as journal:
        run = journal.start("f")
        journal.until(lambda: run.named(entries.SleepBegan) and started.wait(10))
        assert not run.parked
        go_on.set()
        journal.until(lambda: run.parked)
        assert journal.finish(run).result == ["computed", None]


def test_s38_a_run_with_io_under_way_is_not_parked() -> None:
    app = stepfold.App("t")
    reached: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(writer)
        await reader.read()
        writer.close()

    @app.function("f")
    async def f(ctx: Context) -> Any:
        async def fetch() -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", ctx.event.data["port"])
            line = await reader.readline()
            writer.close()
            return line.decode()

        return await asyncio.gather(fetch(), ctx.step.sleep("s", "1d"))

    assert f
    with Journal(app, settings=WorkerSettings(idle_max=0)) as journal:
        start = asyncio.start_server(serve, "127.0.0.1", 0)
        server = journal.loop.run_until_complete(start)
        run = journal.start("f", {"port": server.sockets[0].getsockname()[1]})
        journal.until(lambda: reached and run.named(entries.SleepBegan))
        assert not run.parked
        reached[0].write(b"hello\n")
        journal.until(lambda: run.parked)
        for writer in reached:
            writer.write(b"hello\n")
        journal.until(lambda: len(reached) == 2, step=60)
        reached[-1].write(b"hello\n")
        assert journal.finish(run).result == ["hello\n", None]
        server.close()
        journal.settle(1)


LIBRARY = '''
import asyncio

async def request(value):
    """A library's call with a timeout and a keep-alive of its own."""
    loop = asyncio.get_running_loop()
    loop.call_later(15, lambda: None)
    async with asyncio.timeout(30):
        await asyncio.sleep(0.25)
    return value
'''


@pytest.fixture(name="library")
def _library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that counts as installed."""
    file = tmp_path / "some_library.py"
    file.write_text(LIBRARY)
    monkeypatch.setattr("stepfold.origins._LIBRARIES", (str(tmp_path),))
    spec = importlib.util.spec_from_file_location("some_library", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_s39_timers_of_libraries_between_steps_do_not_diverge(library: ModuleType) -> None:
    app = stepfold.App("t")

    @app.function("f")
    async def f(ctx: Context) -> list[Any]:
        results: list[Any] = []
        for number in range(10):
            results.append(await library.request(number))
            results.append(await ctx.step.run("step", work, number))
        return results

    assert f
    runs = everywhere(app)
    for run in runs:
        assert run.result == runs[0].result
        assert not run.named(entries.TimerSet)


def test_timers_of_the_runs_own_code_are_durable_and_those_of_steps_are_not() -> None:
    app = stepfold.App("t")

    async def body() -> str:
        async with asyncio.timeout(50):
            await asyncio.sleep(3)
        return "body"

    @app.function("f")
    async def f(ctx: Context) -> str:
        await asyncio.sleep(40)
        async with asyncio.timeout(100):
            return await ctx.step.run("body", body)

    assert f
    with Journal(app) as journal:
        run = journal.finish(journal.start("f"))
        assert run.result == "body"
        timers = [i for _, items in journal.reported for i in items if isinstance(i, AskTimer)]
        assert [(t.name, t.delay_ms) for t in timers] == [("timer", 40_000), ("timer:1", 99_000)]


def test_s26_a_plain_function_that_swallows_is_parked_and_woken() -> None:
    app = stepfold.App("t")

    @app.function("f")
    def f(ctx: SyncContext) -> str:
        while True:
            try:
                ctx.step.sleep("long", "3d")
            except BaseException:
                ctx.logger.warning("swallowed")
                continue
            return "done"

    assert f
    with Journal(app, settings=WorkerSettings(idle_threads_max=0)) as journal:
        run = journal.start("f")
        journal.until(lambda: run.parked)
        journal.settle(60)
        assert journal.finish(run).result == "done"
        assert len(journal.missed) > 1
