"""Apps, options, and what is declared of a function."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

import stepfold
from stepfold import CancelOn, Context, Debounce, Retry, SyncContext, Trigger, errors
from stepfold.events import NewEvent
from stepfold.fingerprint import fingerprint
from stepfold_schemas import entries
from tests.unit.sdk_journal import Journal


async def nothing(_: Context) -> None:
    return None


def test_what_is_declared() -> None:
    app = stepfold.App("shop")

    @app.function(
        "fulfil-order",
        on=["shop/order.created", Trigger("shop/import.*", if_="event.data.n > 1")],
        retries=Retry(7, delay="1s", factor=2, max_delay="1m", jitter=0.5),
        cron="TZ=Europe/Paris 0 9 * * *",
        debounce=Debounce("5s", key="data.order.shop", timeout="1m"),
        idempotency="data.order.id",
        cancel_on=[
            CancelOn("shop/order.cancelled", match="data.id", timeout="1h"),
            CancelOn("shop/closed", if_="async.data.all"),
            CancelOn("shop/x", if_="async.data.y", match="data.id"),
        ],
        start_timeout="5m",
        finish_timeout="2d",
        name="Fulfil an order",
        version="v7",
    )
    async def fulfil_order(ctx: Context) -> dict[str, Any]:
        """Do it."""
        return ctx.event.data

    assert fulfil_order.spec() == entries.FunctionSpec(
        "shop-fulfil-order",
        "Fulfil an order",
        "v7",
        fingerprint(fulfil_order.call),
        [
            entries.Trigger("shop/order.created"),
            entries.Trigger("shop/import.*", "event.data.n > 1"),
        ],
        entries.RetryPolicy(7, 1000, 2.0, 60_000, 0.5),
        "event.data.order.id",
        [
            entries.CancelOn("shop/order.cancelled", "event.data.id == async.data.id", 3_600_000),
            entries.CancelOn("shop/closed", "async.data.all", 0),
            entries.CancelOn("shop/x", "(async.data.y) && event.data.id == async.data.id", 0),
        ],
        300_000,
        172_800_000,
        crons=["TZ=Europe/Paris 0 9 * * *"],
        debounce=entries.Debounce(5_000, "event.data.order.shop", 60_000),
    )
    assert fulfil_order.__doc__ == "Do it."
    assert repr(fulfil_order) == "<stepfold function shop-fulfil-order>"
    assert app.functions == {"shop-fulfil-order": fulfil_order}
    assert repr(app) == "<stepfold app shop: 1 functions>"


def test_the_defaults() -> None:
    app = stepfold.App("a")
    spec = app.function("f")(nothing).spec()
    assert spec.triggers == []
    assert spec.retry == entries.RetryPolicy()
    assert spec.name == "nothing"
    assert spec.version == spec.fingerprint[:12]
    one = app.function("g", on="a/b", if_="event.data.ok")(nothing).spec()
    assert app.function("h", debounce="7d")(nothing).spec().debounce == entries.Debounce(
        604_800_000
    )
    assert one.triggers == [entries.Trigger("a/b", "event.data.ok")]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"retries": 21}, ValueError, "function a-f: retries is 21: it must be from 0 to 20"),
        ({"retries": Retry(1, factor=0.5)}, ValueError, "factor"),
        ({"retries": Retry(1, jitter=2)}, ValueError, "jitter"),
        ({"on": [f"e/{n}" for n in range(11)]}, ValueError, "11 triggers; the limit is 10"),
        ({"on": ""}, ValueError, "not empty"),
        ({"on": "x" * 256}, ValueError, "256 characters"),
        ({"cron": ["0 9 * * *"] * 2}, ValueError, "cron '0 9 . . .' is given twice"),
        ({"cron": ""}, ValueError, "a cron is empty"),
        ({"cron": "*" * 256}, ValueError, "256 characters"),
        ({"cron": [5]}, TypeError, "a cron is text"),
        (
            {"on": [f"e/{n}" for n in range(6)], "cron": [f"{n} 9 * * *" for n in range(5)]},
            ValueError,
            "11 triggers, crons among them; the limit is 10",
        ),
        ({"debounce": "999ms"}, ValueError, "period of debounce is '999ms': .* 1 second to 7 days"),
        ({"debounce": Debounce("8d")}, ValueError, "from 1 second to 7 days"),
        ({"debounce": Debounce("5s", timeout="4s")}, ValueError, "less than the period '5s'"),
        ({"debounce": Debounce("5s", timeout=0)}, ValueError, "timeout of debounce is 0"),
        ({"debounce": Debounce("5s", key="x" * 5_000)}, ValueError, "5000 characters"),
        ({"on": ["a"], "if_": "true"}, TypeError, "Trigger"),
        ({"cancel_on": [CancelOn("e")] * 6}, ValueError, "the limit is 5"),
        ({"cancel_on": CancelOn("e", match="id")}, ValueError, "data.order_id"),
        ({"cancel_on": CancelOn("e", timeout="0s")}, ValueError, "none for no limit"),
        ({"finish_timeout": 1.5}, TypeError, "float"),
        ({"finish_timeout": 0}, ValueError, "finish_timeout is 0: give at least 1 ms"),
        ({"start_timeout": "0 ms"}, ValueError, "start_timeout is '0 ms'"),
    ],
)
def test_options_that_are_not_well_formed(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        stepfold.App("a").function("f", **options)(nothing)


def test_the_same_id_twice_names_both_places() -> None:
    app = stepfold.App("a")
    app.function("f")(nothing)
    with pytest.raises(
        ValueError, match=r"two functions have the id a-f: .*test_sdk_app.py:\d+ and"
    ):
        app.function("f")(nothing)
    handled = app.function("g")(nothing)
    handled.on_failure(nothing)
    with pytest.raises(ValueError, match="has a failure handler already"):
        handled.on_failure(nothing)


@pytest.mark.parametrize("bad", ["", "a b", "-a", "a/b", "x" * 129, 7])
def test_ids_that_are_not_well_formed(bad: Any) -> None:
    with pytest.raises(ValueError, match="id"):
        stepfold.App(bad)
    with pytest.raises(ValueError, match="id"):
        stepfold.App("a").function(bad)


def test_only_functions_can_be_durable() -> None:
    async def generator(_: Context) -> Any:
        yield 1

    with pytest.raises(TypeError, match="yields"):
        stepfold.App("a").function("f")(generator)
    with pytest.raises(TypeError, match="a Python function is needed"):
        stepfold.App("a").function("f")(7)  # type: ignore[call-overload] # pyright: ignore


def test_calling_it_directly_says_what_to_do() -> None:
    function = stepfold.App("a").function("f")(nothing)
    with pytest.raises(TypeError, match="invoke") as caught:
        function()
    assert "send an event" in str(caught.value)


def test_a_plain_function_is_told_apart() -> None:
    def plain(_: SyncContext) -> int:
        return 1

    assert not stepfold.App("a").function("f")(plain).is_async
    assert stepfold.App("a").function("f")(nothing).is_async


MAKE = """
def make(doc, extra):
    text = f'''
async def f(ctx):
    {doc}
    async def inner(x): return x in {{'a', 'b', 'c', 'd'}}
    {extra}
    return [inner for _ in range(3)], {{'x': 1.5}}, lambda: 'y'
'''
    names = {}
    exec(compile(text, 'made.py', 'exec'), names)
    return names['f']
"""


def test_a_fingerprint_is_of_the_code_alone() -> None:
    names: dict[str, Any] = {}
    exec(MAKE, names)
    make = names["make"]
    same = fingerprint(make("", ""))
    assert len(same) == 40
    assert fingerprint(make("'''A docstring.'''", "")) == same
    assert fingerprint(make("\n\n", "# a comment")) == same
    assert fingerprint(make("", "x = 1")) != same
    assert fingerprint(make("", "async def inner(x): return x in {'a'}")) != same


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = MAKE + (
        "\nfrom stepfold.fingerprint import fingerprint\nprint(fingerprint(make('', '')))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "sdk:schemas"},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


class Engine:
    def __init__(self) -> None:
        self.got: list[NewEvent] = []

    async def publish(self, events: Sequence[NewEvent]) -> list[str]:
        self.got += events
        return [f"id-{event.name}" for event in events]


def test_sending_goes_to_the_engine_in_this_process() -> None:
    app = stepfold.App("a")
    app.engine = engine = Engine()

    async def main() -> None:
        assert await app.send({"name": "a/b"}) == ["id-a/b"]
        assert await app.send([NewEvent("c", {"n": 1}), {"name": "d"}]) == ["id-c", "id-d"]
        assert await app.send(name="e", data={"n": 2}, id="given") == ["id-e"]
        with pytest.raises(ValueError, match="nothing to send"):
            await app.send()
        with pytest.raises(ValueError, match="not both"):
            await app.send({"name": "a"}, data={})

    asyncio.run(main())
    assert engine.got[-1] == NewEvent("e", {"n": 2}, "given")


def test_sending_outside_a_step_is_told(caplog: pytest.LogCaptureFixture) -> None:
    app = stepfold.App("t")
    app.engine = Engine()

    @app.function("f")
    async def f(_: Context) -> list[str]:
        return await app.send(name="a/b")

    assert f
    with Journal(app) as journal:
        assert journal.finish(journal.start("f")).result == ["id-a/b"]
    assert "app.send('a/b') in a durable function" in caplog.text


def test_the_public_names() -> None:
    assert stepfold.__all__ == sorted(stepfold.__all__)
    for name in stepfold.__all__:
        assert getattr(stepfold, name).__doc__, name


def test_the_errors_are_those_that_are_drawn() -> None:
    assert errors.__doc__
    public = [n for n in vars(errors) if n.endswith("Error") and n != "Error"]
    for name in public:
        assert name in errors.__doc__
        assert name in stepfold.__all__
