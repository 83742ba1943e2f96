"""What is thrown at stepfold: JSON values and texts, names, every class that is written down."""

import json
import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

from hypothesis import strategies as st

from stepfold_schemas import messages
from stepfold_schemas.entries import Decision, Entry
from stepfold_schemas.events import Event
from stepfold_schemas.messages import Letter

# Texts.

ANY_TEXT = st.text(st.characters(), max_size=20)
"""Any Unicode, lone surrogates included."""

CLEAN_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)

STRANGE_TEXT = st.sampled_from(
    [
        "", " ", "\0", "a\0b", "a", "a:1", "a:1:1", "a:2", ":1", ":", "a:0", "asyncio.timer",
        "timer", "\ud800", "x\udfffy", "\ud83d\ude00", "\U0001f600", "\u202e\u0000\ufeff", "..",
        "../../etc",
        "*", "a/*", "a.*", "/*", "%00", "'; DROP TABLE runs; --", "\r\nX: 1", "{{7*7}}", "null",
        "__proto__", "n" * 255, "n" * 256,
    ]
) | st.builds(
    lambda text, count: text * count,
    st.sampled_from(["x", "é", "\U0001d54f"]),
    st.sampled_from([300, 999, 1_000, 1_001, 5_000, 1_000_000, 9_000_000]),
)  # fmt: skip

NAMES = ANY_TEXT | STRANGE_TEXT | st.text("a:1~2", min_size=1, max_size=5)
"""Ids and names as nobody should choose them; many collide."""

# JSON.

INTEGERS = (
    st.integers()
    | st.integers(-(2**66), 2**66)
    | st.sampled_from([0, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**308])
    | st.builds(pow, st.just(-10), st.sampled_from([400, 401, 4_001]))  # longer than a message
)
FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [-0.0, 5e-324, 1.7976931348623157e308, 1e15, 1e16, 1e21, 0.1, 1e22]
)
SCALARS = st.none() | st.booleans() | INTEGERS | FINITE | CLEAN_TEXT


def nested(levels: int, inside: object, *, in_map: bool = False) -> Any:
    """Put a value into so many lists, or maps."""
    value = inside
    for _ in range(levels):
        value = {"a": value} if in_map else [value]
    return value


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(CLEAN_TEXT, inner, max_size=4)


JSON = st.recursive(SCALARS, _containers, max_leaves=12)
"""Values that JSON holds: what goes in must come back."""

BIG = st.builds(lambda text, n: text * n, st.sampled_from(["x", "é", "😀", '"', "\\", "\n"]),
                st.sampled_from([1_000, 300_000, 1_100_000, 2_200_000, 4_500_000]))  # fmt: skip

_ODD = (
    st.floats()
    | ANY_TEXT
    | st.sampled_from(["\ud800", float("nan"), float("inf"), -float("inf")])
    | st.builds(pow, st.just(10), st.just(4_400))
    | st.builds(
        nested,
        st.sampled_from([63, 64, 65, 150, 199, 200, 201, 230, 254, 255, 256, 500, 950, 3_000]),
        SCALARS | st.sampled_from(["NaN", "Infinity", float("nan")]),
        in_map=st.booleans(),
    )
)
ODD_JSON = st.recursive(
    SCALARS | _ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
"""Python values of JSON's types, some of which JSON, or UTF-8, or anybody's stack cannot hold."""


def same(left: object, right: object) -> bool:
    """Say whether two values are the same JSON: 1 is not 1.0, nor 0.0 the same as -0.0."""
    return _text(left) == _text(right)


def _text(value: object) -> object:
    # By hand, since json itself gives up on values as deep as are thrown here.
    parts: list[object] = []
    left: list[object] = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            items = typing.cast("dict[object, object]", one)
            parts.append(("{", len(items)))
            for key, inner in items.items():
                left += [inner, key]
        elif isinstance(one, list):
            inners = typing.cast("list[object]", one)
            parts.append(("[", len(inners)))
            left += reversed(inners)
        else:
            parts.append((type(one).__name__, repr(one) if isinstance(one, float) else one))
    return parts


def depth(value: object) -> int:
    """Say how deep lists and maps are nested in a value."""
    deepest, left = 0, [(value, 0)]
    while left:
        one, above = left.pop()
        inner: list[object] = []
        if isinstance(one, dict):
            inner = list(typing.cast("dict[object, object]", one).values())
        elif isinstance(one, list):
            inner = typing.cast("list[object]", one)
        else:
            continue
        deepest = max(deepest, above + 1)
        left += [(i, above + 1) for i in inner]
    return deepest


NUMBERS = st.sampled_from(
    ["1e400", "-1e400", "1E+2", "-0", "-0.0", "0.1e-400", "1e15", "9" * 400, "9" * 4_400, "NaN",
     "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1_000"]
)  # fmt: skip
STRINGS = st.sampled_from(
    [r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"', r'"\u0000"', '"\0"', r'"\x41"', '"\t"',
     '"NaN"', "'a'", '"\u2028"']
)  # fmt: skip


def _objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    keys = st.sampled_from(['""', '"a"', '"a"', r'"\u0061"', '"b"', '"_inngest"']) | STRINGS
    pairs = st.builds("{}:{}".format, keys, inner)
    braces = st.lists(pairs, max_size=4).map(lambda found: "{" + ",".join(found) + "}")
    brackets = st.lists(inner, max_size=4).map(lambda found: "[" + " , ".join(found) + "]")
    return braces | brackets


_DEEP_TEXT = st.builds(
    lambda n, opener, inner: opener * n + inner + {"[": "]", '{"a":': "}"}[opener] * n,
    st.sampled_from([10, 60, 66, 199, 255, 400, 498, 499, 500, 501, 600, 970, 2_000, 100_000]),
    st.sampled_from(["[", '{"a":']),
    st.sampled_from(["1", '"NaN"', "{}"]),
)
JSON_TEXT = st.recursive(
    JSON.map(json.dumps) | NUMBERS | STRINGS | _DEEP_TEXT, _objects, max_leaves=5
)
"""Text that is JSON, or nearly."""

JSON_BYTES = (
    JSON_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.builds("{{\"a\":{}}}".format, JSON_TEXT).map(lambda t: t.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=30)
    | st.sampled_from(
        [b"", b"null", b"[]", b"1", b'{"a":1', b'{"a":1}}', b'{"a":1,}', b"\xff\xfe{\x00}\x00",
         b'\xef\xbb\xbf{"a":1}', '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32"),
         b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"' + b"x" * 3_000_000 + b'"}',
         b'{"a":[' + b"1e15," * 600_000 + b"1]}", b" " * 100_000 + b"{}"]
    )
)  # fmt: skip
"""Bytes for which an event's data may be taken."""

# What is written down.

_INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5) | st.sampled_from([2**40, 2**62])
_BYTES = st.binary(max_size=24) | st.binary(min_size=16, max_size=16) | st.just(b"null")
_PLAIN: dict[object, st.SearchStrategy[Any]] = {
    int: _INT64,
    str: CLEAN_TEXT,
    bytes: _BYTES,
    bool: st.booleans(),
    float: st.floats(),
}

ENTRIES: tuple[type, ...] = typing.get_args(Entry)
MESSAGES: tuple[type, ...] = typing.get_args(messages.Message)
WRITTEN: tuple[type, ...] = (*ENTRIES, *MESSAGES, Decision, Letter, Event)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return any value that a field of this type may have."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if hint == Entry:
        return st.one_of([instances(cls) for cls in ENTRIES])
    if isinstance(hint, types.UnionType):
        return st.one_of([st.none() if a is type(None) else values_of(a)
                          for a in typing.get_args(hint)])  # fmt: skip
    if typing.get_origin(hint) is list:
        return st.lists(values_of(typing.get_args(hint)[0]), max_size=3)
    assert is_dataclass(hint), hint
    return instances(typing.cast("type", hint))


def instances(cls: type) -> st.SearchStrategy[Any]:
    """Return any instance of a class that is written down."""
    hints = typing.get_type_hints(cls)
    return st.deferred(lambda: st.builds(cls, *(values_of(hints[f.name]) for f in fields(cls))))


ANYTHING_WRITTEN: st.SearchStrategy[Any] = st.one_of([instances(cls) for cls in WRITTEN])
