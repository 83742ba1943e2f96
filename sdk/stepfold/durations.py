"""Durations and times as authors write them, to milliseconds.

A duration is text (``"3d"``, ``"7 days"``, ``"1h30m"``), a ``timedelta``, or an ``int`` of
milliseconds. A time is an aware ``datetime`` or ISO 8601 text with an offset.
"""

import logging
import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction

Duration = str | int | timedelta
"""``"90s"``, ``"1h30m"``, ``"7 days"``, a ``timedelta``, or milliseconds."""

DAY_MS = 86_400_000
WAIT_MS_MAX = 366 * DAY_MS
"""The longest sleep or wait."""

HINT_BELOW_MS = 1_000
"""A number below this was probably meant as seconds."""

TEXT_CHARS_MAX = 200
"""The longest text that is read. A number of a million digits would take minutes to convert."""

_SHOWN_CHARS_MAX = 80
_SHOWN_BITS_MAX = 256

_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": DAY_MS,
    "w": 7 * DAY_MS,
}
_WORDS = {
    "millisecond": "ms",
    "milliseconds": "ms",
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "min": "m",
    "mins": "m",
    "minute": "m",
    "minutes": "m",
    "hr": "h",
    "hrs": "h",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
    "week": "w",
    "weeks": "w",
}
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)[\s,]*")
_EXAMPLES = '"30s", "1h30m", "7 days"'

_log = logging.getLogger("stepfold")


def duration_ms(value: Duration, what: str = "duration") -> int:
    """Return a duration in milliseconds.

    Args:
        value: the duration.
        what: how an error names it.

    Raises:
        TypeError: it is a float or something else that is no duration.
        ValueError: it cannot be read, is negative, or is longer than 366 days.

    >>> duration_ms("1w2d3h4m5s6ms")
    788645006
    >>> duration_ms("7 days") == duration_ms(timedelta(days=7)) == 604_800_000
    True
    """
    if isinstance(value, str):
        ms = _parse(value, what)
    elif isinstance(value, timedelta):
        ms = value // timedelta(milliseconds=1)
    else:
        ms = _checked_int(value, what)
    if ms < 0:
        raise ValueError(f"{what} is negative: {shown(value)}")
    if ms > WAIT_MS_MAX:
        days = WAIT_MS_MAX // DAY_MS
        raise ValueError(f"{what} {shown(value)} is longer than {days} days, the limit")
    return ms


def limit_ms(value: Duration | None, what: str) -> int:
    """Return how long something may take, in milliseconds; 0 if that is not limited.

    Args:
        value: the limit, or None for none.
        what: how an error names it.

    Raises:
        TypeError: it is no duration.
        ValueError: it is one that ``duration_ms`` refuses, or is below a millisecond, which nothing
            could keep.

    >>> limit_ms("2s", "timeout"), limit_ms(None, "timeout")
    (2000, 0)
    """
    if value is None:
        return 0
    ms = duration_ms(value, what)
    if ms == 0:
        raise ValueError(f"{what} is {shown(value)}: give at least 1 ms, or none for no limit")
    return ms


def shown(value: object) -> str:
    """Return a value as a message shows it: whatever it is, in one short line.

    >>> shown("3 days"), shown(10**5000)
    ("'3 days'", 'an int of 16610 bits')
    """
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS_MAX:
        # Python refuses to write a number of some thousand digits.
        return f"an int of {value.bit_length()} bits"
    if isinstance(value, str) and len(value) > _SHOWN_CHARS_MAX:
        return f"{value[:_SHOWN_CHARS_MAX]!r}…"
    return repr(value)


def _checked_int(value: object, what: str) -> int:
    if isinstance(value, float):
        msg = f"{what} is a float, {value!r}, which does not say its unit"
        if 0 <= value <= WAIT_MS_MAX / 1000:
            msg += f': write "{value:g}s" for seconds, or {int(value * 1000)} for milliseconds'
        raise TypeError(msg)
    if not isinstance(value, int) or isinstance(value, bool):
        msg = (
            f"{what} is a {type(value).__name__}: write text such as {_EXAMPLES},"
            " a timedelta, or an int of milliseconds"
        )
        raise TypeError(msg)
    if 0 < value < HINT_BELOW_MS:
        _log.warning("%s: %d is %d ms; did you mean '%ds'?", what, value, value, value)
    return value


def _parse(text: str, what: str) -> int:
    if len(text) > TEXT_CHARS_MAX:
        msg = f"{what} {shown(text)} has {len(text)} characters, the limit is {TEXT_CHARS_MAX}"
        raise ValueError(msg)
    total, position, lowered = Fraction(0), 0, text.lower()
    while position < len(lowered):
        part = _PART.match(lowered, position)
        unit = _WORDS.get(part[2], part[2]) if part else ""
        if part is None or unit not in _UNITS_MS:
            position = -1
            break
        total += Fraction(part[1]) * _UNITS_MS[unit]
        position = part.end()
    if position <= 0:
        msg = (
            f"{what} {shown(text)} cannot be read: write numbers with the units"
            f" {', '.join(_UNITS_MS)} or their English words, such as {_EXAMPLES}"
        )
        raise ValueError(msg)
    if total.denominator != 1:
        raise ValueError(f"{what} {shown(text)} is not a whole number of milliseconds")
    return total.numerator


def time_ms(value: datetime | str, what: str = "time") -> int:
    """Return a time in milliseconds since 1970.

    Raises:
        TypeError: it is neither a datetime nor text.
        ValueError: it has no offset, or cannot be read.

    >>> time_ms("1970-01-01T01:00:00+01:00")
    0
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            msg = f"{what} {shown(value)} is not ISO 8601, such as 2030-01-31T09:00:00+01:00"
            raise ValueError(msg) from error
        if moment.utcoffset() is None:
            msg = f"{what} {value!r} has no offset: write {value}+00:00, or {value}Z, for UTC"
            raise ValueError(msg)
    elif isinstance(value, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        moment = value
        if moment.utcoffset() is None:
            msg = (
                f"{what} {value!r} is a naive datetime, which names no instant: write"
                " datetime.now(UTC) + …, or add tzinfo=UTC"
            )
            raise ValueError(msg)
    else:
        raise TypeError(f"{what} is a {type(value).__name__}: give an aware datetime or ISO text")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(at_ms: int) -> datetime:
    """Return milliseconds since 1970 as an aware datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=at_ms)
