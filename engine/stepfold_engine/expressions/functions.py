"""The functions and methods of the dialect. A method takes its target as the first argument.

Where an argument is missing a function is not called: its answer is ``of_missing``. A function
raises EvaluationError, or what Python raises for such a value; the caller makes one of the other.
"""

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stepfold_engine.expressions.arithmetic import bounded, text
from stepfold_engine.expressions.regexes import searcher
from stepfold_engine.expressions.values import (
    EvaluationError,
    Scope,
    is_list,
    is_map,
    is_number,
    kind,
)


@dataclass(frozen=True, slots=True)
class Function:
    """A function: what it does, and how many arguments it takes (a method's target included)."""

    call: Callable[..., object]
    arguments: int = 1
    of_missing: object = False


_SECONDS_BELOW = 100_000_000_000
"""A number below this is a time in seconds, one above in milliseconds: the line is in 1973
and 5138."""

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,20}")
_DURATION = re.compile(r"[+-]?(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|[smhdw])")
_PATTERN_WORK = 1_000
"""What it costs to compile a pattern that comes from an event."""

_UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 604_800,
}


def _text_of(value: object, scope: Scope) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"it takes a text, not {kind(value)}")
    scope.spend(len(value) >> 4)
    return value


def _size(_: Scope, value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, (str, bytes)) or is_list(value) or is_map(value):
        return len(value)
    raise EvaluationError(f"{kind(value)} has no size")


def _contains(scope: Scope, value: object, part: object) -> bool:
    return _text_of(part, scope) in _text_of(value, scope)


def _starts_with(scope: Scope, value: object, part: object) -> bool:
    return _text_of(value, scope).startswith(_text_of(part, scope))


def _ends_with(scope: Scope, value: object, part: object) -> bool:
    return _text_of(value, scope).endswith(_text_of(part, scope))


def _matches(scope: Scope, value: object, pattern: object) -> bool:
    if not callable(pattern):
        scope.spend(_PATTERN_WORK)
        pattern = searcher(_text_of(pattern, scope))
    subject = _text_of(value, scope)
    scope.spend(10 + (len(subject) >> 2))
    return bool(pattern(subject))


def _lowercase(scope: Scope, value: object) -> str:
    return _text_of(value, scope).lower()


def _uppercase(scope: Scope, value: object) -> str:
    return _text_of(value, scope).upper()


def _b64decode(scope: Scope, value: object) -> str:
    return base64.b64decode(_text_of(value, scope), validate=True).decode()


def _json_parse(scope: Scope, value: object) -> object:
    encoded = _text_of(value, scope)
    scope.spend(len(encoded) >> 2)
    return json.loads(encoded)


def _int(_: Scope, value: object) -> float:
    if isinstance(value, datetime):
        return int(value.timestamp())
    if isinstance(value, str):
        if not _WHOLE_NUMBER.fullmatch(value):
            raise EvaluationError(f"{value[:40]!r} is no whole number")
        return bounded(int(value))
    if not is_number(value):
        raise EvaluationError(f"{kind(value)} cannot be made a whole number")
    return bounded(int(value))


def _uint(scope: Scope, value: object) -> float:
    number = _int(scope, value)
    if number < 0:
        raise EvaluationError("uint() takes nothing below 0")
    return number


def _double(_: Scope, value: object) -> float:
    if isinstance(value, str) and "_" in value:
        # Python reads 1_000 as a number; CEL does not.
        raise EvaluationError(f"{value[:40]!r} is no number")
    if is_number(value) or isinstance(value, str):
        return float(value)
    raise EvaluationError(f"{kind(value)} cannot be made a number")


def _bool(_: Scope, value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "True": True, "false": False, "False": False, "1": True, "0": False}
    if not isinstance(value, str) or value not in known:
        raise EvaluationError(f"{kind(value)} cannot be made a bool")
    return known[value]


def _string(_: Scope, value: object) -> str:
    return text(value)


def _bytes(scope: Scope, value: object) -> bytes:
    return value if isinstance(value, bytes) else _text_of(value, scope).encode()


def _dyn(_: Scope, value: object) -> object:
    return value


def _date(scope: Scope, value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if is_number(value):
        return _at(value if abs(value) >= _SECONDS_BELOW else value * 1000)
    moment = datetime.fromisoformat(_text_of(value, scope).strip())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _at(at_ms: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)


def _duration(scope: Scope, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    written = _text_of(value, scope)
    if not _DURATION.fullmatch(written):
        raise EvaluationError(f"{written[:40]!r} is no duration; write it as '90s' or '1h30m'")
    seconds = sum(float(n) * _UNIT_SECONDS[unit] for n, unit in _DURATION_PART.findall(written))
    return timedelta(seconds=-seconds if written.startswith("-") else seconds)


def _now(scope: Scope) -> datetime:
    if scope.now_ms is None:
        # One evaluation sees one time.
        scope.now_ms = time.time_ns() // 1_000_000
    return _at(scope.now_ms)


def _now_plus(scope: Scope, value: object) -> datetime:
    return _now(scope) + _duration(scope, value)


def _now_minus(scope: Scope, value: object) -> datetime:
    return _now(scope) - _duration(scope, value)


def _part(of_time: Callable[[datetime], int], unit_ms: int = 0) -> Callable[[Scope, object], int]:
    """A part of a time; of a duration, how many of the unit it lasts, if a unit is given."""

    def part(_: Scope, value: object) -> int:
        if isinstance(value, datetime):
            return of_time(value)
        if isinstance(value, timedelta) and unit_ms:
            return int(value / timedelta(milliseconds=unit_ms))
        raise EvaluationError(f"{kind(value)} is not a time")

    return part


FUNCTIONS = {
    "b64decode": Function(_b64decode),
    "bool": Function(_bool),
    "bytes": Function(_bytes),
    "date": Function(_date),
    "double": Function(_double),
    "duration": Function(_duration),
    "dyn": Function(_dyn),
    "int": Function(_int),
    "json_parse": Function(_json_parse),
    "lowercase": Function(_lowercase),
    "matches": Function(_matches, 2),
    "now": Function(_now, 0),
    "now_minus": Function(_now_minus),
    "now_plus": Function(_now_plus),
    "size": Function(_size, of_missing=0),
    "string": Function(_string),
    "timestamp": Function(_date),
    "uint": Function(_uint),
    "uppercase": Function(_uppercase),
}

METHODS = {
    "contains": Function(_contains, 2),
    "endsWith": Function(_ends_with, 2),
    "getDate": Function(_part(lambda t: t.day)),
    "getDayOfMonth": Function(_part(lambda t: t.day - 1)),
    "getDayOfWeek": Function(_part(lambda t: t.isoweekday() % 7)),
    "getDayOfYear": Function(_part(lambda t: t.timetuple().tm_yday - 1)),
    "getFullYear": Function(_part(lambda t: t.year)),
    "getHours": Function(_part(lambda t: t.hour, 3_600_000)),
    "getMilliseconds": Function(_part(lambda t: t.microsecond // 1000, 1)),
    "getMinutes": Function(_part(lambda t: t.minute, 60_000)),
    "getMonth": Function(_part(lambda t: t.month - 1)),
    "getSeconds": Function(_part(lambda t: t.second, 1000)),
    "matches": Function(_matches, 2),
    "size": Function(_size, of_missing=0),
    "startsWith": Function(_starts_with, 2),
}

WHOLE = frozenset({"int", "uint", "size"})
"""The functions whose answer is a whole number, and not a double that happens to be one."""
