"""What a function may be declared with: triggers, keys, cancellations, timeouts, handlers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import stepfold
from stepfold_engine.log.base import NewRecord
from stepfold_schemas import codec
from stepfold_schemas.events import Event
from tests.behaviour.conftest import On, Running
from tests.behaviour.scenario import EPOCH_MS, scenario


def new() -> stepfold.App:
    return stepfold.App("t")


def test_several_triggers_wildcards_and_conditions(running: Running) -> None:
    app = new()

    @app.function("any", on=["a/one", "b/*"])
    async def any_of(ctx: stepfold.Context) -> str:
        return ctx.event.name

    @app.function("large", on=stepfold.Trigger("a/one", if_="event.data.n > 10"))
    async def large(ctx: stepfold.Context) -> int:
        return ctx.event.data["n"]

    with running(app) as s:
        for name, n in (("a/one", 1), ("a/one", 11), ("b/x", 1), ("b/x.y", 1), ("c/x", 99)):
            s.send(name, {"n": n})
        s.until(lambda: len([r for r in s.runs.values() if r.end]) == 5)
        s.advance(10)
        assert sorted(r.result for r in s.of("any")) == ["a/one", "a/one", "b/x", "b/x.y"]
        assert [r.result for r in s.of("large")] == [11]


def test_an_event_sent_again_with_its_id_starts_nothing(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("nap", "1h")

    with running(app) as s:
        for _ in range(3):
            s.send("t/go", {"n": 1}, id="order-1")
        s.send("t/go", {"n": 2}, id="order-2")
        s.advance(7200)
        s.send("t/go", {"n": 1}, id="order-1")
        s.advance(3600)
        assert len(s.of("f")) == 2
        s.restart()
        s.send("t/go", {"n": 1}, id="order-1")
        s.advance(3600)
        assert len(s.of("f")) == 2
        assert all(r.status == "completed" for r in s.of("f"))


def test_after_a_day_an_id_may_come_again(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        pass

    with running(app, round_records_min=1) as s:
        s.run("t/go", id="daily")
        s.advance(60)
        s.send("t/go", id="daily")
        s.advance(60)
        assert len(s.of("f")) == 1
        s.advance(26 * 3600)
        for n in range(5):
            s.send("t/other", {"n": n})
            s.send("t/go", id=f"other-{n}")
        s.advance(60)
        s.send("t/go", id="daily")
        s.advance(60)
        assert len(s.of("f")) == 7


def test_s14_an_idempotency_key_makes_one_run_of_many_events(running: Running) -> None:
    """S14: events with the same key have different homes."""
    app = new()

    @app.function("f", on="t/go", idempotency="event.data.order")
    async def f(ctx: stepfold.Context) -> Any:
        return ctx.event.data["order"]

    with running(app) as s:
        for n in range(12):
            s.send("t/go", {"order": n % 3, "n": n})
        s.advance(60)
        assert sorted(r.result for r in s.of("f")) == [0, 1, 2]


def test_a_future_ts_delays_the_start(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> float:
        return ctx.now().timestamp()

    with running(app) as s:
        run = s.run("t/go", ts=EPOCH_MS + 7_200_000)
        assert run.ended_ms >= 7_200_000
        assert run.ended_ms < 7_300_000


def test_on_failure_hears_once_of_the_error_and_the_event(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go", retries=1)
    async def f(ctx: stepfold.Context) -> None:
        raise ValueError("it broke")

    @f.on_failure
    async def clean_up(ctx: stepfold.Context) -> Any:
        data = ctx.event.data
        return [data["function_id"], data["error"]["message"], data["event"]["data"]]

    with running(app) as s:
        s.send("t/go", {"n": 5})
        s.until(lambda: s.of("f-failure") and s.of("f-failure")[0].end)
        s.advance(3600)
        (handler,) = s.of("f-failure")
        assert handler.result == ["t-f", "it broke", {"n": 5}]


def test_cancel_on_stops_the_run_it_means(running: Running) -> None:
    app = new()
    followed: list[int] = []

    @app.function("f", on="t/created", cancel_on=stepfold.CancelOn("t/deleted", match="data.user"))
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("wait", "3d")
        await ctx.step.run("follow-up", followed.append, ctx.event.data["user"])

    with running(app) as s:
        for user in (1, 2):
            s.send("t/created", {"user": user})
        s.advance(3600)
        s.send("t/deleted", {"user": 1})
        s.until(lambda: all(r.end for r in s.of("f")))
        assert sorted(r.status for r in s.of("f")) == ["cancelled", "completed"]
        assert followed == [2]


def test_a_cancellation_does_not_reach_back_before_the_run(running: Running) -> None:
    app = new()

    @app.function("f", on="t/created", cancel_on=stepfold.CancelOn("t/deleted"))
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.sleep("wait", "1h")
        return "done"

    with running(app) as s:
        s.send("t/deleted")
        s.advance(60)
        assert s.run("t/created").result == "done"


def test_a_run_can_be_cancelled_from_outside(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("wait", "30d")

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        s.do(s.node.cancel(run.id, "by hand"))
        assert s.ended(run).status == "cancelled"


def test_cancelling_a_run_that_waits_to_be_tried_again_cancels_its_bodies(
    running: Running,
) -> None:
    app = new()
    ended: list[str] = []

    async def body() -> None:
        try:
            await asyncio.sleep(9 * 3600)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    @app.function("f", on="t/go", retries=stepfold.Retry(retries=3, delay="5h"))
    async def f(ctx: stepfold.Context) -> None:
        task = asyncio.create_task(ctx.step.run("long", body))
        await ctx.step.sleep("nap", "1m")
        raise RuntimeError(f"{task} goes on")

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(300)
        s.do(s.node.cancel(run.id, "by hand"))
        assert s.ended(run).status == "cancelled"
        s.advance(60)
        assert ended == ["cancelled"]


def test_a_finish_timeout_cancels(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go", finish_timeout="1h")
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("wait", "30d")

    with running(app) as s:
        run = s.run("t/go")
        assert run.status == "cancelled"
        assert 3_600_000 <= run.ended_ms - run.started_ms < 3_700_000


def test_an_invoked_run_that_is_cancelled_is_a_step_error_for_its_invoker(
    running: Running,
) -> None:
    app = new()

    @app.function("child", finish_timeout="1h")
    async def child(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("wait", "30d")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        try:
            await ctx.step.invoke("call", function=child)
        except stepfold.StepError as error:
            return error.message
        return "?"

    with running(app) as s:
        s.send("t/go")
        s.until(lambda: s.of("f") and s.of("f")[0].end)
        assert "cancelled" in s.of("f")[0].result


def test_a_function_that_is_no_longer_there_waits_and_is_not_failed(running: Running) -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.sleep("wait", "1h")
        return "done"

    with running(app) as s:
        run = s.start_run("t/go")
        s.advance(60)
        s.app = stepfold.App("t")
        s.restart()
        s.advance(7200)
        assert run.end is None
        assert run.id in s.node.native.unserved
        s.app = app
        s.restart()
        assert s.ended(run).result == "done"


def test_the_same_id_twice_is_refused_at_once() -> None:
    app = new()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> None: ...

    with pytest.raises(ValueError, match="t-f"):

        @app.function("f", on="t/other")
        async def g(ctx: stepfold.Context) -> None: ...


def test_s13_an_id_is_one_event_in_whichever_partition_producers_put_it(
    tmp_path: Path, on: On
) -> None:
    """Producers key their records by whatever they like, and hash keys as they like."""
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        return "done"

    with scenario(on(4), app, tmp_path) as s:
        for n in range(6):
            value = codec.encode(Event("t/go", b"{}", id=f"order-{n}"))
            for partition, key in enumerate((b"order-%d" % n, b"customer", b"", b"\xff\x00")):
                s.do(s.log.append("events", partition, [NewRecord(value, key)]))
        s.advance(60)
        assert [r.result for r in s.of("f")] == ["done"] * 6


def test_anybody_may_publish_in_any_of_the_formats(running: Running) -> None:
    app = new()

    @app.function("f", on="shop/order")
    async def f(ctx: stepfold.Context) -> Any:
        paid = await ctx.step.wait_for_event(
            "paid", event="shop/paid", match="data.order", timeout="1h"
        )
        return [ctx.event.data["order"], None if paid is None else paid.data["by"]]

    def cloud(kind: str, id_: str) -> tuple[tuple[str, bytes], ...]:
        said = {"specversion": "1.0", "type": kind, "source": "/till", "id": id_}
        return tuple((f"ce_{name}", text.encode()) for name, text in said.items())

    with running(app) as s:
        records = [
            NewRecord(b'{"name": "shop/order", "data": {"order": 1}}', b"any key"),
            NewRecord(b'{"order": 2}', b"\xff", cloud("shop/order", "2")),
            NewRecord(b'{"order": 2}', b"again", cloud("shop/order", "2")),
            NewRecord(b"nothing of the kind"),
        ]
        s.do(s.log.append("events", 0, records))
        s.until(lambda: len(s.of("f")) == 2)
        s.advance(1)
        records = [
            NewRecord(b'{"order": 1, "by": "card"}', b"", cloud("shop/paid", "9")),
            NewRecord(b'{"NAME": "shop/paid", "data": {"order": 2, "by": "cash"}}'),
        ]
        s.do(s.log.append("events", 0, records))
        s.until(lambda: len([r for r in s.of("f") if r.end]) == 2)
        assert sorted(r.result for r in s.of("f")) == [[1, "card"], [2, "cash"]]
        letters = [
            record
            for partition in range(s.variant.partitions)
            for record in s.do(s.log.read("dead-letters", partition, 0)).records
        ]
        assert [letter.value for letter in letters] == [b"nothing of the kind"]
        assert b"neither an Avro event" in dict(letters[0].headers)["stepfold.error"]
