"""Reruns: a new run that shares what an old one recorded, in virtual time, on every log."""

import asyncio
import json
from typing import Any

import pytest

import stepfold
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.journals import read_run
from stepfold_engine.reruns import FROM_FAILURE, FROM_STEP, Rerun
from stepfold_schemas.entries import EventMatched, RerunStarted, RunCompleted, RunResumed
from stepfold_schemas.ids import home_of
from tests.behaviour.conftest import Running
from tests.behaviour.scenario import RunRecord, Scenario


def rerun(s: Scenario, run: RunRecord, where: str = "start", step: str = "", **more: Any) -> Any:
    """Ask for a rerun as a process does that knows nothing of the run but its id."""

    async def ask() -> Any:
        facts = await read_run(s.log, home_of(run.id), run.id)
        asked = Rerun(run.id, where, step, **more)
        return await s.node.rerun(asked, facts, asked_by="ann", why="it was wrong")

    answer = s.do(ask())
    s.until(lambda: answer.run in s.runs)
    return s.runs[answer.run]


class Shop:
    """An order in steps; ``broken`` names the step, or the code, that fails."""

    def __init__(self) -> None:
        self.broken = ""
        self.called: list[str] = []
        self.app = stepfold.App("t")

        @self.app.function("f", on="t/go", retries=1)
        async def f(ctx: stepfold.Context) -> dict[str, Any]:
            drawn, began = str(ctx.uuid()), ctx.now().timestamp()
            price = await ctx.step.run("price", self.do, "price", ctx.event.data.get("n", 1))
            await ctx.step.sleep("nap", "1h")
            event = await ctx.step.wait_for_event("paid", event="t/paid", timeout="1d")
            then = ctx.now().timestamp()
            sent = await ctx.step.run("send", self.do, "send", price)
            if self.broken == "code":
                raise ValueError("the code is broken")
            assert event is not None
            return {"sent": sent, "paid": event.data, "drawn": drawn, "then": [began, then]}

    def do(self, what: str, value: int) -> int:
        self.called.append(what)
        if self.broken == what:
            raise stepfold.NonRetriableError(f"{what} is broken")
        return value + 1

    def order(self, s: Scenario) -> RunRecord:
        run = s.start_run("t/go", {"n": 5})
        s.until(lambda: "WaitBegan" in [type(e).__name__ for e in run.entries])
        s.send("t/paid", {"by": "card"})
        return s.ended(run)


def test_from_the_start_everything_is_done_again(running: Running) -> None:
    shop = Shop()
    with running(shop.app) as s:
        first = shop.order(s)
        again = rerun(s, first)
        s.until(lambda: "WaitBegan" in [type(e).__name__ for e in again.entries])
        s.send("t/paid", {"by": "cash"})
        assert s.ended(again).result["paid"] == {"by": "cash"}
        assert again.result["sent"] == first.result["sent"] == 7
        assert again.result["drawn"] != first.result["drawn"]
        assert shop.called == ["price", "send"] * 2
        (entry,) = [e for e in again.entries if isinstance(e, RerunStarted)]
        assert (entry.origin, entry.asked_by, entry.why) == (first.id, "ann", "it was wrong")


def test_from_a_step_what_was_recorded_before_it_is_shared(running: Running) -> None:
    shop = Shop()
    with running(shop.app) as s:
        first = shop.order(s)
        again = s.ended(rerun(s, first, FROM_STEP, "send"))
        assert again.result == first.result, "the same numbers, times and outcomes"
        assert shop.called == ["price", "send", "send"]


def test_the_failed_step_is_done_again_and_nothing_before_it(running: Running) -> None:
    shop = Shop()
    shop.broken = "send"
    with running(shop.app) as s:
        first = shop.order(s)
        assert first.status == "failed"
        shop.broken = ""
        again = s.ended(rerun(s, first, FROM_FAILURE))
        assert again.result["sent"] == 7
        assert shop.called == ["price", "send", "send"]
        (entry,) = [e for e in again.entries if isinstance(e, RerunStarted)]
        assert entry.from_step == "send"


def test_code_that_raised_goes_on_behind_all_that_was_recorded(running: Running) -> None:
    shop = Shop()
    shop.broken = "code"
    with running(shop.app) as s:
        first = shop.order(s)
        assert first.status == "failed"
        still = s.ended(rerun(s, first, FROM_FAILURE))
        assert still.status == "failed"
        assert len([e for e in still.entries if type(e).__name__ == "RunAttemptFailed"]) == 1
        shop.broken = ""
        again = s.ended(rerun(s, still, FROM_FAILURE))
        assert again.result["sent"] == 7
        assert shop.called == ["price", "send"]


def test_an_event_that_woke_two_waits_is_shared_as_one(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> list[int]:
        wait = ctx.step.wait_for_event
        both = (wait(name, event="t/paid", timeout="1h") for name in ("a", "b"))
        events = await asyncio.gather(*both)
        await ctx.step.run("last", list[int])
        return [event.data["n"] for event in events if event is not None]

    with running(app) as s:
        first = s.start_run("t/go")
        s.advance(1)
        s.send("t/paid", {"n": 7})
        assert s.ended(first).result == [7, 7]
        s.restart()  # what follows is read from the log
        again = s.ended(rerun(s, first, FROM_STEP, "last"))
        assert again.result == [7, 7]
        # The record names the run twice in that entry, for two waits.
        matched = [e for e in again.entries if isinstance(e, EventMatched)]
        assert [len(e.waits) for e in matched] == [2, 2]
        assert matched[0] is matched[1]


def test_another_input(running: Running) -> None:
    shop = Shop()
    with running(shop.app) as s:
        first = shop.order(s)
        data = json.dumps({"n": 50}).encode()
        again = rerun(s, first, data=data)
        s.until(lambda: "WaitBegan" in [type(e).__name__ for e in again.entries])
        s.send("t/paid", {"by": "cash"})
        assert s.ended(again).result["sent"] == 52


def test_asked_twice_it_is_one_run_and_another_tag_makes_another(running: Running) -> None:
    shop = Shop()
    with running(shop.app) as s:
        first = shop.order(s)
        one = s.ended(rerun(s, first, FROM_STEP, "send"))
        two = rerun(s, first, FROM_STEP, "send")
        s.restart()
        three = rerun(s, first, FROM_STEP, "send")
        assert one is two is three
        other = s.ended(rerun(s, first, FROM_STEP, "send", tag="again"))
        assert other.id != one.id
        assert shop.called == ["price", "send", "send", "send"]


def test_an_unfinished_run_and_what_is_open_in_it_begins_anew(running: Running) -> None:
    shop = Shop()
    with running(shop.app) as s:
        first = s.start_run("t/go", {"n": 5})
        s.until(lambda: "WaitBegan" in [type(e).__name__ for e in first.entries])
        again = rerun(s, first, FROM_FAILURE)
        s.until(lambda: "WaitBegan" in [type(e).__name__ for e in again.entries])
        s.send("t/paid", {"by": "card"})
        assert s.ended(again).result["sent"] == s.ended(first).result["sent"] == 7
        assert shop.called == ["price", "send", "send"]


def test_an_unknown_step_is_refused_with_the_steps_that_there_are(running: Running) -> None:
    shop = Shop()
    with running(shop.app) as s:
        first = shop.order(s)
        with pytest.raises(
            RequestRefusedError, match="no step 'x'; its steps are: price, nap, pai"
        ):
            rerun(s, first, FROM_STEP, "x")


def test_too_much_to_share_is_refused_with_the_limit(running: Running) -> None:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        for _ in range(3):
            await ctx.step.run("large", "x".__mul__, 2_000_000)

    with running(app) as s:
        first = s.run("t/go")
        with pytest.raises(RequestRefusedError, match="Begin at an earlier step") as refused:
            rerun(s, first, FROM_FAILURE)
        assert refused.value.status == 413


def test_crashes_and_rounds_of_restating_do_not_lose_what_is_shared(running: Running) -> None:
    shop = Shop()
    with running(shop.app, round_records_min=5, journal_keep_ms=0) as s:
        first = shop.order(s)
        again = rerun(s, first, FROM_STEP, "paid")
        for _ in range(6):
            s.advance(600)
            for _ in range(10):
                s.send("t/noise")
            s.restart()
        s.send("t/paid", {"by": "cash"})
        assert s.ended(again).result["paid"] == {"by": "cash"}
        assert again.result["drawn"] == first.result["drawn"]
        assert shop.called == ["price", "send", "send"]


def test_a_resumed_run_says_who_asked_and_why(running: Running) -> None:
    app = stepfold.App("t")
    order = ["a", "b"]

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.run(order[0], str)
        await ctx.step.sleep("nap", "1h")
        return "done"

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        order.reverse()
        s.restart()
        s.until(lambda: run.status == "stopped")
        order.reverse()
        s.do(s.node.resume_run(run.id, "ann", "the old code is back"))
        s.until(lambda: isinstance(run.entries[-1], RunCompleted))
        (entry,) = [e for e in run.entries if isinstance(e, RunResumed)]
        assert (entry.asked_by, entry.why) == ("ann", "the old code is back")
