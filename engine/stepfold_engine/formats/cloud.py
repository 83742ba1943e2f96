"""CloudEvents 1.0 in Kafka records: binary (``ce_*`` headers) and structured JSON.

Source: the CloudEvents specification, its JSON event format and its Kafka protocol binding.

============  ==========================================================================
an event's    is a CloudEvent's
============  ==========================================================================
name          ``type``
id            ``source/id``: an id is unique only for its source
ts            ``time``
data          ``data`` if that is a JSON object; any other value is ``{"value": …}``, and
              bytes that are no JSON are ``{"base64": …}``
user          ``{"cloudevent": {…}}``: all other attributes
============  ==========================================================================
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from stepfold_engine.formats.plain import parse_json, written
from stepfold_engine.spans import sender_of, traceparent
from stepfold_schemas.events import (
    EVENT_TS_MAX_MS,
    EVENT_TS_MIN_MS,
    Event,
    InvalidEventError,
)

STRUCTURED = "application/cloudevents"
VERSION_HEADER = "ce_specversion"
SOURCE = "stepfold"
REQUIRED = ("specversion", "type", "source", "id")
_DATA = ("data", "data_base64")


def of_headers(headers: Mapping[str, bytes], value: bytes) -> Event:
    """Read a CloudEvent in binary mode.

    Raises:
        InvalidEventError: an attribute is missing or wrong, or the data is not what it says.
    """
    attributes = {
        name.removeprefix("ce_"): _header(name, content)
        for name, content in headers.items()
        if name.startswith("ce_")
    }
    kind = _header("content-type", headers.get("content-type", b""))
    return _event(attributes, _data_of(value, kind))


def headers_of(event: Event) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of binary mode for an event that is written as our Avro.

    To who knows CloudEvents, the whole of our event is the data.
    """
    event_id = event.id or event.internal
    said = {
        VERSION_HEADER: "1.0",
        "ce_type": event.name,
        "ce_source": SOURCE,
        "ce_id": event_id,
        "content-type": "application/avro",
    }
    if EVENT_TS_MIN_MS <= event.ts <= EVENT_TS_MAX_MS:
        said["ce_time"] = datetime.fromtimestamp(event.ts / 1000, UTC).isoformat()
    if (sender := sender_of(event_id)) is not None:
        said["traceparent"] = traceparent(sender)
    return tuple((name, text.encode()) for name, text in said.items())


def of_json(given: Mapping[str, object]) -> Event:
    """Read a CloudEvent in structured mode.

    Raises:
        InvalidEventError: an attribute is missing or wrong, or the data is not what it says.
    """
    attributes: dict[str, str] = {}
    for name, value in given.items():
        if name in _DATA or value is None:
            continue
        if isinstance(value, dict | list):
            raise InvalidEventError(f"CloudEvent: attribute {name} is no single value")
        attributes[name] = value if isinstance(value, str) else str(value)
    data = given.get("data")
    encoded = given.get("data_base64")
    if encoded is not None:
        data = _data_of(_unpacked(encoded), attributes.get("datacontenttype", ""))
    return _event(attributes, data)


def _event(attributes: Mapping[str, str], data: object) -> Event:
    missing = [name for name in REQUIRED if not attributes.get(name)]
    if missing:
        raise InvalidEventError(f"CloudEvent without {', '.join(missing)}")
    if not attributes["specversion"].startswith("1."):
        version = attributes["specversion"]
        raise InvalidEventError(f"CloudEvent of specversion {version!r}; 1.0 can be read")
    name = attributes["type"]
    more = {key: value for key, value in attributes.items() if key not in ("type", "id")}
    plain: dict[str, object] = (
        cast("dict[str, object]", data)
        if isinstance(data, dict)
        else {}
        if data is None
        else {"value": data}
    )
    return Event(
        name,
        written(plain, "data", name),
        f"{attributes['source']}/{attributes['id']}",
        _time_ms(attributes.get("time", "")),
        written({"cloudevent": more}, "user", name),
    )


def _time_ms(text: str) -> int:
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidEventError(f"CloudEvent: time {text!r} is no RFC 3339 time") from error


def _data_of(value: bytes, kind: str) -> object:
    """Return data as a JSON value; bytes of another kind in base64."""
    if not value:
        return None
    kind = kind.partition(";")[0].strip().lower()
    if not kind or kind.endswith(("/json", "+json")):
        try:
            return parse_json(value)
        except ValueError as error:
            if kind:
                raise InvalidEventError(f"CloudEvent: its data is not JSON: {error}") from error
    if kind.startswith("text/"):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"base64": base64.b64encode(value).decode()}


def _unpacked(encoded: object) -> bytes:
    try:
        return base64.b64decode(str(encoded), validate=True)
    except ValueError as error:
        raise InvalidEventError("CloudEvent: data_base64 is not base64") from error


def _header(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidEventError(f"header {name} is not UTF-8") from error
