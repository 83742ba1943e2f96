"""Which events are meant by a name, a condition or an expression: a second, small evaluator.

It knows paths, numbers, strings, ``== != < <= > >=``, ``&&``, ``||``, ``!`` and brackets, which is
what the random programs use. What it does not know has no answer (``None``), and no check is made
of it. It shares no code with the engine's evaluator, so that it does not share its mistakes.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from stepfold_schemas.entries import Condition

Scope = Mapping[str, Any]
"""The roots of paths: ``event`` and ``async``."""

Answer = bool | None
"""True, false, or not known here."""

_MISSING: Any = object()

_TOKEN = re.compile(
    r"\s*(?:(?P<op>&&|\|\||[=!<>]=|[<>!()])|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<text>'[^'\\]*'|\"[^\"\\]*\")|(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*))"
)
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


class _UnknownError(Exception):
    """The expression uses something that is not known here."""


def names(pattern: str, name: str) -> bool:
    """Say whether a pattern means events of this name."""
    if pattern == name:
        return True
    return len(pattern) > 2 and pattern[-2:] in ("/*", ".*") and name.startswith(pattern[:-1])


def meets(condition: Condition, values: Mapping[str, Any]) -> Answer:
    """Say whether an event meets a condition; its name is tested by ``names``."""
    for term in condition.terms:
        if not _same(value_at(values, term.path), json.loads(term.value)):
            return False
    if not condition.expression:
        return True
    return holds(condition.expression, {"event": json.loads(condition.bindings), "async": values})


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path; None if there is none."""
    value = _read(values, path.split("."))
    return None if value is _MISSING else value


def holds(expression: str, scope: Scope) -> Answer:
    """Say whether an expression is true."""
    try:
        test = _compiled(expression)
    except _UnknownError:
        return None
    return test(scope)


def _read(value: Any, keys: list[str]) -> Any:
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON: true is not 1, and what is missing is null."""
    one, other = (None if v is _MISSING else v for v in (one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


_Test = Callable[[Scope], Answer]
_Value = Callable[[Scope], Any]


@lru_cache(maxsize=1000)
def _compiled(expression: str) -> _Test:
    parser = _Parser(expression)
    test = parser.alternatives()
    parser.end()
    return test


class _Parser:
    """Turns an expression into a test."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise _UnknownError(text[at:])
            kind = found.lastgroup or ""
            self._tokens.append((kind, found[kind]))
            at = found.end()
        self._next = 0

    def end(self) -> None:
        if self._next < len(self._tokens):
            raise _UnknownError(self._tokens[self._next][1])

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("", "")

    def _skip(self, *operators: str) -> str:
        kind, text = self._peek()
        if kind == "op" and text in operators:
            self._next += 1
            return text
        return ""

    def alternatives(self) -> _Test:
        tests = [self._conjuncts()]
        while self._skip("||"):
            tests.append(self._conjuncts())
        return tests[0] if len(tests) == 1 else _any(tests)

    def _conjuncts(self) -> _Test:
        tests = [self._single()]
        while self._skip("&&"):
            tests.append(self._single())
        return tests[0] if len(tests) == 1 else _all(tests)

    def _single(self) -> _Test:
        if self._skip("!"):
            inner = self._single()
            return lambda scope: None if (answer := inner(scope)) is None else not answer
        if self._skip("("):
            inner = self.alternatives()
            if not self._skip(")"):
                raise _UnknownError("(")
            return inner
        left = self._operand()
        operator = self._skip("==", "!=", "<=", ">=", "<", ">")
        if not operator:
            return lambda scope: value if isinstance(value := left(scope), bool) else None
        return _comparison(operator, left, self._operand())

    def _operand(self) -> _Value:
        kind, text = self._peek()
        self._next += 1
        if kind == "number":
            number = float(text) if "." in text else int(text)
            return lambda _: number
        if kind == "text":
            return lambda _: text[1:-1]
        if kind == "path" and text in _WORDS:
            return lambda _: _WORDS[text]
        keys = text.split(".")
        if kind == "path" and keys[0] in ("event", "async"):
            return lambda scope: _read(scope, keys)
        raise _UnknownError(text)


def _any(tests: list[_Test]) -> _Test:
    def test(scope: Scope) -> Answer:
        answers = [one(scope) for one in tests]
        return True if True in answers else None if None in answers else False

    return test


def _all(tests: list[_Test]) -> _Test:
    def test(scope: Scope) -> Answer:
        answers = [one(scope) for one in tests]
        return False if False in answers else None if None in answers else True

    return test


_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _comparison(operator: str, left: _Value, right: _Value) -> _Test:
    if operator in ("==", "!="):
        equal = operator == "=="
        return lambda scope: _same(left(scope), right(scope)) is equal
    compare = _ORDERED[operator]

    def test(scope: Scope) -> Answer:
        one, other = left(scope), right(scope)
        for number in (one, other):
            # How the dialect orders other things is not known here.
            if isinstance(number, bool) or not isinstance(number, int | float):
                return None
        return compare(one, other)

    return test
