"""Crashes at every point: the same end, and nothing recorded is done again."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import stepfold
from stepfold_engine.core.fold import begin, fold
from stepfold_engine.core.inputs import HistoryCopied
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import head_of
from stepfold_engine.histories import read_history
from stepfold_engine.native import LOADS_AT_ONCE_MAX
from stepfold_engine.restating import Restating
from stepfold_schemas import codec
from stepfold_schemas.entries import HistoryItem, PartitionRestated, StepCompleted
from stepfold_schemas.ids import home_of, key_of
from tests.behaviour.conftest import On, Running
from tests.behaviour.faults import SlowLog
from tests.behaviour.scenario import Scenario, scenario


def orders(ran: Counter[str]) -> stepfold.App:
    """An app with everything in it."""
    app = stepfold.App("t")

    def note(name: str) -> str:
        ran[name] += 1
        return name

    def noted(name: str, value: int) -> int:
        note(name)
        return value

    @app.function("child")
    async def child(ctx: stepfold.Context) -> int:
        n = int(ctx.event.data["n"])
        await ctx.step.sleep("nap", "10m")
        return await ctx.step.run("double", noted, f"double-{n}", n * 2)

    @app.function("order", on="t/order", retries=2)
    async def order(ctx: stepfold.Context) -> Any:
        n = ctx.event.data["n"]
        await ctx.step.run("create", note, f"create-{n}")
        a, b = await asyncio.gather(
            ctx.step.run("charge", note, f"charge-{n}"),
            ctx.step.invoke("child", function=child, data={"n": n}),
        )
        paid = await ctx.step.wait_for_event(
            "paid", event="t/paid", match="data.n", timeout="2h", since="run"
        )
        signal = await ctx.step.wait_for_signal("ok", signal=f"ok-{n}", timeout="30m")
        await ctx.step.send_event("tell", {"name": "t/done", "data": {"n": n}})
        return [a, b, None if paid is None else paid.data["n"], signal and signal.data]

    @app.function("told", on="t/done")
    async def told(ctx: stepfold.Context) -> int:
        return await ctx.step.run("hear", noted, f"hear-{ctx.event.data['n']}", 1)

    return app


def no_outcome_twice(s: Scenario) -> None:
    outcomes = Counter(
        (e.run, e.step) for _, d in s.decisions for e in d.entries if isinstance(e, StepCompleted)
    )
    assert not [key for key, times in outcomes.items() if times > 1]


@pytest.mark.parametrize("every_s", [7, 61, 601, 1801])
def test_killed_again_and_again_every_run_ends_once_with_the_right_result(
    running: Running, every_s: int
) -> None:
    ran: Counter[str] = Counter()
    app = orders(ran)
    with running(app, trial_survive_ms=1_000) as s:
        for n in range(5):
            s.send("t/order", {"n": n}, id=f"order-{n}")
        s.send("t/paid", {"n": 1})
        for round_ in range(12):
            s.advance(every_s)
            s.restart()
            if round_ == 2:
                s.send("t/paid", {"n": 2})
        s.until(lambda: len([r for r in s.of("order") if r.end]) == 5)
        s.until(lambda: len([r for r in s.of("told") if r.end]) == 5)
        results = {r.result[0]: r.result for r in s.of("order")}
        assert len(results) == 5
        for n in range(5):
            assert results[f"charge-{n}"][:2] == [f"charge-{n}", n * 2]
        assert results["charge-1"][2] == 1
        no_outcome_twice(s)
        assert set(ran.values()) == {1}


def test_s6_a_wait_gets_an_event_that_came_while_all_processes_were_down(running: Running) -> None:
    """S6: the wait times out at 12:30, the event is appended at 12:10, the restart is at 13:00."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        event = await ctx.step.wait_for_event("e", event="t/e", timeout="30m")
        return None if event is None else event.data["n"]

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        s.crash()
        s.advance(540)
        s.append_while_down("t/e", {"n": 1})
        s.advance(3000)
        s.start()
        assert s.ended(run).result == 1


def test_s9_events_read_before_a_wait_began_do_not_match_after_a_crash(running: Running) -> None:
    """S9: positions in memory are ahead of the journal when the wait begins."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("nap", "5s")
        event = await ctx.step.wait_for_event("e", event="t/e", timeout="1h")
        return None if event is None else event.data["n"]

    with running(app) as s:
        run = s.start_run("t/go")
        for n in range(50):
            s.send("t/e", {"n": n})
        s.advance(8)
        s.restart()
        s.advance(60)
        s.send("t/e", {"n": 99})
        assert s.ended(run).result == 99


def test_s34_a_run_holds_its_event_when_the_topic_no_longer_does(running: Running) -> None:
    """S34: events are trimmed, a run sleeps, the process restarts."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("nap", "60d")
        return ctx.event.data["n"]

    with running(app, events_keep_ms=1_000) as s:
        run = s.start_run("t/go", {"n": 5})
        s.advance(86_400)
        for partition in range(s.variant.partitions):
            bounds = s.do(s.log.bounds("events", partition))
            assert bounds.start == bounds.end
        s.restart()
        assert s.ended(run).result == 5


def test_a_run_that_is_woken_while_its_history_is_copied_sees_all_of_it(running: Running) -> None:
    """The copy stands in the place of what was confirmed, and makes no news when it is."""
    app = stepfold.App("t")
    ran: list[str] = []

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.run("first", ran.append, "first")
        await ctx.step.run("second", ran.append, "second")
        await ctx.step.sleep("nap", "1m")
        return "done"

    async def copy_the_end(s: Scenario, run: bytes) -> None:
        owner = s.node.owners[home_of(run)]
        state = owner.state.runs.get(key_of(run))
        assert state is not None
        facts = await read_history(s.log, owner, state, owner.confirmed_seq)
        items = [
            HistoryItem(f.at_ms, codec.encode(f.entry)) for f in facts if f.seq in state.seqs[2:]
        ]
        append, may_go = s.log.append, asyncio.Event()

        async def slow(*about: Any) -> Any:
            await may_go.wait()
            return await append(*about)

        with pytest.MonkeyPatch.context() as patching:
            patching.setattr(type(s.log), "append", lambda _, *about: slow(*about))
            owner.submit(HistoryCopied(run, 2, len(state.seqs) - 2, items))
            await asyncio.sleep(1)
            s.node.native.missing(run)
            await asyncio.sleep(1)
            may_go.set()
            await owner.settled()

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(1)
        assert ran == ["first", "second"]
        s.do(copy_the_end(s, run.id))
        assert s.ended(run).result == "done"
        assert ran == ["first", "second"]


def test_s15_restating_keeps_everything_and_recovery_begins_at_the_round(running: Running) -> None:
    """S15: a long sleeper among many; the journal is trimmed, nothing is lost."""
    ran: Counter[str] = Counter()
    app = orders(ran)

    @app.function("sleeper", on="t/sleep")
    async def sleeper(ctx: stepfold.Context) -> Any:
        first = await ctx.step.run("before", lambda: "recorded long ago")
        await ctx.step.sleep("year", "360d")
        return first

    with running(app, round_records_min=50, journal_keep_ms=0, trial_survive_ms=1_000) as s:
        long_one = s.start_run("t/sleep")
        for n in range(20):
            s.send("t/order", {"n": n})
            s.send("t/paid", {"n": n})
            s.advance(900)
            if n % 7 == 3:
                s.restart()
        s.until(lambda: len([r for r in s.of("order") if r.end]) == 20)
        s.advance(600)
        bounds = s.do(s.log.bounds("journal", long_one.id[6] << 4 | long_one.id[7] >> 4))
        assert bounds.start > 0
        s.restart()
        assert s.ended(long_one).result == "recorded long ago"
        no_outcome_twice(s)
        assert all(ran[f"charge-{n}"] == 1 for n in range(20))


def test_a_journal_is_kept_within_its_size_over_restarts(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("sleeper", on="t/sleep")
    async def sleeper(ctx: stepfold.Context) -> Any:
        first = await ctx.step.run("before", lambda: "x" * 100)
        await ctx.step.sleep("year", "300d")
        return first

    @app.function("busy", on="t/busy")
    async def busy(ctx: stepfold.Context) -> None:
        for _ in range(20):
            await ctx.step.run("step", lambda: "y" * 500)

    with running(app, round_records_min=100, journal_keep_bytes=50_000) as s:
        sleeping = s.start_run("t/sleep")
        for n in range(60):
            s.send("t/busy", {"n": n})
            s.advance(20)
            if n % 10 == 9:
                s.restart()
        for number in range(s.variant.partitions):
            bounds = s.do(s.log.bounds("journal", number))
            if bounds.end > 500:
                assert bounds.end - bounds.start < 500
        s.restart()
        assert s.ended(sleeping).result == "x" * 100


def test_folding_from_a_round_gives_the_state_of_folding_all(running: Running) -> None:
    ran: Counter[str] = Counter()
    app = orders(ran)
    with running(app, round_records_min=30) as s:
        for n in range(8):
            s.send("t/order", {"n": n})
            s.advance(200)
        s.advance(5)
        for number in range(s.variant.partitions):
            journal = s.journal(number)
            whole = Partition(number, s.variant.partitions)
            for offset, decision in enumerate(journal):
                fold(whole, decision, offset)
            starts = sorted({d.fold_from for d in journal} - {0})
            for start in starts:
                part = Partition(number, s.variant.partitions)
                assert isinstance(journal[start].entries[0], PartitionRestated)
                begin(part, journal[start])
                for offset, decision in enumerate(journal[start:], start):
                    fold(part, decision, offset)
                assert summary(part) == summary(whole)


def summary(state: Partition) -> Any:
    """What two folds must agree on."""
    return (
        state.epoch,
        state.seq,
        state.positions,
        [head_of(run) for run in state.runs],
        state.ended,
        state.signals,
        {a: (d.number, d.functions, d.held_by) for a, d in state.declarations.items()},
        state.queued,
        {d: u for d, u in state.unsent.items() if u},
        state.taken,
        set(state.requests),
    )


def test_a_history_whose_copy_is_only_decided_is_not_read_yet(tmp_path: Path, on: On) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("nap", "1h")
        return ctx.event.data["n"]

    with scenario(on(1), app, tmp_path) as s:
        count, inner = LOADS_AT_ONCE_MAX + 3, s.log
        for n in range(count):
            s.send("t/go", {"n": n})
        s.advance(60)
        s.crash()
        s.log = log = SlowLog(inner)
        s.start()
        # All wake at the same time, and some wait until others were read.
        log.reads.clear()
        s.advance(3_600)
        log.appends.clear()
        owner = s.node.owners[0]
        restating = Restating(inner, owner, s.clock, s.settings)
        restating._cut = 1_000_000
        for run in s.of("f"):
            s.do(restating._copy_history(key_of(run.id)))
        s.advance(1)
        log.reads.set()
        s.advance(1)
        log.appends.set()
        s.until(lambda: all(r.status != "running" for r in s.of("f")))
        assert sorted(r.result for r in s.of("f")) == list(range(count))
