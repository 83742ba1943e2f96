"""Texts and JSON payloads taken strictly: what a log may hold is what all its readers can read.

Python reads more than JSON (NaN, UTF-16, halves of surrogate pairs) and JSON allows more than
Python reads (any depth, any number). Both are refused here, in time in proportion to the text:
what is doubtful is found with fast searches, which texts may set off too, and then looked at.
"""

import json
import re
from itertools import accumulate
from typing import NoReturn, cast

NESTING_MAX = 500
"""How deep lists and maps may nest, so that a reader with half of its stack left can follow."""

_SHOWN_CHARS_MAX = 80

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_DIGITS_TO_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBER = b"0" * 309
_LARGE_EXPONENTS = (b"0e000", b"0e+000")
_HALF_PAIRS = (b"\\ud", b"\\uD")
_HALF_PAIR = "holds half of a surrogate pair, which is not Unicode text"


class NestingError(ValueError):
    """JSON is nested deeper than everybody can read."""


def check_text(what: str, text: str, chars_max: int) -> None:
    """Do nothing if a text is not too long, and can be written as UTF-8.

    Args:
        what: how an error names it.
        text: the text.
        chars_max: how long it may be.

    Raises:
        ValueError: it is longer, holds half of a surrogate pair, or is no text at all.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise ValueError(f"{what} is a {type(text).__name__}, not text")  # noqa: TRY004 - one kind
    cut = text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"
    if len(text) > chars_max:
        raise ValueError(f"{what} {cut!r} has {len(text)} characters, the limit is {chars_max}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {cut!r} {_HALF_PAIR}") from error


def check_name(what: str, text: str, chars_max: int) -> None:
    """Do nothing if a text can be a name: ``check_text``, and it is not empty.

    Raises:
        ValueError: it cannot.
    """
    check_text(what, text, chars_max)
    if not text:
        raise ValueError(f"{what} is empty")


def read_object(data: bytes) -> dict[str, object]:
    """Return the object that these bytes say.

    >>> read_object(b'{"a": 1}')
    {'a': 1}

    Raises:
        ValueError: they are no JSON object in UTF-8, or one that not everybody can read; the
            message says why.
    """
    value = read(data)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the bytes are wrong, not a type
    return cast("dict[str, object]", value)


def read(data: bytes) -> object:
    """Return the value that these bytes say.

    Raises:
        ValueError: they are no JSON in UTF-8, or such that not everybody can read it.
    """
    check_nesting(data)
    value: object = _DECODER.decode(data.decode())
    if _is_doubtful(data):
        _check_writable(value)
    return value


def check_nesting(data: bytes) -> None:
    """Do nothing if these bytes, if they are JSON, are not nested too deeply.

    Raises:
        NestingError: they are.
    """
    if data.count(b"[") + data.count(b"{") <= NESTING_MAX:
        return
    brackets = _STRING.sub(b"", data).translate(None, _ALL_BUT_BRACKETS)
    deepest = max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
    if deepest > NESTING_MAX:
        raise NestingError(f"it is nested {deepest} levels deep, the limit is {NESTING_MAX}")


def _is_doubtful(data: bytes) -> bool:
    zeros = data.translate(_DIGITS_TO_ZEROS)
    return (
        any(half in data for half in _HALF_PAIRS)
        or _LONG_NUMBER in zeros
        or any(exponent in zeros for exponent in _LARGE_EXPONENTS)
    )


def _check_writable(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it {_HALF_PAIR}") from error
    except ValueError as error:
        raise ValueError("it holds a number too large for a double") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
