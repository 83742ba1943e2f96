"""crash_everywhere: finds what a crash changes, and only that."""

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import stepfold
from stepfold.testing import (
    Crash,
    CrashFoundError,
    CrashReport,
    Environment,
    UnstableStoryError,
    crash_everywhere,
)


class Bank:
    """A payment service that knows idempotency keys, for those who use them."""

    def __init__(self) -> None:
        self.payments: dict[str, int] = {}

    def pay(self, amount: int, key: str | None = None) -> int:
        self.payments.setdefault(key or f"payment-{len(self.payments)}", amount)
        return amount

    def balance(self) -> int:
        return sum(self.payments.values())


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def app(bank: Bank) -> stepfold.App:
    app = stepfold.App("shop")

    async def careless(amount: int) -> int:
        await asyncio.sleep(0.1)
        return bank.pay(amount)

    async def careful(amount: int) -> int:
        await asyncio.sleep(0.1)
        return bank.pay(amount, stepfold.step_info().idempotency_key)

    def careless_in_thread(amount: int) -> int:
        return bank.pay(amount)

    @app.function("careless", on="careless")
    async def _(ctx: stepfold.Context) -> int:
        await ctx.step.sleep("s", "1h")
        return await ctx.step.run("pay", careless, 7)

    @app.function("careful", on="careful")
    async def _(ctx: stepfold.Context) -> int:
        fee, price = await asyncio.gather(
            ctx.step.run("fee", careful, 1), ctx.step.run("price", careful, 7)
        )
        return fee + price

    @app.function("plain", on="plain")
    def _(ctx: stepfold.SyncContext) -> int:
        return ctx.step.run("pay", careless_in_thread, 7)

    return app


def report_of(app: stepfold.App, event: str, bank: Bank) -> CrashReport:
    with pytest.raises(CrashFoundError) as found:
        crash_everywhere(app, event, fresh=bank.payments.clear, observe=bank.balance)
    report: CrashReport = found.value.report
    return report


def test_a_step_that_pays_twice_is_found(app: stepfold.App, bank: Bank) -> None:
    report = report_of(app, "careless", bank)
    shown = [crash.shown for crash in report.crashes]
    assert shown == [
        "after the body of step 'pay', before its outcome is recorded",
        "before append 4 to the log (StepCompleted 'pay')",
    ]
    for crash in report.crashes:
        assert crash.repeated == [("shop-careless", "pay", 2)]
        assert crash.differences == ["observed is:\n- 7\n+ 14"]
    text = str(report)
    assert "killed after the body of step 'pay'" in text
    assert "the body of step 'pay' of shop-careless ran 2 times" in text
    assert "idempotency_key" in text


def test_a_step_that_pays_twice_in_a_thread_is_found(app: stepfold.App, bank: Bank) -> None:
    report = report_of(app, "plain", bank)
    assert {step for crash in report.crashes for _, step, _ in crash.repeated} == {"pay"}


def test_a_step_with_an_idempotency_key_is_not_blamed(app: stepfold.App, bank: Bank) -> None:
    report = crash_everywhere(app, "careful", fresh=bank.payments.clear, observe=bank.balance)
    assert report.points == report.found > 10
    assert report.repeated["shop-careful", "fee"] > 1
    assert "none changes what comes out" in str(report)


def test_what_ctx_version_answered_is_kept_over_every_crash() -> None:
    app = stepfold.App("shop")

    @app.function("bill", on="bill")
    async def bill(ctx: stepfold.Context) -> list[bool]:
        first = ctx.version("new-tax")
        await ctx.step.sleep("rest", "1h")
        return [first, ctx.version("new-tax"), ctx.version("other")]

    report = crash_everywhere(app, "bill")
    assert not report.crashes
    assert report.points == report.found > 3


def test_a_body_that_is_left_in_its_midst_is_found() -> None:
    """Its first half has been done, and is done again: only at an await inside of it."""
    app, world = stepfold.App("t"), {"half": 0, "whole": 0}

    async def both() -> None:
        if world["half"] > world["whole"]:
            raise stepfold.NonRetriableError("half of it is done")
        world["half"] += 1
        await asyncio.sleep(1)
        world["whole"] += 1

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("both", both)

    with pytest.raises(CrashFoundError) as found:
        crash_everywhere(
            f, "t/go", fresh=lambda: world.update(half=0, whole=0), observe=lambda: world
        )
    report: CrashReport = found.value.report
    midst = [
        c for c in report.crashes if c.shown == "in the body of step 'both', at its await number 1"
    ]
    assert len(midst) == 1
    assert "half of it is done" in str(midst[0])


def test_finally_blocks_of_a_killed_process_are_not_seen() -> None:
    app, cleaned = stepfold.App("t"), list[int]()

    async def body() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            cleaned.append(1)

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("body", body)

    crash_everywhere(f, "t/go", fresh=cleaned.clear, observe=lambda: bool(cleaned))
    with pytest.raises(CrashFoundError) as found:
        crash_everywhere(f, "t/go", fresh=cleaned.clear, observe=lambda: len(cleaned))
    crashes: list[Crash] = found.value.report.crashes
    assert all("await" not in crash.shown for crash in crashes)


def test_an_event_that_a_body_sends_without_an_id_is_found() -> None:
    app = stepfold.App("t")

    async def tell(event_id: str | None) -> None:
        await app.send(name="t/told", id=event_id)

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        event_id = f"told-{ctx.run_id}" if ctx.event.data.get("careful") else None
        await ctx.step.run("tell", tell, event_id)
        await ctx.step.send_event("once", {"name": "t/once"})

    with pytest.raises(CrashFoundError, match="other events are sent"):
        crash_everywhere(f, "t/go")
    crash_everywhere(f, {"name": "t/go", "data": {"careful": True}})


def test_a_story_with_waits_signals_and_asserts_goes_on_over_crashes() -> None:
    app = stepfold.App("t")

    @app.function("child")
    def child(ctx: stepfold.SyncContext) -> str:
        return ctx.step.run("work", str, ctx.now())

    @app.function("f", on="t/go", retries=1)
    async def f(ctx: stepfold.Context) -> list[Any]:
        paid = await ctx.step.wait_for_event("paid", event="t/paid", timeout="1d", since="run")
        made = await ctx.step.invoke("child", function=child)
        signal = await ctx.step.wait_for_signal("ok", signal="ok", timeout="1d")
        flaky = await ctx.step.run("flaky", int)
        return [paid and paid.data["n"], made, signal and signal.data, flaky, str(ctx.uuid())]

    told: list[Any] = []

    def story(env: Environment) -> None:
        env.stub("flaky", raises=OSError("once"), times=1)
        run = env.send("t/go").run
        env.at("1h").send("t/paid", {"n": 3})
        env.advance("2h")
        got = env.signal("ok", "yes")
        assert got is not None
        env.finish(run)
        assert run.result[0] == 3
        told.append(run.result)

    report = crash_everywhere(app, story)
    assert report.points == report.found > 30
    assert all(one == told[0] for one in told)


def test_a_story_that_fails_only_after_a_crash_is_reported(bank: Bank, app: stepfold.App) -> None:
    def story(env: Environment) -> None:
        env.send("plain")
        assert bank.balance() == 7, "paid twice"

    with pytest.raises(CrashFoundError, match="the story failed: AssertionError: paid twice"):
        crash_everywhere(app, story, fresh=bank.payments.clear)


def test_a_story_that_fails_without_a_crash_is_the_tests_own(app: stepfold.App) -> None:
    with pytest.raises(AssertionError, match="mine"):
        crash_everywhere(
            app, lambda env: pytest.fail("mine", pytrace=False) if env.runs else fail()
        )


def fail() -> None:
    raise AssertionError("mine")


def test_a_world_that_is_not_put_back_is_told(app: stepfold.App, bank: Bank) -> None:
    with pytest.raises(UnstableStoryError, match=r"(?s)even without a crash.*- 7.*\+ 14.*fresh="):
        crash_everywhere(app, "careless", observe=bank.balance)


def test_a_sample_of_the_points_is_told(app: stepfold.App, bank: Bank) -> None:
    report = crash_everywhere(app, "careful", fresh=bank.payments.clear, points_max=5)
    assert report.points <= 5 < report.found
    assert f"a sample of {report.found}" in str(report)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("CREATE TABLE parcels (id TEXT PRIMARY KEY, shelf INTEGER)")
    yield connection
    connection.close()


def test_a_database_is_a_world(database: sqlite3.Connection) -> None:
    app = stepfold.App("t")

    def write(run_id: str | None) -> None:
        given = run_id or str(database.execute("SELECT count(*) FROM parcels").fetchone()[0])
        database.execute("INSERT OR REPLACE INTO parcels VALUES (?, 1)", (given,))

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.run("write", write, ctx.run_id if ctx.event.data["by_id"] else None)

    def rows() -> int:
        return int(database.execute("SELECT count(*) FROM parcels").fetchone()[0])

    def empty() -> None:
        database.execute("DELETE FROM parcels")

    by_id = {"name": "t/go", "data": {"by_id": True}}
    crash_everywhere(f, by_id, fresh=empty, observe=rows)
    with pytest.raises(CrashFoundError):
        crash_everywhere(f, {"name": "t/go", "data": {"by_id": False}}, fresh=empty, observe=rows)


def test_s39_a_librarys_own_timers_are_no_part_of_the_run() -> None:
    """An HTTP library sets timeouts as it is called between steps; anyio is what they use."""
    app = stepfold.App("shop")

    @app.function("f", on="go")
    async def f(ctx: stepfold.Context) -> list[int]:
        found: list[int] = []
        for n in range(10):
            with anyio.fail_after(5):
                await anyio.sleep(0.02)
            found.append(await ctx.step.run(f"step-{n}", abs, n))
        return found

    report = crash_everywhere(f, "go")
    assert report.points == report.found > 30
    assert not report.crashes
