"""Expressions: the dialect case by case, conditions, messages, and that nothing hangs."""

import contextlib
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepfold_engine.errors import InvalidOptionError
from stepfold_engine.expressions import (
    Expression,
    bind,
    canonical,
    compile_expression,
    holds,
    value_at,
)
from stepfold_engine.expressions.evaluation import evaluator
from stepfold_engine.expressions.parsing import parse
from stepfold_engine.expressions.values import MISSING, Scope, equal
from stepfold_schemas.entries import Condition, Term

NOW_MS = 1_700_000_000_000

Json = dict[str, Any]

_CASES: list[Json] = json.loads((Path(__file__).parent / "expressions.cel.json").read_text("utf-8"))


def _event(**data: object) -> Json:
    return {"name": "shop/order.placed", "data": data}


def _terms(condition: Condition) -> dict[str, str]:
    return {term.path: term.value for term in condition.terms}


@pytest.mark.parametrize(
    "case", _CASES, ids=[f"{case['group']}: {case['expression']}" for case in _CASES]
)
def test_the_dialect(case: Json) -> None:
    event = case.get("event", {"data": {}})
    if "async" in case:
        compiled = compile_expression(case["expression"])
        assert compiled.evaluate(event, case["async"], NOW_MS) is case["value"]
    elif "error" in case:
        compiled = compile_expression(case["expression"])
        assert compiled.evaluate(event, None, NOW_MS) is False
        with pytest.raises(InvalidOptionError, match="has no value for this event"):
            compiled.value(event, NOW_MS)
    else:
        value = compile_expression(case["expression"]).value(event, NOW_MS)
        assert value == case["value"]
        assert isinstance(value, bool) is isinstance(case["value"], bool)
        holds_now = compile_expression(case["expression"]).evaluate(event, None, NOW_MS)
        assert holds_now is (case["value"] is True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the expression '' cannot be used: it is empty"),
        ("  // nothing", "it is empty"),
        ("a ==", "it ends too early"),
        ("event.data.a = 1", "at character 14: unexpected '='"),
        ("event.data.a === 1", "at character 16: unexpected '='"),
        ("event.data.a == 'x", "at character 17: this text is not closed"),
        ("event\n&& event\n&&& event", "at line 3, character 3: unexpected '&'"),
        ("event event", "at character 7: unexpected 'event'"),
        ("event inb", "at character 7: unexpected 'inb'"),
        ("(event", "it ends too early"),
        ("event)", "at character 6: unexpected '\\)'"),
        (
            "events.data",
            "at character 1: there is no 'events'; an expression reads event and async",
        ),
        ("event.data.a.foo()", "at character 14: there is no .foo\\(\\)"),
        ("foo(1)", "there is no foo\\(\\)"),
        ("now_plus()", "now_plus\\(\\) takes 1 argument, not 0"),
        ("'a'.contains('a', 'b')", ".contains\\(\\) takes 1 argument, not 2"),
        ("'a'.matches('(')", "at character 5: the pattern '\\(' cannot be used: missing \\)"),
        ("'a'.matches('" + "a" * 1001 + "')", "the pattern has 1001 characters; at most 1000"),
        (r"'\q'", r"at character 1: unknown escape '\\q' in a text"),
        (r"'\ud800'", "unknown escape"),
        (r"r'\'' + 'a'", "no backslash before '"),
        ("has(1)", "has\\(\\) takes one path"),
        ("[1].map(1, 2)", "map\\(\\) takes a name and what to do"),
        ("[1].exists(x)", "exists\\(\\) takes a name and what to do"),
        ("[1].all(event, true)", "'event' is taken"),
        ("Thing{a: 1}", "no message types"),
        ("9223372036854775808", "does not fit into 64 bits"),
        ("18446744073709551616u", "does not fit into 64 bits"),
        ("1e999", "is too large"),
        ("(" * 65 + "1" + ")" * 65, "at character 65: brackets nest deeper than 64 levels"),
        ("!" * 70 + "true", "nested deeper than 64 levels"),
        ("1" + " + 1" * 70, "nested deeper than 64 levels"),
        ("a" * 4097, "it has 4097 characters; at most 4096 are allowed"),
    ],
)
def test_a_text_that_is_no_expression_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says) as caught:
        compile_expression(text)
    assert len(str(caught.value)) < 600


def test_a_long_chain_of_alternatives_is_one_level() -> None:
    text = " || ".join(f"event.data.n == {i}" for i in range(150))
    assert compile_expression(text).evaluate(_event(n=149))
    assert not compile_expression(text).evaluate(_event(n=150))


def test_the_same_text_is_compiled_once() -> None:
    assert compile_expression("event.data.a == 7") is compile_expression("event.data.a == 7")


def test_without_a_given_time_now_is_the_clocks() -> None:
    soon = compile_expression("now() < date(event.data.at) && now_plus('1h') > date(event.data.at)")
    assert soon.evaluate(_event(at=int(time.time() * 1000) + 60_000))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("true", ()),
        ("event.data.userId == async.data.userId", ("data.userId",)),
        ("event.data.a == 1 && event.data.a.b == 2 && event.user.id == 3", ("data.a", "user.id")),
        ("event.data['a'].b", ("data.a.b",)),
        ("event.data['a.b'].c", ("data",)),
        ("event.data[''].c", ("data",)),
        ("event.data[event.user.key]", ("data", "user.key")),
        ("event.data.items[0].id", ("data.items",)),
        ("event.data.tags.exists(x, x == event.name)", ("data.tags", "name")),
        ("has(event.data.a)", ("data.a",)),
        ("[1].exists(data, data == 1)", ()),
        ("event == async", ("",)),
        ("size(event) > 1 || event.data.a", ("",)),
        ("event.data.a.contains(event.data.b)", ("data.a", "data.b")),
    ],
)
def test_an_expression_knows_what_it_reads(text: str, paths: tuple[str, ...]) -> None:
    assert compile_expression(text).event_paths == paths


def test_a_condition_carries_only_what_is_read() -> None:
    trigger = _event(userId=5, secret="s", cart={"id": 1, "lines": [1, 2]})
    text = "event.data.userId == async.data.userId && async.data.line in event.data.cart.lines"
    condition = bind("shop/*", text, "", trigger)
    assert condition.event == "shop/*"
    assert condition.expression == text
    assert json.loads(condition.bindings) == {"data": {"userId": 5, "cart": {"lines": [1, 2]}}}
    assert condition.terms == [Term("data.userId", "5")]
    assert holds(condition, _event(userId=5.0, line=2))
    assert not holds(condition, _event(userId=5, line=3))


def test_an_expression_over_the_whole_trigger_carries_all_of_it() -> None:
    condition = bind("a", "event == async", "", _event(a=1))
    assert json.loads(condition.bindings) == _event(a=1)
    assert holds(condition, _event(a=1.0))
    assert not holds(condition, _event(a=1, b=2))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("async.data.a == 5", {"data.a": "5"}),
        ("5.0 == async.data.a", {"data.a": "5"}),
        ("async.data.a == true && async.data.b == null", {"data.a": "true", "data.b": "null"}),
        ("async.data.a == 'x' && (async.data.b == 1 && event.data.id == async.data.c)",
         {"data.a": '"x"', "data.b": "1", "data.c": "7"}),
        ("async.data.a == 'x' || async.data.b == 1", {}),
        ("!(async.data.a == 'x')", {}),
        ("async.data.a != 'x' && async.data.b > 1", {}),
        ("async.data.a == async.data.b", {}),
        ("event.data.id == 7 && async.data.a == event.data.missing", {"data.a": "null"}),
        ("async.data['a'] == 'x' && async.data['b.c'] == 'x'", {"data.a": '"x"'}),
        ("async.data.list[0] == 'x'", {}),
        ("async == event && async.data == event.data", {"data": '{"id":7}'}),
        ("async.data.a == b'x' && async.data.b == 1 + 1", {}),
        ("async.data.a == 'x' ? true : false", {}),
    ],
)  # fmt: skip
def test_the_terms_are_the_equalities_that_must_hold(text: str, terms: dict[str, str]) -> None:
    assert _terms(bind("a", text, "", _event(id=7))) == terms


def test_the_term_that_tells_most_comes_first() -> None:
    text = "async.data.a == 'x' && async.data.b == event.data.gone && async.data.c == event.data.id"
    paths = [term.path for term in bind("a", text, "", _event(id=7)).terms]
    assert paths == ["data.c", "data.a", "data.b"]
    assert bind("a", text, "data.id", _event(id=7)).terms[0] == Term("data.id", "7")


@pytest.mark.parametrize(
    ("value", "candidate", "expected"),
    [
        (5, {"id": 5.0}, True),
        (5, {"id": "5"}, False),
        (1, {"id": True}, False),
        ({"a": [1, 2.0]}, {"id": {"a": [1.0, 2]}}, True),
        (None, {"id": None}, True),
        (None, {}, True),
        (None, {"id": 0}, False),
        (MISSING, {}, True),
        (MISSING, {"id": None}, True),
        (MISSING, {"id": False}, False),
        ("é", {"id": "é"}, True),
    ],
)
def test_match_and_the_same_expression_mean_the_same_events(
    value: object, candidate: Json, expected: bool
) -> None:
    trigger = _event() if value is MISSING else _event(id=value)
    by_match = bind("a", "", "data.id", trigger)
    by_expression = bind("a", "event.data.id == async.data.id", "", trigger)
    assert _terms(by_match) == _terms(by_expression)
    assert by_match.expression == ""
    assert holds(by_match, {"data": candidate}) is expected
    assert holds(by_expression, {"data": candidate}) is expected


def test_match_and_an_expression_must_both_hold() -> None:
    condition = bind("a", "async.data.n > event.data.n", "data.id", _event(id=1, n=2))
    assert holds(condition, _event(id=1, n=3))
    assert not holds(condition, _event(id=2, n=3))
    assert not holds(condition, _event(id=1, n=2))


def test_what_has_asks_about_stays_away_if_the_trigger_lacks_it() -> None:
    condition = bind("a", "!has(event.data.a) && async.data.b == event.data.b", "", _event())
    assert json.loads(condition.bindings) == {"data": {"b": None}}
    assert holds(condition, _event())


def test_a_condition_without_anything_means_every_event() -> None:
    assert holds(bind("a", "", "", _event()), {})


def test_an_unusable_stored_expression_means_no_event() -> None:
    assert not holds(Condition("a", "event ==="), _event())


def _nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("", "", "", _event()), "must not be empty"),
        (("a/*.b", "", "", _event()), "only at the end"),
        (("a", "event ==", "", _event()), "it ends too early"),
        (("a", "", "data..a", _event()), "match 'data..a' is no path"),
        (("a", "", "x" * 256, _event()), "is no path"),
        (("a", "", "data.a", _event(a=_nested(65))), "nested at most 64 levels deep"),
        (("a", "", "data.a", _event(a=object())), "it must be JSON"),
        (("a", "event.data.a == 1", "", _event(a=object())), "that is no JSON"),
    ],
)
def test_what_cannot_be_bound_is_refused(arguments: tuple[str, str, str, Json], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        bind(*arguments)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (5.0, "5"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e22, "10000000000000000000000"),
        (True, "true"),
        (None, "null"),
        (MISSING, "null"),
        ("é\n", '"\\u00e9\\n"'),
        ({"b": 1, "a": {"d": 2.0, "c": []}}, '{"a":{"c":[],"d":2},"b":1}'),
        (math.nan, ""),
        (b"x", ""),
        (_nested(65), ""),
    ],
)
def test_the_canonical_text(value: object, text: str) -> None:
    assert canonical(value) == text


def test_a_value_is_found_by_its_path() -> None:
    assert value_at(_event(a={"b": [1]}), "data.a.b") == [1]
    assert value_at(_event(a=1), "data.a.b.c") is None
    assert value_at({}, "data") is None


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, -0.0, 1.0, 2.5, 2.0**53, 2**53, 2**53 + 1, 1e300, "", "a", "1", "é"])
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)
_data = st.dictionaries(st.sampled_from("abc"), _values, max_size=3)
_sides = st.sampled_from(
    ["event.data.a", "event.data.b", "async.data.a", "async.data.b", "async.data.a.b"]
) | st.sampled_from(["1", "1.0", "true", "null", "'a'", "-1", "0", "9007199254740993"])
_comparisons = st.builds("{} {} {}".format, _sides, st.sampled_from(["==", "!=", "<"]), _sides)
_conditions = st.recursive(
    _comparisons | _sides,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "&&", "||"]), inner)
        | st.builds("!({})".format, inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
    ),
    max_leaves=6,
)


@given(text=_conditions, trigger=_data, candidate=_data)
@settings(max_examples=400, deadline=None)
def test_terms_never_filter_out_what_the_expression_accepts(
    text: str, trigger: Json, candidate: Json
) -> None:
    condition = bind("a", text, "", {"data": trigger})
    bound = json.loads(condition.bindings)
    accepted = compile_expression(text).evaluate(bound, {"data": candidate})
    assert holds(condition, {"data": candidate}) is accepted


@given(left=_values, right=_values)
@settings(max_examples=400, deadline=None)
def test_values_have_one_canonical_text_exactly_if_they_are_equal(
    left: object, right: object
) -> None:
    scope = Scope({}, MISSING, 0)
    assert equal(left, right, scope) is (canonical(left) == canonical(right))
    assert equal(left, right, scope) is equal(right, left, scope)
    assert json.loads(canonical(left)) == left


_WORDS = """
    event async data . ( ) [ ] { } , : ? ! - + * / % == != < <= > >= && || in true false null
    1 2.5 0x 'a' "b" b'c' r'\\' ''' \\ \\n // has exists map all x size matches now date
"""
_words = st.sampled_from(_WORDS.split())


@given(value=st.text(alphabet="ab'\"\\\n\u00e9\U0001f600", max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_text_is_read_as_it_was_meant(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace("\n", "\\n")
    for quote in ("'", '"', "'''", '"""'):
        text = quote + quoted.replace(quote[0], "\\" + quote[0]) + quote
        assert compile_expression(f"{text} + {text}").value({}) == value + value


@given(text=st.lists(_words, max_size=25).map(" ".join) | st.text(max_size=60), data=_data)
@settings(max_examples=500, deadline=None)
def test_any_text_is_refused_in_words_or_evaluated(text: str, data: Json) -> None:
    try:
        compiled = compile_expression(text)
    except InvalidOptionError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        return
    assert compiled.evaluate({"data": data}, {"data": data}, NOW_MS) in (True, False)
    try:
        json.dumps(compiled.value({"data": data}, NOW_MS))
    except InvalidOptionError as error:
        assert "has no value" in str(error)  # noqa: PT017 - either outcome is right
    condition = bind("a", text, "", {"data": data})
    assert holds(condition, {"data": data}, NOW_MS) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "'" + "\\n" * 2_000,
        '"""' + "\\n" * 2_000,
        "[" * 4_096,
        "-" * 4_096,
        "a" + ".a" * 2_000,
        "a" + "?a:a" * 1_000,
        "1" + "+1" * 2_000,
        "1" + "||1" * 1_000,
        "[" + "1," * 2_000 + "1]",
        "'a'.matches('" + "(a*)*" * 150 + "b')",
        "'a'.matches('((a{1000}){1000}){1000}')",
    ],
)
@pytest.mark.timeout(100)
def test_every_text_is_compiled_or_refused_in_bounded_work(text: str) -> None:
    with contextlib.suppress(InvalidOptionError):
        compile_expression(text).evaluate(_event())


@pytest.mark.parametrize(
    "text",
    [
        "event.data.l.all(a, event.data.l.all(b, event.data.l.all(c, a + b + c >= 0)))",
        "event.data.l.map(a, event.data.l.map(b, event.data.l))",
        "event.data.l.map(a, event.data.s + event.data.s)",
        "event.data.l.map(a, event.data.s)",
        "event.data.l.exists(a, event.data.s == event.data.t)",
        "event.data.l.exists(a, event.data.t < event.data.s)",
        "event.data.l.exists(a, event.data.s.contains('ab'))",
        "event.data.l.exists(a, event.data.s.matches('(a*)*b'))",
        "event.data.l.exists(a, a in event.data.l && false)",
        "event.data.l.exists(a, event.data.l == event.data.m)",
        "event.data.l.exists(a, json_parse(event.data.j) == a)",
        "event.data.l.exists(a, 'a'.matches(string(a) + event.data.l[0]))",
        " + ".join(["event.data.s"] * 60),
    ],
)
@pytest.mark.timeout(100)
def test_no_evaluation_goes_on_for_ever(text: str) -> None:
    size = 20_000
    event = _event(
        l=list(range(size)), m=[*range(size - 1), -1], s="a" * 1_000_000,
        t="a" * 999_999 + "b", j=json.dumps(list(range(size))),
    )  # fmt: skip
    assert not compile_expression(text).evaluate(event)
    with pytest.raises(InvalidOptionError, match=r"too much work|at most \d+ are allowed"):
        compile_expression(text).value(event)


def test_events_nested_beyond_reason_are_no_match() -> None:
    deep = _event(a=_nested(900), b=_nested(900))
    assert not compile_expression("event.data.a == event.data.b").evaluate(deep)
    assert not holds(bind("a", "event.data.a == async.data.a", "", deep), deep)


def test_threads_share_an_expression() -> None:
    compiled = compile_expression("event.data.l.map(x, x + event.data.n)")
    wrong: list[object] = []

    def work(n: int) -> None:
        for _ in range(200):
            value = compiled.value(_event(l=[1, 2], n=n))
            if value != [1 + n, 2 + n]:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_expression_does_not_change_the_event() -> None:
    event = _event(l=[1], m={"a": 1})
    before = json.dumps(event)
    compile_expression("event.data.l + [2] == [1, 2] && {'x': event.data.m}.x.a == 1").evaluate(
        event
    )
    assert json.dumps(event) == before


def test_a_compiled_tree_gives_an_expression_of_its_own() -> None:
    tree = parse("event.data.a")
    assert Expression("event.data.a", tree, evaluator(tree)).value(_event(a=1)) == 1
