"""Any expression and any event: a right answer or a refusal in words, in bounded work."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import stepfold
from stepfold_engine.errors import InvalidOptionError, RequestRefusedError
from stepfold_engine.expressions import bind, canonical, compile_expression, holds, value_at, values
from stepfold_engine.matching import CelMatching
from stepfold_schemas import codec, strict
from stepfold_schemas.entries import WaitBegan
from tests.behaviour.scenario import Scenario, Variant
from tests.fuzz import dialect
from tests.fuzz.effort import LIVE, PURE
from tests.fuzz.engines import BOTH, ended_run, engine, new_app, settle
from tests.fuzz.values import ANY_TEXT, JSON, JSON_TEXT, STRANGE_TEXT, depth

NOW_MS = 1_700_000_000_000
MESSAGE_CHARS_MAX = 1_000

DATA = st.dictionaries(
    st.sampled_from(["a", "b", "l", "a b"]),
    JSON
    | st.recursive(
        st.integers(-3, 3) | st.text("ab", max_size=2) | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["a", "b", "a b"]), inner, max_size=3),
        max_leaves=4,
    ),
    max_size=4,
)  # fmt: skip


def readable(text: str) -> dict[str, Any] | None:
    """Return the object that an event may have as its data, None if it may not."""
    try:
        return strict.read_object(text.encode())
    except ValueError:
        return None


EVENTS = DATA | JSON_TEXT.map(lambda text: readable('{"a":' + text + "}")).filter(
    lambda data: data is not None
)


SHALLOW = EVENTS.filter(lambda data: depth(data) < 50)
"""Events that are compared as a whole; the engine gives up on deeper ones and says so."""


def event(data: Any) -> dict[str, Any]:
    return {"name": "shop/order", "data": data, "id": "i", "ts": NOW_MS, "user": {}}


# Against the reference.


def ours(text: str, trigger: Any, candidate: Any) -> Any:
    """Return what the engine makes of an expression: its value as ``value`` gives it."""
    compiled = compile_expression(text)
    scope = values.Scope(trigger, candidate, NOW_MS)
    try:
        return values.normalize(compiled._evaluate(scope), scope.spend)
    except (values.EvaluationError, values.WorkExceededError):
        raise dialect.NoValueError from None


def theirs(tree: dialect.Tree, trigger: Any, candidate: Any) -> Any:
    found = dialect.value_of(tree, {"event": trigger, "async": candidate})
    return values.normalize(None if found is dialect.MISSING else found, lambda _: None)


@PURE
@given(tree=dialect.TREES, trigger=SHALLOW, candidate=SHALLOW)
@example(
    tree=("||", ("path", "event", ("data", "a")), ("lit", False)),
    trigger={"a": 10**400},
    candidate={},
)
def test_an_expression_has_the_value_that_the_rules_give_it(
    tree: dialect.Tree, trigger: Any, candidate: Any
) -> None:
    text = dialect.text_of(tree)
    try:
        expected = theirs(tree, event(trigger), event(candidate))
    except dialect.NoValueError:
        with pytest.raises(dialect.NoValueError):
            ours(text, event(trigger), event(candidate))
        assert compile_expression(text).evaluate(event(trigger), event(candidate)) is False
        return
    found = ours(text, event(trigger), event(candidate))
    assert repr(found) == repr(expected)
    holds_now = compile_expression(text).evaluate(event(trigger), event(candidate))
    assert holds_now is (expected is True)


@PURE
@given(tree=dialect.TREES, trigger=SHALLOW, candidate=SHALLOW)
def test_a_bound_condition_holds_when_its_expression_does(
    tree: dialect.Tree, trigger: Any, candidate: Any
) -> None:
    text = dialect.text_of(tree)
    try:
        condition = bind("a", text, "", event(trigger))
    except InvalidOptionError as error:
        assert "can be compared" in str(error)  # noqa: PT017 - either outcome is right
        return
    try:
        meant = dialect.bound(tree, event(trigger))
        expected = theirs(meant, event(trigger), event(candidate)) is True
    except dialect.NoValueError:
        expected = False
    assert holds(condition, event(candidate), NOW_MS) is expected
    (kept,) = [codec.decode_entry(codec.encode(WaitBegan(b"r", b"s", "n", condition, 1, 0)))]
    assert isinstance(kept, WaitBegan)
    assert kept.condition == condition


_KEYS = st.text("ab .\ud800é", max_size=3) | st.sampled_from(
    ["data", "data.a", "data.l", "data.a.b"]
)


@PURE
@given(path=_KEYS | st.lists(_KEYS, max_size=4).map(".".join), trigger=SHALLOW, candidate=SHALLOW)
def test_a_match_compares_what_lies_at_the_path(path: str, trigger: Any, candidate: Any) -> None:
    assume(path)
    try:
        condition = bind("a", "", path, event(trigger))
    except InvalidOptionError as error:
        assert 0 < len(str(error)) < MESSAGE_CHARS_MAX  # noqa: PT017 - either outcome is right
        return
    keys = tuple(path.split("."))
    left, right = (
        dialect.value_of(("path", "event", keys), {"event": event(data)})
        for data in (trigger, candidate)
    )
    left, right = (None if v is dialect.MISSING else v for v in (left, right))
    assert holds(condition, event(candidate)) is dialect._same(left, right)
    assert canonical(value_at(event(trigger), path)) == condition.terms[0].value


# Any text.

_ATOMS = st.sampled_from(
    ["event", "async", "vars", "event.data", "event.data.a", "async.data.l", "event.data['a b']",
     "event.ts", "x", "1", "-1", "2.5", "1e308", "9223372036854775807", "18446744073709551615u",
     "true", "null", "'a'", '"b"', "b'c'", "r'\\d'", "''", "[]", "{}", "[1, 2]", "{'a': 1}",
     "'(a*)*b'", "'a{1000}'", "'9999-12-31T23:59:59Z'", "'1000000h'", "'[1,2,{}]'", "'YQ=='",
     "now()", "'\U0001f600'", "'" + "ab" * 500 + "'"]
)  # fmt: skip
_FUNCTIONS = st.sampled_from(
    ["b64decode", "bool", "bytes", "date", "double", "duration", "dyn", "int", "json_parse",
     "lowercase", "matches", "now_minus", "now_plus", "size", "string", "timestamp", "uint",
     "uppercase", "has", "foo"]
)  # fmt: skip
_METHODS = st.sampled_from(
    ["contains", "endsWith", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
     "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth", "getSeconds",
     "matches", "size", "startsWith", "bar"]
)  # fmt: skip
_MACROS = st.sampled_from(["all", "exists", "exists_one", "filter", "map"])
_OPERATORS = st.sampled_from(
    ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||"]
)


def _bigger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.builds("{} {} {}".format, inner, _OPERATORS, inner)
        | st.builds("({})".format, inner)
        | st.builds("{}({})".format, _FUNCTIONS, inner)
        | st.builds("{}({}, {})".format, _FUNCTIONS, inner, inner)
        | st.builds("{}.{}()".format, inner, _METHODS)
        | st.builds("{}.{}({})".format, inner, _METHODS, inner)
        | st.builds("{}.{}(x, {})".format, inner, _MACROS, inner)
        | st.builds("{}.map(x, {}, {})".format, inner, inner, inner)
        | st.builds("{}[{}]".format, inner, inner)
        | st.builds("-{}".format, inner)
        | st.builds("!{}".format, inner)
        | st.builds("{} ? {} : {}".format, inner, inner, inner)
        | st.builds("[{}, {}]".format, inner, inner)
        | st.builds("{{{}: {}}}".format, inner, inner)
    )


FORMED = st.recursive(_ATOMS, _bigger, max_leaves=12)
_MIXED = st.builds(
    lambda text, at, more: text[:at] + more + text[at:], FORMED, st.integers(0, 80), ANY_TEXT
)
_PARTS = st.sampled_from(
    ["(", "[", "{'a':", "-", "!", "a.", "a?", "1+", "'\\", '"""', "[1].map(x,", "1||", "//\n",
     "\\"]
)  # fmt: skip
_LONG = st.builds(lambda part, n, end: part * n + end, _PARTS, st.integers(1, 2_000), ANY_TEXT)
TEXTS = FORMED | ANY_TEXT | STRANGE_TEXT | _MIXED | _LONG


def refusal(error: InvalidOptionError) -> None:
    """Check the words of a refusal: they show the expression, and can be kept."""
    text = str(error)
    assert text.startswith("the expression ")
    assert len(text) < MESSAGE_CHARS_MAX
    text.encode()


@PURE
@given(text=TEXTS, trigger=EVENTS, candidate=EVENTS)
@example(text="event.data.a && true", trigger={"a": 10**400}, candidate={})
@example(text="[event.data.a][0] ? 1 : 2", trigger={"a": -(10**4000)}, candidate={})
@example(text="event.data.a == '\ud800'", trigger={}, candidate={})
def test_any_text_is_refused_in_words_or_has_an_answer(
    text: str, trigger: Any, candidate: Any
) -> None:
    try:
        compiled = compile_expression(text)
    except InvalidOptionError as error:
        refusal(error)
        return
    one, other = event(trigger), event(candidate)
    assert compiled.evaluate(one, other, NOW_MS) in (True, False)
    try:
        found = compiled.value(one, NOW_MS)
    except InvalidOptionError as error:
        refusal(error)
    else:
        json.dumps(found)
    matching = CelMatching()
    try:
        assert matching.key(text, one)
    except InvalidOptionError as error:
        assert len(str(error)) < 5_000  # noqa: PT017 - either outcome is right
    assert matching.accepts(text, one) in (True, False)
    try:
        condition = bind("a", text, "", one)
    except InvalidOptionError as error:
        assert len(str(error)) < MESSAGE_CHARS_MAX  # noqa: PT017 - as above
    else:
        assert holds(condition, other, NOW_MS) in (True, False)
        codec.encode(WaitBegan(b"r", b"s", "n", condition, 1, 0))


# Bounded work.

WORK_MAX = 20_000
CALLS_MAX = 40 * WORK_MAX
"""Python calls that this much work may take: some for each step that is counted."""


@contextmanager
def counted_calls(limit: int) -> Iterator[None]:
    """Fail if the block makes more calls than this; time is the machine's, calls are ours."""
    left = limit

    def count(frame: object, what: str, arg: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raise AssertionError(f"more than {limit} calls")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


LARGE = {
    "a": "ab" * 20_000,
    "b": list(range(3_000)),
    "l": [{"a": n, "b": str(n)} for n in range(2_000)],
    "a b": {str(n): n for n in range(2_000)},
}


@PURE
@given(text=FORMED)
def test_the_work_of_an_evaluation_is_bounded(text: str) -> None:
    try:
        compiled = compile_expression(text)
    except InvalidOptionError:
        return
    kept, values.WORK_MAX = values.WORK_MAX, WORK_MAX
    try:
        with counted_calls(CALLS_MAX):
            compiled.evaluate(event(LARGE), event(LARGE), NOW_MS)
    finally:
        values.WORK_MAX = kept


# On a running engine.


@pytest.mark.parametrize("place", ["trigger", "cancel_on", "idempotency"])
@LIVE
@given(text=TEXTS, data=DATA)
@example(text="event ===", data={})
@example(text="event.data.a || true", data={"a": 10**400})
@example(text="\ud800", data={})
def test_a_function_with_any_expression_is_refused_or_serves(
    place: str, text: str, data: dict[str, Any]
) -> None:
    options: dict[str, dict[str, Any]] = {
        "trigger": {"if_": text},
        "cancel_on": {"cancel_on": stepfold.CancelOn("t/no", if_=text)},
        "idempotency": {"idempotency": text},
    }
    app = new_app()
    try:
        _declare(app, options[place])
    except ValueError as error:
        assert "t-f" in str(error)  # noqa: PT017 - either outcome is right
        assert _is_refused(text)
        return
    try:
        with engine(app) as s:
            _serve(s, data)
    except* RequestRefusedError as group:
        (refused,) = group.exceptions
        assert "t-f" in str(refused)
        assert _is_refused(text)


def _declare(app: stepfold.App, options: dict[str, Any]) -> None:
    @app.function("f", on="t/go", **options)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @app.function("g", on="t/go")
    async def g(ctx: stepfold.Context) -> int:
        return 7


def _serve(s: Scenario, data: dict[str, Any]) -> None:
    """See that events start what they should, whatever the expression makes of them."""
    for number in range(2):
        s.send("t/go", data)
        assert ended_run(s, "g", number).result == 7
        s.send("t/no", data)
    s.advance(2 * 3_600)
    assert len(s.of("f")) <= 2
    for run in s.of("f"):
        assert run.status in ("completed", "cancelled", "failed")
        if run.status == "failed":
            assert "cancel_on" in run.error


def _is_refused(text: str) -> bool:
    try:
        compile_expression(text)
    except InvalidOptionError:
        return True
    return False


@pytest.mark.parametrize("variant", BOTH, ids=str)
@LIVE
@given(text=TEXTS, data=DATA)
@example(text="async.data.a || true", data={"a": 10**400})
@example(text="\ud800", data={})
def test_a_wait_with_any_expression_fails_in_words_or_waits(
    variant: Variant, text: str, data: dict[str, Any]
) -> None:
    app = new_app()

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> str:
        try:
            found = await ctx.step.wait_for_event("e", event="t/e", if_=text, timeout="1h")
        except stepfold.StepError as error:
            return f"refused {error.message}"
        return "none" if found is None else "found"

    with engine(app, variant) as s:
        s.send("t/go", data)
        settle(s)
        s.send("t/e", data)
        settle(s)
        result = ended_run(s, "f").result
        if result.startswith("refused"):
            assert "step 'e'" in result
            assert len(result) < MESSAGE_CHARS_MAX
        else:
            assert not text or not _is_refused(text)
