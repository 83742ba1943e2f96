"""Debounced functions: of events in quick succession the last one starts a run, once."""

from typing import Any

import pytest

import stepfold
from stepfold import Debounce
from stepfold_engine.errors import RequestRefusedError
from stepfold_schemas import codec
from stepfold_schemas.entries import DebounceEnded, Entry, EventDebounced, RunStarted
from stepfold_schemas.ids import key_of
from tests.behaviour.conftest import Running
from tests.behaviour.scenario import EPOCH_MS, RunRecord, Scenario

BY_DOC = Debounce("10s", key="data.doc")


def app_with(debounce: Debounce | str, **options: Any) -> stepfold.App:
    app = stepfold.App("t")

    @app.function("index", on="t/edited", debounce=debounce, **options)
    async def index(ctx: stepfold.Context) -> Any:
        return ctx.event.data["n"]

    return app


def edit(s: Scenario, n: int, doc: str = "a", **more: Any) -> str:
    sent = s.send("t/edited", {"doc": doc, "n": n}, **more)
    # Two events may lie in two partitions, between which there is no order: let it be read.
    s.advance(0.001)
    return sent


def results(s: Scenario) -> list[Any]:
    return [run.result for run in s.of("index")]


def entries_of(s: Scenario, kind: type[Entry]) -> list[Any]:
    return [e for _, d in s.decisions for e in d.entries if isinstance(e, kind)]


def seconds(run: RunRecord) -> int:
    return run.started_ms // 1000


def test_the_last_event_starts_a_run_when_no_other_comes(running: Running) -> None:
    with running(app_with("10s")) as s:
        for n in range(4):
            edit(s, n)
            s.advance(6)
        s.advance(3)
        assert s.of("index") == []
        s.advance(10)
        assert results(s) == [3]
        assert seconds(s.of("index")[0]) == 28
        edit(s, 9)
        s.advance(11)
        assert results(s) == [3, 9]


def test_every_key_has_its_own_time(running: Running) -> None:
    with running(app_with(BY_DOC)) as s:
        for n in range(8):
            edit(s, n, doc="abcd"[n % 4])
        s.advance(5)
        edit(s, 8, "a")
        s.advance(30)
        assert sorted(results(s)) == [5, 6, 7, 8]
        assert {seconds(run) for run in s.of("index")} == {10, 15}


def test_the_timeout_is_the_longest_delay_from_the_first_event(running: Running) -> None:
    with running(app_with(Debounce("10s", timeout="25s"))) as s:
        for n in range(10):
            edit(s, n)
            s.advance(6)
        s.advance(30)
        assert results(s) == [4, 9]
        assert [seconds(run) for run in s.of("index")] == [25, 55]


def test_an_event_that_is_sent_again_counts_once(running: Running) -> None:
    with running(app_with(BY_DOC)) as s:
        edit(s, 1, id="first")
        s.advance(5)
        edit(s, 2, id="second")
        s.advance(5)
        edit(s, 1, id="first")
        s.advance(6)
        # The repeated event neither moved the time on nor took the other one's place.
        assert results(s) == [2]
        edit(s, 2, id="second")
        edit(s, 1, id="first")
        s.advance(60)
        assert results(s) == [2]


def test_an_older_event_that_comes_late_is_superseded(running: Running) -> None:
    with running(app_with(BY_DOC)) as s:
        edit(s, 2, id="new", ts=EPOCH_MS - 1_000)
        s.advance(5)
        edit(s, 1, id="old", ts=EPOCH_MS - 2_000)
        s.advance(20)
        assert results(s) == [2]
        assert seconds(s.of("index")[0]) == 15
        assert [e.superseded for e in entries_of(s, EventDebounced)] == ["", "old"]


def test_it_is_known_which_run_superseded_an_event(running: Running) -> None:
    with running(app_with(BY_DOC)) as s:
        for n in range(3):
            edit(s, n, id=f"e{n}")
        s.advance(20)
        (run,) = s.of("index")
        taken, (ended,) = entries_of(s, EventDebounced), entries_of(s, DebounceEnded)
        assert [e.superseded for e in taken] == ["", "e0", "e1"]
        assert {e.group for e in (*taken, ended)} == {key_of(run.id)}
        assert (ended.event_id, ended.run_key) == ("e2", key_of(run.id))


def test_what_is_pending_outlives_crashes_and_takeovers(running: Running) -> None:
    with running(app_with(BY_DOC)) as s:
        for n in range(6):
            edit(s, n, doc="ab"[n % 2], id=f"e{n}")
        s.restart()
        s.advance(5)
        s.takeover()
        edit(s, 7, "b", id="e7")
        s.advance(4)
        s.restart()
        s.advance(20)
        assert sorted(results(s)) == [4, 7]


def test_what_came_due_while_no_process_ran_waits_for_what_was_appended_since(
    running: Running,
) -> None:
    with running(app_with("10s")) as s:
        edit(s, 1)
        s.advance(1)
        s.crash()
        s.advance(60)
        s.append_while_down("t/edited", {"doc": "a", "n": 2})
        s.start()
        s.advance(9)
        assert results(s) == []
        s.advance(2)
        assert results(s) == [2]


def test_rounds_of_restating_carry_what_is_pending(running: Running) -> None:
    settings = {"round_records_min": 5, "journal_keep_ms": 0}
    with running(app_with(Debounce("6h", key="data.doc", timeout="2d")), **settings) as s:
        edit(s, 1, doc="still", id="e1")
        for n in range(60):
            edit(s, n, doc="busy", id=f"b{n}")
            s.advance(300)
        s.restart()
        s.advance(3600 * 7)
        assert sorted(results(s)) == [1, 59]
        edit(s, 1, doc="still", id="e1")
        s.advance(3600 * 7)
        assert len(results(s)) == 2
        bounds = [s.do(s.log.bounds("journal", p)) for p in range(s.variant.partitions)]
        assert any(b.start > 0 for b in bounds)


def test_events_without_the_value_of_a_path_have_one_key(running: Running) -> None:
    with running(app_with(Debounce("10s", key="event.data.who.name"))) as s:
        edit(s, 1)
        edit(s, 2)
        s.advance(15)
        assert results(s) == [2]


def test_an_event_for_which_the_key_has_no_value_is_on_its_own(running: Running) -> None:
    with running(app_with(Debounce("10s", key="7 / event.data.n"))) as s:
        for n in (0, 7, 0, 7):
            edit(s, n)
        s.advance(15)
        assert sorted(results(s)) == [0, 0, 7]


def test_a_debounced_event_meets_the_idempotency_key_at_last(running: Running) -> None:
    with running(app_with(BY_DOC, idempotency="data.n")) as s:
        for n in (1, 2, 1):
            edit(s, n)
        s.advance(15)
        assert results(s) == [1]
        for n in (2, 1):
            edit(s, n)
        s.advance(15)
        # The last one's key had its run: that one stands for it.
        assert results(s) == [1]
        first, second = entries_of(s, DebounceEnded)
        assert first.group != second.group
        assert first.run_key == second.run_key == key_of(s.of("index")[0].id)


def test_conditions_cancellations_and_time_stamps_hold_as_without(running: Running) -> None:
    app = stepfold.App("t")
    closed = stepfold.CancelOn("t/closed")

    @app.function("index", on="t/edited", if_="event.data.n > 1", debounce="10s", cancel_on=closed)
    async def index(ctx: stepfold.Context) -> Any:
        await ctx.step.sleep("a while", "1h")
        return ctx.event.data["n"]

    with running(app) as s:
        edit(s, 2)
        edit(s, 1)
        s.advance(15)
        s.advance(3600)
        assert results(s) == [2]
        edit(s, 3, ts=EPOCH_MS + 7_200_000)
        s.advance(15)
        assert s.of("index")[1].status == "running"
        s.send("t/closed")
        s.advance(1)
        assert s.of("index")[1].status == "cancelled"
        (_, later) = entries_of(s, RunStarted)
        assert later.due_ms == EPOCH_MS + 7_200_000


def test_a_function_that_is_removed_meanwhile_is_not_started(running: Running) -> None:
    with running(app_with("1h")) as s:
        edit(s, 1)
        s.advance(60)
        s.crash()
        s.app = stepfold.App("t")
        s.start()
        s.advance(7200)
        assert s.of("index") == []
        assert [e.run_key for e in entries_of(s, DebounceEnded)] == [b""]


def test_a_function_that_is_no_longer_debounced_starts_what_was_pending(running: Running) -> None:
    with running(app_with("1h")) as s:
        edit(s, 1, id="e1")
        s.advance(60)
        s.crash()
        app = s.app = stepfold.App("t")

        @app.function("index", on="t/edited")
        async def index(ctx: stepfold.Context) -> Any:
            return ctx.event.data["n"]

        s.start()
        edit(s, 2, id="e2")
        edit(s, 1, id="e1")
        s.advance(7200)
        assert results(s) == [2, 1]


def test_a_large_event_is_put_forward_once(running: Running) -> None:
    with running(app_with(BY_DOC)) as s:
        s.send("t/edited", {"doc": "a", "n": 1, "text": "x" * 100_000})
        s.restart()
        s.send("t/edited", {"doc": "a", "n": 2, "text": "x" * 100_000})
        s.restart()
        s.advance(15)
        assert results(s) == [2]
        (started,) = entries_of(s, RunStarted)
        assert len(codec.decode_event(started.events[0]).data) > 100_000


def test_a_key_that_means_nothing_is_refused_when_it_is_declared(running: Running) -> None:
    with running(stepfold.App("t")) as s:
        bad = app_with(Debounce("10s", key="event.data."))
        specs = [f.spec() for f in bad.functions.values()]
        with pytest.raises(RequestRefusedError, match="function t-index: "):
            s.do(s.node.declare("t", specs, complete=True, forced=True))
