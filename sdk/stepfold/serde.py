"""Values to JSON and back, through pydantic; the only module that knows it.

Rules:

* A result always goes through JSON, also while its run is in memory, so that a function sees the
  same value hot and replayed.
* What comes back is plain JSON, unless the return annotation names something richer (a model, a
  dataclass, a datetime, …): then it is read back as that.
"""

import json
import logging
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import pydantic
import pydantic_core

_log = logging.getLogger("stepfold")

OUTCOME_BYTES_MAX = 4 * 1024 * 1024
"""The largest result of a step or a function, as JSON."""

DIGITS_MAX = 4_300
"""The longest whole number that Python reads."""

_DIGITS_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")

_PLAIN: frozenset[object] = frozenset(
    (None, type(None), bool, int, float, str, object, Any, list, dict, Sequence, Mapping)
)

Reader = Callable[[bytes], Any]
"""Reads JSON back into what an annotation says."""


class UnserializableError(Exception):
    """A value cannot be written as JSON, or does not read back as what was declared."""


def dumps(value: object) -> bytes:
    """Write a value as JSON in UTF-8.

    Models, dataclasses, datetimes, enums, UUIDs, sets and the like are written as pydantic does.

    Raises:
        UnserializableError: JSON cannot hold it; the message says which type is at fault.
    """
    if value is None:
        return b"null"
    try:
        data = pydantic_core.to_json(value, inf_nan_mode="constants")
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix("Error serializing to JSON: ")
        raise UnserializableError(f"a {_type_name(value)}: {reason}") from error
    doubtful = b"NaN" in data or b"Infinity" in data
    if not doubtful and len(data) > DIGITS_MAX:
        doubtful = b"0" * (DIGITS_MAX + 1) in data.translate(_DIGITS_TO_ZEROS)
    if doubtful:
        _check_numbers(value, data)
    return data


def _check_numbers(value: object, data: bytes) -> None:
    """Refuse what is no number in JSON, or cannot be read back; texts may hold the same."""
    try:
        json.loads(data, parse_constant=_refuse_constant, parse_int=_check_digits)
    except ValueError as error:
        raise UnserializableError(f"a {_type_name(value)} that holds {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}; JSON has no NaN or Infinity")


def _check_digits(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        msg = f"a whole number of {len(digits)} digits; at most {DIGITS_MAX} can be read back"
        raise ValueError(msg)
    return 0


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def loads(data: bytes) -> Any:
    """Read JSON as plain values."""
    try:
        return pydantic_core.from_json(data)
    except ValueError:
        # It reads no more than some 200 levels of nesting, but writes them.
        return json.loads(data)


def reader_of(function: Callable[..., object]) -> Reader | None:
    """Return what reads a function's result back; None if plain JSON does.

    An annotation that cannot be resolved counts as none.
    """
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    annotations = getattr(function, "__annotations__", None)
    if not annotations or "return" not in annotations:
        return None
    code = getattr(function, "__code__", None)
    if code is None:
        return _make_reader(function)
    if code not in _readers:
        _readers[code] = _make_reader(function)
    return _readers[code]


_readers: WeakKeyDictionary[types.CodeType, Reader | None] = WeakKeyDictionary()


def _make_reader(function: Callable[..., object]) -> Reader | None:
    try:
        hint: Any = typing.get_type_hints(function, include_extras=True).get("return")
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        _warn(function, error)
        return None
    if _is_plain(hint):
        return None
    try:
        adapter = pydantic.TypeAdapter[Any](hint)
    except _UNUSABLE as error:
        _warn(function, error)
        return None

    def read(data: bytes) -> Any:
        try:
            return adapter.validate_json(data)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the value"
            msg = f"it does not read back as {_shown(hint)}: {place}: {first['msg']}"
            raise UnserializableError(msg) from error

    return read


_UNUSABLE = (
    pydantic.errors.PydanticUserError,
    pydantic_core.SchemaError,
    TypeError,
    NameError,
)


def _warn(function: Callable[..., object], error: Exception) -> None:
    _log.warning(
        "%s: its return annotation cannot be used, so that its results come back as plain JSON: %s",
        getattr(function, "__qualname__", function),
        str(error).partition("\n")[0],
    )


def _shown(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _is_plain(hint: object) -> bool:
    """Say whether JSON alone gives back what the annotation says."""
    if isinstance(hint, typing.TypeVar):
        return True
    origin = typing.get_origin(hint)
    if origin is None:
        return _in_plain(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType, list, Sequence):
        return all(_is_plain(argument) for argument in arguments)
    if origin in (dict, Mapping):
        return arguments[0] is str and _is_plain(arguments[1])
    return False


def _in_plain(hint: object) -> bool:
    try:
        return hint in _PLAIN
    except TypeError:
        return False
