"""Any JSON as data of events, steps, results, invocations and signals.

What comes back, hot and replayed, is what went in; or there is an error that says what is wrong
with which of them. Whatever it is, the partition goes on.
"""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepfold
from stepfold.events import NewEvent, written
from stepfold_engine.log.base import EVENTS
from stepfold_engine.readers import event_record
from stepfold_schemas.events import Event, InvalidEventError
from stepfold_schemas.ids import ulid_text
from tests.behaviour.scenario import Scenario, Variant
from tests.fuzz.effort import LIVE
from tests.fuzz.engines import BOTH, THREE, dead_letters, ended_run, engine, new_app, settle
from tests.fuzz.values import BIG, JSON, JSON_BYTES, ODD_JSON, depth, nested, same

VALUES = JSON | ODD_JSON | BIG
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), VALUES, max_size=3)
NESTING_MAX = 100
"""Nobody may refuse a value for being nested this deep."""


def must_work(value: Any) -> bool:
    """Say whether JSON and UTF-8 surely hold a value, in a size that everything takes."""
    if depth(value) > NESTING_MAX:
        return False
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return len(text.encode()) < 2_900_000
    except ValueError:
        return False


def refused(error: stepfold.StepError, step: str) -> str:
    """Return how a value was refused; the message must name the step and be no accident."""
    assert error.name in ("UnserializableError", "OutcomeTooLargeError"), error
    assert step in error.message
    assert len(error.message) < 1_000
    return f"refused {error.name}"


@pytest.mark.parametrize("variant", BOTH, ids=str)
@LIVE
@given(value=VALUES)
@example(value=nested(230, "NaN"))
@example(value="x" * (4 * 1024 * 1024 - 2))
def test_a_step_gives_what_its_body_returned(variant: Variant, value: Any) -> None:
    app = new_app()
    got: list[Any] = []

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        try:
            given_ = await ctx.step.run("the step", lambda: value)
        except stepfold.StepError as error:
            return refused(error, "the step")
        await ctx.step.sleep("nap", "1h")
        got.append(given_)
        return "given"

    with engine(app, variant) as s:
        s.send("t/go")
        result = ended_run(s, "f").result
        if must_work(value):
            assert result == "given"
        assert all(same(one, value) for one in got)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(value=VALUES)
@example(value="x" * (4 * 1024 * 1024 - 2))
@example(value="x" * (2 * 1024 * 1024))
def test_an_invoker_gets_what_the_function_returned(variant: Variant, value: Any) -> None:
    app = new_app()
    got: list[Any] = []

    @app.function("inner")
    async def inner(ctx: stepfold.Context) -> Any:
        return value

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        try:
            given_ = await ctx.step.invoke("call", function=inner)
        except stepfold.StepError as error:
            return refused(error, "t-inner")
        await ctx.step.sleep("nap", "1h")
        got.append(given_)
        return "given"

    with engine(app, variant) as s:
        s.send("t/go")
        result = ended_run(s, "f").result
        if must_work(value):
            assert result == "given"
        assert all(same(one, value) for one in got)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(data=OBJECTS | VALUES)
@example(data={"a": "x" * 4_000_000})
@example(data={"a": "x" * 9_000_000})
def test_an_invoked_function_gets_its_data(variant: Variant, data: Any) -> None:
    app = new_app()

    @app.function("inner")
    async def inner(ctx: stepfold.Context) -> bool:
        return same(ctx.event.data, data or {})

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> bool:
        return await ctx.step.invoke("call", function=inner, data=data)

    with engine(app, variant) as s:
        s.send("t/go")
        run = ended_run(s, "f")
        if run.status == "completed":
            assert run.result is True
        else:
            assert "'call'" in run.error
            assert not (must_work(data) and isinstance(data, dict))


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(data=VALUES)
@example(data="x" * 8_388_000)
@example(data="x" * 8_388_400)
def test_a_signal_brings_what_was_sent(variant: Variant, data: Any) -> None:
    app = new_app()
    got: list[Any] = []

    @app.function("waiter", on="t/wait")
    async def waiter(ctx: stepfold.Context) -> bool:
        found = await ctx.step.wait_for_signal("s", signal="s", timeout="1h")
        await ctx.step.sleep("nap", "1h")
        got.append(found)
        return found is not None

    @app.function("sender", on="t/send", retries=0)
    async def sender(ctx: stepfold.Context) -> bool:
        return await ctx.step.send_signal("send", "s", data) is not None

    with engine(app, variant) as s:
        s.send("t/wait")
        settle(s)
        s.send("t/send")
        sent = ended_run(s, "sender")
        waited = ended_run(s, "waiter")
        if must_work(data):
            assert sent.result is True
        elif sent.status == "failed":
            assert "send" in sent.error
            assert waited.result is False
        assert all(same(one.data, data) for one in got if one is not None)


@pytest.mark.parametrize("variant", BOTH, ids=str)
@LIVE
@given(data=OBJECTS | VALUES)
def test_an_event_sent_by_a_step_arrives_as_it_was_sent(variant: Variant, data: Any) -> None:
    app = new_app()

    @app.function("receiver", on="t/sent")
    async def receiver(ctx: stepfold.Context) -> bool:
        return same(ctx.event.data, data if data is not None else {})

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.send_event("send", NewEvent("t/sent", data))

    with engine(app, variant) as s:
        s.send("t/go")
        run = ended_run(s, "f")
        if run.status == "completed":
            assert ended_run(s, "receiver").result is True
        else:
            assert "t/sent" in run.error
            assert not (must_work(data) and isinstance(data, dict))


ECHOES = ["echo", "fails", "fails-failure", "keyed", "waits"]


def _echo(app: stepfold.App, got: list[Any]) -> None:
    """Add functions that say what they got, in every way in which an event reaches code."""

    @app.function("echo", on="t/raw", cancel_on=stepfold.CancelOn("t/never", match="data.a"))
    async def echo(ctx: stepfold.Context) -> None:
        got.append(ctx.event.data)
        await ctx.step.sleep("nap", "1h")
        got.append(ctx.event.data)

    @app.function("fails", on="t/raw", retries=0)
    async def fails(ctx: stepfold.Context) -> None:
        raise ValueError("on purpose")

    @fails.on_failure
    async def told(ctx: stepfold.Context) -> None:
        got.append(ctx.event.data["event"]["data"])

    @app.function("keyed", on="t/raw", idempotency="event.data.a", if_="event.data.a != 5")
    async def keyed(ctx: stepfold.Context) -> None:
        got.append(ctx.event.data)

    @app.function("waits", on="t/wait")
    async def waits(ctx: stepfold.Context) -> None:
        found = await ctx.step.wait_for_event("e", event="t/raw", timeout="1h")
        if found is not None:
            got.append(found.data)


def _see_echoes(s: Scenario, got: list[Any], data: object) -> None:
    """Let everything end that goes on; everybody must have got the event as it is."""
    s.advance(2 * 3_600)
    ended = {r.function.removeprefix("t-"): r for name in ECHOES for r in s.of(name)}
    assert {name: r.status for name, r in ended.items()} == {
        **dict.fromkeys(ECHOES, "completed"),
        "fails": "failed",
        "echo": ended["echo"].status,
    }
    if ended["echo"].status == "failed":
        assert "can be compared" in ended["echo"].error
    assert len(got) >= 3
    assert all(same(one, data) for one in got)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(data=OBJECTS)
def test_a_published_event_is_refused_or_reaches_everybody_unchanged(
    variant: Variant, data: dict[str, Any]
) -> None:
    app = new_app()
    got: list[Any] = []
    _echo(app, got)
    with engine(app, variant) as s:
        s.send("t/wait")
        settle(s)
        try:
            event = written(NewEvent("t/raw", data), now_ms=s.clock.now_ms())
            s.do(s.node.publish([event]))
        except (InvalidEventError, TypeError) as error:
            assert "t/raw" in str(error)  # noqa: PT017 - either outcome is right
            assert not must_work(data)
            assert not s.of("echo")
        else:
            _see_echoes(s, got, data)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(data=JSON_BYTES)
@example(data=b'{"a":"\\ud800"}')
@example(data=b'{"a":NaN}')
@example(data=b'{"a":[NaN],"a":{}}')
@example(data=b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")
@example(data=b'{"a":[' + b"1e15," * 500_000 + b"1]}")
@example(data=b'{"a":' + b"9" * 400 + b"}")
def test_raw_data_in_the_log_starts_its_functions_or_is_a_dead_letter(
    variant: Variant, data: bytes
) -> None:
    app = new_app()
    got: list[Any] = []
    _echo(app, got)
    internal = ulid_text(bytes(15) + b"x")
    record = event_record(Event("t/raw", data, internal=internal, received_ms=1))
    with engine(app, variant) as s:
        s.send("t/wait")
        settle(s)
        s.do(s.log.append(EVENTS, 0, [record]))
        settle(s)
        letters = dead_letters(s)
        if letters:
            (letter,) = letters
            assert letter.value == record.value
            assert letter.key == record.key
            reason = dict(letter.headers)["stepfold.error"]
            assert not s.of("echo")
            assert not _is_plain(data), reason
        else:
            _see_echoes(s, got, json.loads(data))


def _is_plain(data: bytes) -> bool:
    """Say whether these bytes are a JSON object that nobody may refuse."""

    # A name that comes twice hides its first value, which counts all the same.
    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        hidden.extend(value for _, value in members if not must_work(value))
        return dict(members)

    hidden: list[Any] = []
    try:
        value = json.loads(data.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return False
    if hidden:
        return False
    levels = data.count(b"[") + data.count(b"{")
    return isinstance(value, dict) and levels <= NESTING_MAX and must_work(value)
