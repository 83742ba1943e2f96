"""What ``+ - * / %`` and the conversions between texts and numbers do."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from stepfold_engine.expressions.values import (
    INT_MAX,
    INT_MIN,
    MISSING,
    EvaluationError,
    Scope,
    is_list,
    is_number,
    kind,
)

TEXT_CHARS_MAX = 4 * 1024 * 1024
"""The longest text that an evaluation may put together; an event is smaller."""

_PLAIN_DIGITS_BELOW = 1e21
"""From here on a double is written with an exponent, as JavaScript and Go's JSON do."""


def add(left: object, right: object, scope: Scope) -> object:
    """``left + right``: where one is missing or null, the other; a text takes anything simple."""
    if left is MISSING or right is MISSING or left is None or right is None:
        return _other(left, right)
    if is_number(left) and is_number(right):
        return bounded(left + right)
    if isinstance(left, str) or isinstance(right, str):
        return _join(text(left), text(right), scope)
    if is_list(left) and is_list(right):
        scope.spend(len(left) + len(right))
        return left + right
    if isinstance(left, bytes) and isinstance(right, bytes):
        scope.spend((len(left) + len(right)) >> 4)
        return left + right
    if isinstance(left, timedelta) and isinstance(right, (datetime, timedelta)):
        return right + left
    if isinstance(left, datetime) and isinstance(right, timedelta):
        return left + right
    raise EvaluationError(f"{kind(left)} and {kind(right)} cannot be added")


def _other(left: object, right: object) -> object:
    for value in (left, right):
        if value is not None and value is not MISSING:
            return value
    # Both are missing: the dialect's answer of every operation that has nothing to work on.
    return None if left is None and right is None else False


def _join(left: str, right: str, scope: Scope) -> str:
    chars = len(left) + len(right)
    if chars > TEXT_CHARS_MAX:
        raise EvaluationError(f"a text of {chars} characters; at most {TEXT_CHARS_MAX} are allowed")
    scope.spend(chars >> 4)
    return left + right


def subtract(left: object, right: object) -> object:
    """``left - right``: of numbers, times and durations."""
    if isinstance(left, datetime) and isinstance(right, (datetime, timedelta)):
        return left - right
    if isinstance(left, timedelta) and isinstance(right, timedelta):
        return left - right
    return _numeric(left, right, lambda a, b: a - b)


def multiply(left: object, right: object) -> object:
    """``left * right``."""
    return _numeric(left, right, lambda a, b: a * b)


def divide(left: object, right: object) -> object:
    """``left / right`` of numbers of events, which are doubles: 5 / 2 is 2.5."""
    return _numeric(left, right, _quotient)


def divide_whole(left: object, right: object) -> object:
    """``left / right`` of whole numbers, cut off towards zero: -5 / 2 is -2."""
    return _numeric(left, right, _truncated)


def remainder(left: object, right: object) -> object:
    """``left % right``, with the sign of left."""
    return _numeric(left, right, _remainder)


def negate(value: object) -> object:
    """``-value``."""
    if isinstance(value, timedelta):
        return -value
    return _numeric(0, value, lambda a, b: a - b if type(b) is int else -b)


def _numeric(left: object, right: object, operation: Callable[[float, float], float]) -> object:
    if left is MISSING or right is MISSING:
        return False
    if not is_number(left) or not is_number(right):
        raise EvaluationError(f"{kind(left)} and {kind(right)} cannot be calculated with")
    return bounded(operation(left, right))


def _quotient(left: float, right: float) -> float:
    if type(left) is int and type(right) is int and right and left % right == 0:
        return left // right
    return left / right


def _truncated(left: float, right: float) -> float:
    if type(left) is not int or type(right) is not int:
        return left / right
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) is (right < 0) else -quotient


def _remainder(left: float, right: float) -> float:
    if type(left) is not int or type(right) is not int:
        return math.fmod(left, right)
    return int(math.copysign(1, left)) * (abs(left) % abs(right))


def bounded(number: float) -> float:
    """The number, if it is a double or fits into 64 bits.

    Raises:
        EvaluationError: it does not.
    """
    if type(number) is int and not INT_MIN <= number <= INT_MAX:
        raise EvaluationError("a whole number of more than 64 bits")
    return number


def text(value: object) -> str:
    """How a value is written into a text.

    >>> text(5.0), text(9.1), text(True)
    ('5', '9.1', 'true')

    Raises:
        EvaluationError: it is a list or a map.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < _PLAIN_DIGITS_BELOW
        return str(int(value)) if whole else repr(value)
    if isinstance(value, int):
        return str(bounded(value))
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{text(value.total_seconds())}s"
    raise EvaluationError(f"{kind(value)} cannot be made a text")
