"""Functions that start at the times of a cron: once each, whatever crashes, and after downtime."""

from datetime import UTC, datetime
from typing import Any

import pytest

import stepfold
from stepfold_engine.errors import RequestRefusedError
from stepfold_schemas.entries import CronEnded, CronFired, CronScheduled, Entry
from tests.behaviour.conftest import Running
from tests.behaviour.scenario import EPOCH_MS, RunRecord, Scenario

HOUR = 3_600_000
MINUTE = 60_000
START = datetime.fromtimestamp(EPOCH_MS / 1000, UTC)
"""2027-01-15, 08:00."""


def app_with(cron: Any, **options: Any) -> stepfold.App:
    app = stepfold.App("t")

    @app.function("report", cron=cron, **options)
    async def report(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("a while", "10s")
        return ctx.event.data["scheduled_at"], ctx.event.name

    return app


def minutes_after(runs: list[RunRecord]) -> list[float]:
    return [run.started_ms // MINUTE for run in runs]


def entries_of(s: Scenario, kind: type[Entry]) -> list[Any]:
    return [e for _, d in s.decisions for e in d.entries if isinstance(e, kind)]


def test_a_cron_starts_a_run_at_each_of_its_times(running: Running) -> None:
    with running(app_with("*/20 8-9 * * *")) as s:
        s.advance(2 * 3600)
        runs = s.of("report")
        assert minutes_after(runs) == [20, 40, 60, 80, 100]
        assert all(run.started_ms % MINUTE < 1000 for run in runs)
        assert runs[0].result == ["2027-01-15T08:20:00Z", "stepfold/cron.fired"]


def test_events_and_several_crons_start_one_function(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go", cron=["0 9 * * *", "TZ=Asia/Kolkata 0 15 * * *"])
    async def f(ctx: stepfold.Context) -> Any:
        return ctx.event.name, ctx.event.data.get("cron")

    with running(app) as s:
        assert s.run("t/go").result == ["t/go", None]
        s.advance(2 * 3600)
        assert [run.result[1] for run in s.of("f")] == [
            None,
            "0 9 * * *",
            "TZ=Asia/Kolkata 0 15 * * *",
        ]


def test_the_schedule_outlives_a_crash_and_each_time_is_met_once(running: Running) -> None:
    with running(app_with("* * * * *")) as s:
        for _ in range(6):
            s.advance(44)
            s.restart()
        s.advance(60)
        assert minutes_after(s.of("report")) == [1, 2, 3, 4, 5]


def test_after_downtime_only_the_last_missed_time_starts_a_run(running: Running) -> None:
    with running(app_with("0 * * * *")) as s:
        s.advance(3700)
        s.crash()
        s.advance(30 * 24 * 3600)
        s.start()
        s.advance(1800)
        assert [run.started_ms // HOUR for run in s.of("report")] == [1, 30 * 24 + 1]
        fired = entries_of(s, CronFired)[-1]
        assert fired.due_ms == EPOCH_MS + 2 * HOUR
        assert fired.fired_ms == EPOCH_MS + (30 * 24 + 1) * HOUR
        assert fired.next_ms == fired.fired_ms + HOUR


def test_a_second_process_does_not_start_what_the_first_has_started(running: Running) -> None:
    with running(app_with("* * * * *")) as s:
        s.advance(90)
        s.takeover()
        s.advance(120)
        assert minutes_after(s.of("report")) == [1, 2, 3]


def test_a_changed_expression_replaces_the_schedule(running: Running) -> None:
    with running(app_with("0 9 * * *")) as s:
        s.advance(60)
        s.crash()
        s.app = app_with("30 8 * * *")
        s.start()
        s.advance(2 * 3600)
        assert minutes_after(s.of("report")) == [30]
        assert [e.cron for e in entries_of(s, CronEnded)] == ["0 9 * * *"]


def test_declaring_it_again_does_not_put_it_off(running: Running) -> None:
    with running(app_with("0 * * * *")) as s:
        s.advance(1800)
        s.crash()
        s.app = app_with("0 * * * *", version="2")
        s.start()
        s.advance(3600)
        assert minutes_after(s.of("report")) == [60]
        assert len(entries_of(s, CronScheduled)) == 1


def test_a_function_that_is_removed_is_started_no_more(running: Running) -> None:
    with running(app_with("0 * * * *")) as s:
        s.advance(3700)
        s.crash()
        s.app = stepfold.App("t")
        s.start()
        s.advance(24 * 3600)
        assert len(s.of("report")) == 1
        assert [e.function for e in entries_of(s, CronEnded)] == ["t-report"]


def test_rounds_of_restating_carry_the_schedule(running: Running) -> None:
    settings = {"round_records_min": 5, "journal_keep_ms": 0}
    with running(app_with("*/10 * * * *"), **settings) as s:
        s.advance(6 * 3600 + 60)
        s.restart()
        s.advance(3600)
        assert minutes_after(s.of("report")) == [10 * n for n in range(1, 43)]
        bounds = [s.do(s.log.bounds("journal", p)) for p in range(s.variant.partitions)]
        assert any(b.start > 0 for b in bounds)


def test_a_run_of_a_cron_is_cancelled_and_fails_as_any_other(running: Running) -> None:
    app = stepfold.App("t")
    seen: list[Any] = []

    @app.function("f", cron="0 9 * * *", cancel_on=stepfold.CancelOn("t/stop"), retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("long", "1d")

    @app.function("g", cron="0 9 * * *", retries=0)
    async def g(ctx: stepfold.Context) -> None:
        raise ValueError("no")

    @g.on_failure
    async def handle(ctx: stepfold.Context) -> None:
        seen.append(ctx.event.data["event"]["data"]["cron"])

    with running(app) as s:
        s.advance(3700)
        s.send("t/stop")
        s.advance(60)
        assert [r.status for r in s.of("f")] == ["cancelled"]
        assert [r.status for r in s.of("g")] == ["failed"]
        assert seen[:1] == ["0 9 * * *"]


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 9 * *", "function t-report: cron '0 9 * *' has 4 fields"),
        ("0 9 31 2 *", "function t-report: cron '0 9 31 2 *': bad day-of-month"),
        ("TZ=Mars/Base 0 9 * * *", "there is no time zone 'Mars/Base'"),
    ],
)
def test_a_cron_that_means_nothing_is_refused_when_it_is_declared(
    running: Running, cron: str, says: str
) -> None:
    with running(stepfold.App("t")) as s:
        specs = [f.spec() for f in app_with(cron).functions.values()]
        with pytest.raises(RequestRefusedError) as refused:
            s.do(s.node.declare("t", specs, complete=True, forced=True))
        assert says in str(refused.value)
