"""The values of the dialect and what its operators do to them.

A value is what JSON gives (None, bool, int, float, str, list, dict), bytes, a point in time or a
span of time. ``MISSING`` is the value of a path that is not there. It is not null: it equals
null and nothing else, not even another missing path, and it is less than everything.

Numbers of events are doubles in the dialect; here a whole number stays exact, so that ids above
2**53 do not run together, and division alone needs to know where its operands come from.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeGuard, cast

DEPTH_MAX = 64
"""How deep two lists or maps are compared; deeper ones are an error, and equal to nothing."""

WORK_MAX = 2_000_000
"""How much one evaluation may do, in steps of about 0.1 µs: a fraction of a second."""

INT_MAX = 2**63 - 1
INT_MIN = -(2**63)


class EvaluationError(Exception):
    """The expression has no value for these events; ``||`` and ``&&`` may still decide."""


class WorkExceededError(Exception):
    """The evaluation does more than it may. Nothing absorbs this, or it would go on."""


class Missing:
    """The type of ``MISSING``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()

Items = list[object]
Fields = dict[str, object]


class Scope:
    """What one evaluation works with; never shared.

    Attributes:
        event: the trigger.
        candidate: the event that is tested, or MISSING.
        now_ms: the time that ``now()`` gives, or None for the clock's.
        names: the values of the macros' variables, the outermost first.
        left: how much work may still be done.
    """

    __slots__ = ("candidate", "event", "left", "names", "now_ms")

    def __init__(self, event: object, candidate: object, now_ms: int | None) -> None:
        self.event = event
        self.candidate = candidate
        self.now_ms = now_ms
        self.names: list[object] = []
        self.left = WORK_MAX

    def spend(self, work: int) -> None:
        """Count work before it is done."""
        self.left -= work
        if self.left < 0:
            raise WorkExceededError("it takes too much work for these events")


def kind(value: object) -> str:
    """What the value is called in messages."""
    if isinstance(value, Mapping):
        return "a map"
    return _KINDS.get(type(value), type(value).__name__)


_KINDS: dict[type, str] = {
    Missing: "nothing",
    type(None): "null",
    bool: "a bool",
    int: "a number",
    float: "a number",
    str: "a text",
    bytes: "bytes",
    list: "a list",
    datetime: "a time",
    timedelta: "a duration",
}


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number; true and false are none."""
    return type(value) is int or type(value) is float


def is_list(value: object) -> TypeGuard[Items]:
    """Whether it is a list."""
    return isinstance(value, list)


def is_map(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether it is a map."""
    return isinstance(value, Mapping)


def truthy(value: object) -> bool:
    """Whether ``||``, ``&&`` and ``?:`` take it for true, as JavaScript does."""
    if isinstance(value, bool):
        return value
    if value is None or value is MISSING:
        return False
    if isinstance(value, (int, float)):
        # Not by ``math.isnan``, which takes no whole number beyond a double's range.
        return value != 0 and value == value  # noqa: PLR0124 - a NaN is not equal to itself
    return value != "" if isinstance(value, str) else True


def child(value: object, key: str) -> object:
    """What is below the key, or MISSING if there is no such thing or nothing below."""
    return value.get(key, MISSING) if is_map(value) else MISSING


def equal(left: object, right: object, scope: Scope, depth: int = DEPTH_MAX) -> bool:
    """``left == right``."""
    if left is MISSING or right is MISSING:
        return left is None or right is None
    if is_number(left):
        return is_number(right) and left == right
    if isinstance(left, str):
        scope.spend(len(left) >> 6)
        return left == right
    if is_list(left):
        return is_list(right) and _equal_lists(left, right, scope, depth)
    if is_map(left):
        return is_map(right) and _equal_maps(left, right, scope, depth)
    return type(left) is type(right) and left == right


def _equal_lists(left: Items, right: Items, scope: Scope, depth: int) -> bool:
    if len(left) != len(right):
        return False
    _enter(len(left), scope, depth)
    return all(equal(a, b, scope, depth - 1) for a, b in zip(left, right, strict=True))


def _equal_maps(
    left: Mapping[str, object], right: Mapping[str, object], scope: Scope, depth: int
) -> bool:
    if len(left) != len(right):
        return False
    _enter(len(left), scope, depth)
    return all(key in right and equal(left[key], right[key], scope, depth - 1) for key in left)


def _enter(items: int, scope: Scope, depth: int) -> None:
    if not depth:
        raise EvaluationError(f"values nested deeper than {DEPTH_MAX} levels cannot be compared")
    scope.spend(2 * items)


def compare(left: object, right: object, scope: Scope) -> int | None:
    """Negative, 0 or positive as left is less, the same or greater; None if there is a NaN.

    Raises:
        EvaluationError: the two have no order.
    """
    if left is MISSING:
        return -1
    if right is MISSING:
        return 1
    if left is None:
        left = _zero(right)
    if right is None:
        right = _zero(left)
    if is_number(left) and is_number(right):
        return _order(left, right)
    if type(left) is not type(right) or type(left) not in _ORDERED:
        raise EvaluationError(f"{kind(left)} and {kind(right)} have no order")
    if isinstance(left, str):
        scope.spend(len(left) >> 6)
    # Each of these types has an order of its own, which a checker cannot see.
    return _order(cast("float", left), cast("float", right))


_ORDERED = frozenset({str, bytes, bool, datetime, timedelta})


def _order(left: float, right: float) -> int | None:
    if left < right:
        return -1
    if left > right:
        return 1
    return 0 if left == right else None


def _zero(other: object) -> object:
    if is_number(other):
        return 0
    return "" if isinstance(other, str) else None


def canonical(value: object) -> str:
    """One text for all values that are equal, as JSON; values that differ get different texts.

    "" stands for what has no such text: no JSON, or nested deeper than ``DEPTH_MAX``, which is
    equal to nothing.

    >>> canonical(5.0), canonical({"b": None, "a": [True, 1e2]}), canonical(MISSING)
    ('5', '{"a":[true,100],"b":null}', 'null')
    """
    if isinstance(value, str):
        return json.dumps(value)
    try:
        plain = normalize(value, _uncounted)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (EvaluationError, ValueError):
        return ""


def normalize(value: object, spend: Callable[[int], None], depth: int = DEPTH_MAX) -> object:
    """The value in JSON's types, with whole numbers as ints; MISSING is null.

    Args:
        value: an event's, or one that an expression made of it. The latter may hold the same
            list many times, and so be far larger than the work that made it.
        spend: counts the work.
        depth: how many levels may follow.

    Raises:
        EvaluationError: it has no such form.
    """
    if isinstance(value, str):
        spend(1 + (len(value) >> 4))
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (bool, int)):
        return value
    if not depth:
        raise EvaluationError(f"the value is nested deeper than {DEPTH_MAX} levels")
    if is_list(value):
        spend(2 * len(value))
        return [normalize(item, spend, depth - 1) for item in value]
    if is_map(value):
        spend(2 * len(value))
        return {key: normalize(item, spend, depth - 1) for key, item in value.items()}
    if value is MISSING:
        return None
    raise EvaluationError(f"JSON has no form for {kind(value)}")


def _uncounted(_: int) -> None:
    """An event's own value is bounded by the event's size."""
