"""The expression dialect a second time, as small as it can be: trees, their text, their value.

A reference for differential tests, written from the rules of the dialect and not from the engine's
code: no limits, no closures, no sharing. It covers operators, paths, lists, texts and ``has``;
macros, times and conversions are left to the tables in ``tests/unit``.
"""

import math
from collections.abc import Callable
from typing import Any, Final

from hypothesis import strategies as st

Tree = tuple[Any, ...]
"""``("lit", value)``, ``("path", root, keys)``, ``(operator, …)`` and so on; see ``value_of``."""


class Missing:
    """What a path that is not there gives."""


MISSING: Final = Missing()


class NoValueError(Exception):
    """The expression has no value for these events."""


# Text.

_LEVELS = {
    "?:": 0, "||": 1, "&&": 2, "<": 3, "<=": 3, ">": 3, ">=": 3, "==": 3, "!=": 3, "in": 3,
    "+": 4, "-": 4, "*": 5, "/": 5, "%": 5, "!": 6, "neg": 6,
}  # fmt: skip
_ATOM = 7


def text_of(tree: Tree) -> str:
    """Write a tree with no more brackets than it needs, so that precedence is put to the test."""
    return _text(tree)[0]


def _text(tree: Tree) -> tuple[str, int]:
    match tree:
        case ("lit", value):
            return _literal(value), _ATOM if not _is_negative(value) else 6
        case ("path", root, keys):
            return root + "".join(f"[{_quoted(k)}]" if k == "a b" else f".{k}" for k in keys), _ATOM
        case ("list", items):
            return f"[{', '.join(text_of(i) for i in items)}]", _ATOM
        case ("has", path):
            return f"has({text_of(path)})", _ATOM
        case ("call", name, target, *arguments):
            inner = ", ".join(text_of(a) for a in arguments)
            # A number before a dot would be read as one with a fraction.
            number = target[0] == "lit" and _is_number(target[1])
            on = f"({text_of(target)})" if number else _in(target, _ATOM)
            return f"{on}.{name}({inner})", _ATOM
        case ("size", operand):
            return f"size({text_of(operand)})", _ATOM
        case ("?:", condition, then, otherwise):
            return f"{_in(condition, 1)} ? {_in(then, 1)} : {_in(otherwise, 0)}", 0
        case (("!" | "neg") as sign, operand):
            inner = _in(operand, _ATOM)
            return f"{'-' if sign == 'neg' else sign}{inner}", 6
        case (operator, left, right):
            level = _LEVELS[operator]
            return f"{_in(left, level)} {operator} {_in(right, level + 1)}", level
        case _:
            raise AssertionError(tree)


def _in(tree: Tree, level: int) -> str:
    text, own = _text(tree)
    return text if own >= level else f"({text})"


def _is_negative(value: object) -> bool:
    return type(value) in (int, float) and str(value).startswith("-")


def _literal(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.1f}" if value.is_integer() and abs(value) < 1e15 else f"{value!r}"
    return str(value)


def _quoted(text: str) -> str:
    escaped = "".join(f"\\U{ord(c):08x}" if c in "\\'\n\r" else c for c in text)
    return f"'{escaped}'"


# Value.


def value_of(tree: Tree, roots: dict[str, object]) -> Any:
    """Return a tree's value, or MISSING; raise NoValueError if it has none."""
    match tree:
        case ("lit", value):
            return value
        case ("path", root, keys):
            found: Any = roots.get(root, MISSING)
            for key in keys:
                found = found.get(key, MISSING) if isinstance(found, dict) else MISSING
            return found
        case ("list", items):
            values = [value_of(i, roots) for i in items]
            return [None if v is MISSING else v for v in values]
        case ("has", path):
            return value_of(path, roots) is not MISSING
        case ("?:", condition, then, otherwise):
            return value_of(then if _true(value_of(condition, roots)) else otherwise, roots)
        case ("||" | "&&", *_):
            return _logical(tree, roots)
        case ("==", left, right):
            return _same(value_of(left, roots), value_of(right, roots))
        case ("!=", left, right):
            return not _same(value_of(left, roots), value_of(right, roots))
        case (name, *operands):
            found = [value_of(o, roots) for o in (operands[1:] if name == "call" else operands)]
            return _RULES[operands[0] if name == "call" else name](*found)
        case _:
            raise AssertionError(tree)


def bound(tree: Tree, trigger: dict[str, object]) -> Tree:
    """Return the tree that a condition means which was made for this trigger.

    What the trigger does not have is null in a condition, unless the expression asks with ``has``
    whether it is there, or reads something around it, which then is carried as it is.
    """
    read = {path[2] for path in _paths(tree, "path")}
    tested = {path[1][2] for path in _paths(tree, "has")}

    def change(node: Any) -> Any:
        match node:
            case ("has", _):
                return node
            case ("path", "event", keys):
                around = any(keys[:n] in read for n in range(len(keys)))
                found = value_of(("path", "event", keys), {"event": trigger})
                kept = around or keys in tested or found is not MISSING
                return node if kept else ("lit", None)
            case tuple():
                return tuple(map(change, node))
            case _:
                return node

    changed: Tree = change(tree)
    return changed


def _paths(node: Any, kind: str) -> list[Any]:
    """Return the paths that a tree reads of the trigger, or those that it only asks about."""
    match node:
        case ("has", path):
            return [node] if kind == "has" and path[1] == "event" else []
        case ("path", root, _):
            return [node] if kind == "path" and root == "event" else []
        case tuple():
            return [found for part in node for found in _paths(part, kind)]
        case _:
            return []


def _true(value: Any) -> bool:
    if value is MISSING or value is None or value is False or value == "":
        return False
    # As JavaScript: 0 and NaN are false, [] and {} are true.
    nan = isinstance(value, float) and math.isnan(value)
    return not nan and not (_is_number(value) and value == 0)


def _logical(tree: Tree, roots: dict[str, object]) -> Any:
    """The chain is one: its first part that decides is its value, whatever failed before it."""
    operator, last, failed = tree[0], MISSING, False
    for part in _parts(tree, operator):
        try:
            last = value_of(part, roots)
        except NoValueError:
            failed = True
            continue
        if _true(last) is (operator == "||"):
            return False if last is MISSING else last
    if failed:
        raise NoValueError
    return False if last is MISSING else last


def _parts(tree: Tree, operator: str) -> list[Tree]:
    if tree[0] != operator:
        return [tree]
    # ``a || (b || c)`` is two chains, since the brackets say so; ``a || b || c`` is one.
    return [*_parts(tree[1], operator), tree[2]]


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _same(left: Any, right: Any) -> bool:
    if left is MISSING or right is MISSING:
        return left is None or right is None
    if _is_number(left) or _is_number(right):
        return _is_number(left) and _is_number(right) and left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    return type(left) is type(right) and left == right


def _ordered(holds: Callable[[Any, Any], bool], of_missing: bool) -> Callable[[Any, Any], bool]:
    def rule(left: Any, right: Any) -> bool:
        if left is MISSING:
            return of_missing
        if right is MISSING:
            return not of_missing
        left, right = _zero(left, right), _zero(right, left)
        alike = (_is_number(left) and _is_number(right)) or type(left) is type(right)
        if not alike or not isinstance(left, int | float | str):
            raise NoValueError
        return holds(left, right)

    return rule


def _zero(value: Any, other: Any) -> Any:
    """Null becomes the zero of what it is compared with, if that has one."""
    if value is not None:
        return value
    return 0 if _is_number(other) else "" if isinstance(other, str) else None


def _add(left: Any, right: Any) -> Any:
    given = [v for v in (left, right) if v is not MISSING and v is not None]
    if len(given) == 1:
        return given[0]
    if not given:
        return None if left is right is None else False
    if isinstance(left, str) or isinstance(right, str):
        return _written(left) + _written(right)
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    return _number(lambda a, b: a + b)(left, right)


def _written(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case float():
            return repr(value)
        case int() if -(2**63) <= value < 2**63:
            return str(value)
        case _:
            raise NoValueError


def _number(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def rule(left: Any, right: Any) -> Any:
        if left is MISSING or right is MISSING:
            return False
        if not (_is_number(left) and _is_number(right)):
            raise NoValueError
        try:
            found = operation(left, right)
        except (ZeroDivisionError, OverflowError, ValueError):
            raise NoValueError from None
        if type(found) is int and not -(2**63) <= found < 2**63:
            raise NoValueError
        return found

    return rule


def _remainder(left: Any, right: Any) -> Any:
    if type(left) is int and type(right) is int:
        return left - right * (abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1))
    return math.fmod(left, right)


def _not(value: Any) -> bool:
    if value is MISSING:
        return False
    if not isinstance(value, bool):
        raise NoValueError
    return not value


def _in_list(value: Any, items: Any) -> bool:
    if value is MISSING or items is MISSING or items is None:
        return False
    if isinstance(items, dict):
        return isinstance(value, str) and value in items
    if not isinstance(items, list):
        raise NoValueError
    return any(_same(value, item) for item in items)


def _size(value: Any) -> int:
    if value is MISSING or value is None:
        return 0
    if not isinstance(value, str | list | dict):
        raise NoValueError
    return len(value)


def _of_texts(operation: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    def rule(left: Any, right: Any) -> bool:
        if left is MISSING or right is MISSING:
            return False
        if not (isinstance(left, str) and isinstance(right, str)):
            raise NoValueError
        return operation(left, right)

    return rule


_RULES: dict[str, Callable[..., Any]] = {
    "<": _ordered(lambda a, b: a < b, True),
    "<=": _ordered(lambda a, b: a <= b, True),
    ">": _ordered(lambda a, b: a > b, False),
    ">=": _ordered(lambda a, b: a >= b, False),
    "+": _add,
    "-": _number(lambda a, b: a - b),
    "*": _number(lambda a, b: a * b),
    "%": _number(_remainder),
    "neg": lambda value: _number(lambda a, _: -a)(value, 0),
    "!": _not,
    "in": _in_list,
    "size": _size,
    "contains": _of_texts(lambda a, b: b in a),
    "startsWith": _of_texts(str.startswith),
    "endsWith": _of_texts(str.endswith),
}

# Trees.

_TEXTS = st.text("ab é'\\\n😀", max_size=3)
_NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([2**53 + 1, 2**63 - 1, 10**6])
    | st.floats(-100, 100, width=16)
    | st.sampled_from([0.5, 1e300, 1e-9])
)
_LITERALS = st.builds(lambda v: ("lit", v), _NUMBERS | _TEXTS | st.booleans() | st.none())
PATHS = st.builds(
    lambda root, keys: ("path", root, tuple(keys)),
    st.sampled_from(["event", "async"]),
    st.lists(st.sampled_from(["data", "a", "b", "l", "a b"]), min_size=1, max_size=3).map(
        lambda keys: ["data", *keys]
    ),
)


def _grow(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    binary = st.sampled_from(
        ["<", "<=", ">", ">=", "==", "!=", "in", "+", "-", "*", "%", "||", "&&", "||", "&&"]
    )
    calls = st.sampled_from(["contains", "startsWith", "endsWith"])
    return (
        st.tuples(binary, inner, inner)
        | st.tuples(st.sampled_from(["!", "neg", "size"]), inner)
        | st.tuples(st.just("?:"), inner, inner, inner)
        | st.tuples(st.just("call"), calls, inner, inner)
        | st.builds(lambda items: ("list", tuple(items)), st.lists(inner, max_size=3))
        | st.builds(lambda path: ("has", path), PATHS)
    )


TREES: st.SearchStrategy[Tree] = st.recursive(_LITERALS | PATHS, _grow, max_leaves=10)
