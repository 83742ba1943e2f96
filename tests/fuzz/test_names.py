"""Any ids and names: of steps, events, signals, functions, idempotency keys.

Each use of a step's id has an outcome of its own, hot and replayed; what cannot be used is refused
in words; and whatever they are, the partition goes on.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepfold
from stepfold.events import NewEvent, written
from stepfold.replay import Replay
from stepfold_engine.log.base import EVENTS, NewRecord
from stepfold_engine.readers import event_record
from stepfold_schemas import codec
from stepfold_schemas.events import Event, InvalidEventError
from stepfold_schemas.ids import ulid_text
from tests.behaviour.scenario import RunRecord, Variant
from tests.fuzz.effort import LIVE, PURE
from tests.fuzz.engines import BOTH, THREE, dead_letters, ended_run, engine, new_app, settle
from tests.fuzz.values import CLEAN_TEXT, NAMES

COLLIDING = st.text("a:1~2", min_size=1, max_size=5)


def is_clean(text: str, chars_max: int = 255) -> bool:
    """Say whether nobody may refuse this text as a name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(text) <= chars_max


def why(run: RunRecord) -> str:
    """Return why a run failed, in words short enough to read."""
    assert run.status == "failed", run.status
    assert 0 < len(run.error) < 1_000
    return run.error


@PURE
@given(st.lists(COLLIDING | CLEAN_TEXT.filter(bool), max_size=30))
@example(["a", "a:1", "a"])
@example(["a:1", "a", "a"])
def test_every_use_of_an_id_is_another_step_and_the_same_when_replayed(ids: list[str]) -> None:
    first, again = Replay(b"r" * 16, 0), Replay(b"r" * 16, 0)
    uses = [first.name(id_) for id_ in ids]
    assert uses == [again.name(id_) for id_ in ids]
    assert len({key for _, key in uses}) == len(ids)
    assert len({name for name, _ in uses}) == len(ids)


@pytest.mark.parametrize("variant", BOTH, ids=str)
@LIVE
@given(ids=st.lists(COLLIDING | NAMES, min_size=1, max_size=6), together=st.booleans())
@example(ids=["a", "a:1", "a", "a:1"], together=True)
@example(ids=["x" * 9_000_000], together=False)
@example(ids=["\ud800"], together=False)
def test_steps_of_any_id_have_outcomes_of_their_own(
    variant: Variant, ids: list[str], together: bool
) -> None:
    app = new_app()

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> list[int]:
        async def body(number: int) -> int:
            return number

        async def one(number: int) -> int:
            return await ctx.step.run(ids[number], body, number)

        if together:
            found = list(await asyncio.gather(*map(one, range(len(ids)))))
        else:
            found = [await one(number) for number in range(len(ids))]
        await ctx.step.sleep(ids[0], "1h")
        return found

    with engine(app, variant) as s:
        s.send("t/go")
        run = ended_run(s, "f")
        if all(map(is_clean, ids)):
            assert run.result == list(range(len(ids)))
        else:
            assert "id" in why(run)


async def _use(ctx: stepfold.Context, kind: str, id_: str) -> None:
    match kind:
        case "run":
            await ctx.step.options(retries=0, timeout="1h").run(id_, lambda: 1)
        case "sleep":
            await ctx.step.sleep(id_, "1s")
        case "sleep_until":
            await ctx.step.sleep_until(id_, ctx.now() + timedelta(seconds=1))
        case "wait_for_event":
            await ctx.step.wait_for_event(id_, event="t/never", timeout="1s")
        case "look back":
            await ctx.step.wait_for_event(id_, event="t/never", timeout="1s", since="run")
        case "wait_for_signal":
            await ctx.step.wait_for_signal(id_, signal="never", timeout="1s")
        case "send_signal":
            await ctx.step.send_signal(id_, "never", 1)
        case "send_event":
            await ctx.step.send_event(id_, NewEvent("t/nobody"))
        case _:
            await ctx.step.invoke(id_, function="t-child", data={"n": 1})


KINDS = [
    "run", "sleep", "sleep_until", "wait_for_event", "look back", "wait_for_signal", "send_signal",
    "send_event", "invoke",
]  # fmt: skip


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(steps=st.lists(st.tuples(st.sampled_from(KINDS), COLLIDING | NAMES), min_size=1, max_size=5))
@example(steps=[(kind, "a") for kind in KINDS])
@example(steps=[("invoke", "x" * 9_000_000)])
@example(steps=[("send_event", "\ud800")])
def test_every_kind_of_step_takes_any_id_or_refuses_it_in_words(
    variant: Variant, steps: list[tuple[str, str]]
) -> None:
    app = new_app()

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> int:
        for kind, id_ in steps:
            await _use(ctx, kind, id_)
        return len(steps)

    with engine(app, variant) as s:
        s.send("t/go")
        run = ended_run(s, "f")
        if all(is_clean(id_) for _, id_ in steps):
            assert run.result == len(steps)
        else:
            assert "id" in why(run)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(name=NAMES)
@example(name="\ud800")
@example(name="x" * 9_000_000)
def test_a_signal_of_any_name_arrives_or_is_refused(variant: Variant, name: str) -> None:
    app = new_app()

    @app.function("waiter", on="t/go", retries=0)
    async def waiter(ctx: stepfold.Context) -> Any:
        found = await ctx.step.wait_for_signal("s", signal=name, timeout="1h")
        return found and found.data

    @app.function("sender", on="t/send", retries=0)
    async def sender(ctx: stepfold.Context) -> bool:
        return await ctx.step.send_signal("send", name, 7) is not None

    with engine(app, variant) as s:
        s.send("t/go")
        settle(s)
        s.send("t/send")
        sent, waited = ended_run(s, "sender"), ended_run(s, "waiter")
        if is_clean(name):
            assert (sent.result, waited.result) == (True, 7)
        else:
            assert "signal" in why(sent)
            assert "signal" in why(waited)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(target=NAMES)
@example(target="\ud800")
@example(target="x" * 9_000_000)
def test_a_function_of_any_id_is_found_missing(variant: Variant, target: str) -> None:
    app = new_app()

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.invoke("call", function=target)

    with engine(app, variant) as s:
        s.send("t/go")
        message = why(ended_run(s, "f"))
        assert "FunctionNotFoundError" in message or "function's id" in message


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(name=NAMES, other=NAMES)
@example(name="\ud800", other="b")
@example(name="x" * 9_000_000, other="b")
def test_an_event_of_any_name_wakes_its_wait_or_is_refused(
    variant: Variant, name: str, other: str
) -> None:
    app = new_app()

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> Any:
        found = await ctx.step.wait_for_event("e", event=name, timeout="1h")
        return found and [found.name, found.data["n"]]

    with engine(app, variant) as s:
        s.send("t/go")
        settle(s)
        sent = True
        for number, text in ((1, other), (2, name)):
            try:
                event = written(NewEvent(text, {"n": number}), now_ms=s.clock.now_ms())
                s.do(s.node.publish([event]))
            except InvalidEventError as error:
                sent = sent and text == other
                assert 0 < len(str(error)) < 1_000  # noqa: PT017 - as above
        run = ended_run(s, "f")
        if run.status == "failed":
            assert "event" in why(run)
            assert not is_clean(name) or "*" in name
        elif sent and other != name:
            pattern = name.endswith(("/*", ".*"))
            assert run.result == [name, 2] or pattern
        else:
            assert run.result is None or run.result[0] in (name, other)


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(event_id=NAMES | st.none(), key=st.none() | st.binary(max_size=8), bare=st.booleans())
@example(event_id="x" * 9_000_000, key=None, bare=False)
@example(event_id="an-id", key=b"a customer's", bare=False)
@example(event_id="an-id", key=b"\xff", bare=True)
def test_an_event_of_any_id_and_key_starts_its_function_once(
    variant: Variant, event_id: str | None, key: bytes | None, bare: bool
) -> None:
    app = new_app()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        await ctx.step.sleep("nap", "1m")
        return ctx.event.id

    with engine(app, variant) as s:
        try:
            event = written(NewEvent("t/go", {}, event_id), now_ms=s.clock.now_ms())
            record = event_record(event)
        except InvalidEventError as error:
            assert event_id is not None
            assert not is_clean(event_id, 1_000)
            assert 0 < len(str(error)) < 1_000  # noqa: PT017 - as above
            return
        if key is not None:
            # Another producer's record: its key is what it likes, and it may have no headers.
            name = [h for h in record.headers if h[0] == "name"]
            record = NewRecord(record.value, key, () if bare else tuple(name))
        place = 0 if key is None else len(key) % variant.partitions
        for _ in range(2 if event_id else 1):
            s.do(s.log.append(EVENTS, place, [record]))
        ended_run(s, "f")
        s.advance(600)
        (run,) = s.of("f")
        assert run.result == (event_id or f"events-{place}-0")


HEADERS = st.sampled_from(["name", "id", "seq", "stepfold.error", "", "é"])


@pytest.mark.parametrize("variant", [*BOTH[:1], THREE], ids=str)
@LIVE
@given(headers=st.lists(st.tuples(HEADERS, st.binary(max_size=8) | st.sampled_from(
    [b"t/go", b"an-id", b"ordinary/go", b"\xff"])), max_size=4))  # fmt: skip
def test_headers_that_lie_lose_no_event(
    variant: Variant, headers: Sequence[tuple[str, bytes]]
) -> None:
    app = new_app()

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> str:
        return ctx.event.id

    with engine(app, variant) as s:
        value = codec.encode(Event("t/go", b"{}", "an-id", s.clock.now_ms()))
        s.do(s.log.append(EVENTS, 0, [NewRecord(value, b"k", tuple(headers))]))
        s.advance(60)
        letters = dead_letters(s)
        assert len(s.of("f")) + len(letters) == 1
        assert all(letter.value == value for letter in letters)
        # Of a repeated header the last one counts.
        said = {name: text for name, text in dict(headers).items() if text}
        honest = said.get("name", b"t/go") == b"t/go" and said.get("id", b"an-id") == b"an-id"
        assert bool(letters) is not honest


@pytest.mark.parametrize("variant", [*BOTH, THREE], ids=str)
@LIVE
@given(
    keys=st.lists(
        st.none()
        | NAMES
        | st.integers()
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
        max_size=4,
    )
)
@example(keys=["é" * 400_000, "é" * 400_000])
@example(keys=[1, 1.0, True, "1"])
def test_events_with_one_idempotency_key_start_one_run(variant: Variant, keys: list[Any]) -> None:
    app = new_app()

    @app.function("f", on="t/go", idempotency="data.key", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("nap", "1m")

    with engine(app, variant) as s:
        sent: list[Any] = []
        for key in keys:
            try:
                event = written(NewEvent("t/go", {"key": key}), now_ms=s.clock.now_ms())
                s.do(s.node.publish([event]))
            except (InvalidEventError, TypeError):
                assert not is_clean(key, 700_000)
            else:
                sent.append(key)
        s.advance(600)
        distinct: list[Any] = []
        for key in sent:
            if not any(_same_key(key, other) for other in distinct):
                distinct.append(key)
        assert len(s.of("f")) == len(distinct)


def _same_key(left: object, right: object) -> bool:
    return isinstance(left, bool) is isinstance(right, bool) and left == right


@PURE
@given(app_id=NAMES, function_id=NAMES, event=NAMES, version=NAMES | st.none())
def test_an_app_is_declared_or_refused(
    app_id: str, function_id: str, event: str, version: str | None
) -> None:
    try:
        app = stepfold.App(app_id)

        @app.function(function_id, on=event, version=version)
        async def f(ctx: stepfold.Context) -> None: ...
    except (ValueError, TypeError) as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return
    (spec,) = [one.spec() for one in app.functions.values()]
    assert spec.id == f"{app_id}-{function_id}"
    assert len(ulid_text(bytes(16))) == 26
