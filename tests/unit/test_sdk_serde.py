"""Results go through JSON, hot and replayed, and come back as what was declared."""

import dataclasses
import enum
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

import stepfold
from stepfold import Context, serde
from stepfold.crew import WorkerSettings
from tests.unit.sdk_journal import Journal, Run


class Colour(enum.Enum):
    RED = "red"


class Order(pydantic.BaseModel):
    id: int
    at: datetime
    items: list[str] = []


class Aliased(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Row(TypedDict):
    at: datetime
    n: int


class Pair(NamedTuple):
    a: int
    b: str


AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def order() -> Order:
    return Order(id=1, at=AT, items=["a"])


def orders() -> list[Order]:
    return [order()]


def maybe() -> Order | None:
    return None


def aliased() -> Aliased:
    return Aliased(orderId=3)


def point() -> Point:
    return Point(1, 2.5)


def row() -> Row:
    return {"at": AT, "n": 1}


def pair() -> Pair:
    return Pair(1, "b")


def numbers() -> dict[int, Decimal]:
    return {1: Decimal("1.10")}


def things() -> tuple[uuid.UUID, date, timedelta, Colour, set[int]]:
    return uuid.UUID(int=7), date(2030, 1, 2), timedelta(seconds=90), Colour.RED, {1, 2}


RICH: list[Callable[[], Any]] = [
    order,
    orders,
    maybe,
    aliased,
    point,
    row,
    pair,
    numbers,
    things,
]


@pytest.mark.parametrize("function", RICH, ids=lambda f: f.__name__)
def test_a_rich_result_comes_back_as_what_was_declared(function: Callable[[], Any]) -> None:
    reader = serde.reader_of(function)
    assert reader is not None
    value = function()
    assert reader(serde.dumps(value)) == value


def plain_dict() -> dict[str, list[int | None]]:
    return {}


def nothing() -> None:
    return None


def unannotated():  # type: ignore[no-untyped-def]
    return {1, 2}


def unresolved() -> "NoSuchName":  # type: ignore[name-defined] # noqa: F821 # pyright: ignore
    return 1


@pytest.mark.parametrize("function", [plain_dict, nothing, unannotated, unresolved, len, print])
def test_plain_annotations_need_no_reader(function: Callable[..., Any]) -> None:
    assert serde.reader_of(function) is None


def test_an_annotation_that_cannot_be_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def local() -> "Nowhere":  # type: ignore[name-defined] # noqa: F821 # pyright: ignore
        return 1

    assert serde.reader_of(local) is None
    assert "local: its return annotation cannot be used" in caplog.text
    assert "Nowhere" in caplog.text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(JSON)
def test_plain_values_come_back_the_same(value: Any) -> None:
    assert serde.loads(serde.dumps(value)) == value


def test_a_deep_value_comes_back() -> None:
    value: Any = []
    for _ in range(230):
        value = [value]
    assert serde.loads(serde.dumps(value)) == value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Opaque:
    pass


BAD = [
    (lambda: float("nan"), "NaN"),
    (lambda: {"a": [float("-inf")]}, "Infinity"),
    (Opaque, "Opaque"),
    (lambda: {"a": Opaque()}, "Opaque"),
    (lambda: "\ud800", "surrogates"),
    (lambda: b"\xff", "utf-8"),
    (circle, "Circular"),
    (lambda: ValueError("x"), "ValueError"),
]


@pytest.mark.parametrize(("make", "text"), BAD, ids=[text for _, text in BAD])
def test_what_json_cannot_hold_is_refused_with_its_type(make: Any, text: str) -> None:
    with pytest.raises(serde.UnserializableError, match=text):
        serde.dumps(make())


def test_text_that_says_nan_is_only_text() -> None:
    assert serde.loads(serde.dumps(["NaN", "Infinity"])) == ["NaN", "Infinity"]


def run_of(code: Any, **options: Any) -> Run:
    app = stepfold.App("t")
    app.function("f")(code)
    with Journal(app, **options) as journal:
        return journal.finish(journal.start("f"))


@pytest.mark.parametrize("always_replay", [False, True], ids=["hot", "replaying"])
def test_a_function_gets_the_declared_type_hot_and_replayed(always_replay: bool) -> None:
    async def f(ctx: Context) -> list[Any]:
        got = await ctx.step.run("order", order)
        pairs = await ctx.step.run("plain", unannotated)
        await ctx.step.sleep("s", "1h")
        return [type(got).__name__, got.at.year, sorted(pairs), type(pairs).__name__]

    assert run_of(f, always_replay=always_replay).result == ["Order", 2030, [1, 2], "list"]


@pytest.mark.parametrize(("make", "text"), BAD, ids=[text for _, text in BAD])
def test_a_step_that_returns_it_fails_for_good(make: Any, text: str) -> None:
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("bad one", make)
        except stepfold.StepError as error:
            return f"{error.name} {error.message}"
        return ""

    result = run_of(f).result
    assert result.startswith("UnserializableError step 'bad one' returned")
    assert text in result


def test_what_does_not_read_back_as_declared_fails_the_attempt() -> None:
    def lie() -> Order:
        return {"id": "x"}  # type: ignore[return-value] # pyright: ignore[reportReturnType]

    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("lie", lie)
        except stepfold.StepError as error:
            return error.message
        return ""

    assert "does not read back as Order: id" in run_of(f).result


def test_too_large_results_are_refused_with_size_and_limit() -> None:
    small = WorkerSettings(outcome_bytes_max=100)

    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("large", lambda: "x" * 200)
        except stepfold.StepError as error:
            return error.message[:70]
        return ""

    result = run_of(f, settings=small).result
    assert result.startswith("step 'large' returned 202 bytes of JSON; the limit is 100")

    async def g(_: Context) -> str:
        return "x" * 200

    error = run_of(g, settings=small).error
    assert error.name == "OutcomeTooLargeError"
    assert "t-f returned 202 bytes" in error.message

    async def h(_: Context) -> object:
        return Opaque()

    assert "t-f returned what cannot be recorded" in run_of(h).error.message


def test_errors_are_recorded_whatever_is_in_them() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("cannot say")

    async def f(ctx: Context) -> list[str]:
        messages: list[str] = []
        for id_, error in (("a", BrokenError()), ("b", ValueError("\ud800"))):

            async def body(error: Exception = error) -> None:
                raise error

            try:
                await ctx.step.options(retries=0).run(id_, body)
            except stepfold.StepError as raised:
                messages.append(raised.message)
        return messages

    broken, surrogate = run_of(f).result
    assert "cannot be shown" in broken
    assert surrogate == "\\ud800"
