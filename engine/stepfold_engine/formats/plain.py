"""Events as plain JSON: ``{"name": …, "data": {…}, "id": …, "ts": …, "user": {…}}``."""

import json
import math
from collections.abc import Mapping
from typing import NoReturn, cast

from stepfold_schemas.events import EVENT_BYTES_MAX, Event, InvalidEventError
from stepfold_schemas.strict import NestingError, check_nesting

SHOWN_CHARS = 100
_INFINITE = (math.inf, -math.inf)


def parse_json(body: bytes) -> object:
    """Read JSON strictly.

    Raises:
        ValueError: it is not JSON in UTF-8, holds NaN or Infinity, or is nested too deeply.
    """
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def event_of(item: object, now_ms: int) -> Event:
    """Make an event of what was sent.

    Raises:
        InvalidEventError: a field cannot be used.
    """
    if not isinstance(item, dict):
        raise InvalidEventError("an event is a JSON object")
    given = {str(k).lower(): v for k, v in cast("Mapping[object, object]", item).items()}
    name = _text(given, "name")
    data = _object(given, "data", name)
    data.pop("_inngest", None)
    return Event(
        name,
        written(data, "data", name),
        _text(given, "id"),
        _time(given.get("ts"), name) or now_ms,
        written(_object(given, "user", name), "user", name),
    )


def _text(given: Mapping[str, object], field: str) -> str:
    value = given.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidEventError(f"event {field} is not a string: {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidEventError(f"event {field} is not Unicode text: {error.reason}") from error
    return value


def _object(given: Mapping[str, object], field: str, name: str) -> dict[str, object]:
    value = given.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = "array" if isinstance(value, list) else type(value).__name__
        raise InvalidEventError(f"event {name}: {field} is a JSON {kind}, it must be an object")
    return dict(cast("dict[str, object]", value))


def written(value: dict[str, object], field: str, name: str) -> bytes:
    """Write an event's data, or its user.

    Raises:
        InvalidEventError: not everybody could read it, or it is too large.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode()
        check_nesting(data)
    except UnicodeEncodeError as error:
        why = f"event {name}: {field} holds half of a surrogate pair, which is not Unicode text"
        raise InvalidEventError(why) from error
    except NestingError as error:
        raise InvalidEventError(f"event {name}: {field}: {error}") from error
    except ValueError as error:
        why = f"event {name}: {field} holds a number too large for a double"
        raise InvalidEventError(why) from error
    except RecursionError as error:
        raise InvalidEventError(f"event {name}: {field} is nested too deeply") from error
    if len(data) > EVENT_BYTES_MAX:
        why = f"event {name}: {len(data)} bytes, the limit is {EVENT_BYTES_MAX}"
        raise InvalidEventError(why)
    return data


def _time(value: object, name: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value in _INFINITE:
        raise InvalidEventError(
            f"event {name}: ts is not a number of milliseconds: {_shown(value)}"
        )
    return int(value)


def _shown(value: object) -> str:
    try:
        return json.dumps(value)[:SHOWN_CHARS]
    except RecursionError:
        return "something that is nested too deeply"
