"""Events as functions see them, and as senders write them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict, cast

from stepfold import serde
from stepfold.durations import moment, time_ms
from stepfold_schemas import events


@dataclass(frozen=True, slots=True)
class Event:
    """An event, as a function sees it.

    Attributes:
        name: what happened, such as ``shop/order.created``.
        data: what its sender said about it.
        id: the id its sender gave it, else the one it was given when it was taken in.
        ts: when it happened.
        user: who it concerns.
    """

    name: str
    data: dict[str, Any]
    id: str
    ts: datetime
    user: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to send.

    Attributes:
        name: what happened, such as ``shop/order.created``.
        data: a JSON object; whatever pydantic can write as one.
        id: sent again with the same id within a day, it does not start a function twice.
        ts: when it happened: an aware datetime, or milliseconds since 1970. In the future, it
            delays the start of functions. None means now.
        user: a JSON object about who it concerns.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: str | None = None
    ts: datetime | int | None = None
    user: Mapping[str, Any] | None = None


class EventDict(TypedDict, total=False):
    """An event to send, as a dict with the attributes of ``NewEvent``."""

    name: str
    data: Mapping[str, Any]
    id: str | None
    ts: datetime | int | None
    user: Mapping[str, Any] | None


Sendable = NewEvent | EventDict | Mapping[str, Any]
"""What can be sent: a ``NewEvent``, or a dict with the same attributes."""

_FIELDS = frozenset(("name", "data", "id", "ts", "user"))


def view(event: events.Event) -> Event:
    """Show an event of the log to a function."""
    return Event(
        event.name,
        serde.loads(event.data),
        event.id or event.internal,
        moment(event.ts),
        serde.loads(event.user),
    )


def plain(event: events.Event) -> dict[str, object]:
    """Return an event as plain JSON values, as expressions see it."""
    return {
        "name": event.name,
        "data": serde.loads(event.data),
        "id": event.id or event.internal,
        "ts": event.ts,
        "user": serde.loads(event.user),
    }


def listed(given: Sendable | Sequence[Sendable]) -> list[NewEvent]:
    """Return what was given to be sent as a list of checked events.

    Raises:
        TypeError: something else than an event was given.
        ValueError: an event has no name, or a field that events do not have.
    """
    if isinstance(given, NewEvent | Mapping):
        return [_checked(given)]
    if isinstance(given, str) or not isinstance(given, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise TypeError(f"an event is a NewEvent or a dict, not a {type(given).__name__}")
    if len(given) > events.EVENTS_A_REQUEST_MAX:
        limit = events.EVENTS_A_REQUEST_MAX
        raise ValueError(f"{len(given)} events at once, the limit is {limit}: send them in parts")
    return [_checked(one) for one in given]


def _checked(given: Sendable) -> NewEvent:
    if isinstance(given, NewEvent):
        event = given
    elif isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        unknown = sorted(set(given) - _FIELDS)
        if unknown:
            fields = "name, data, id, ts, user"
            raise ValueError(
                f"an event has no field {', '.join(map(repr, unknown))}, only {fields}"
            )
        if "name" not in given:
            raise ValueError(f"an event needs a name: {dict(given)!r}")
        event = NewEvent(**cast("dict[str, Any]", given))  # what it holds is checked below
    else:
        raise TypeError(f"an event is a NewEvent or a dict, not a {type(given).__name__}")
    if not event.name or not isinstance(event.name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise ValueError(f"an event's name is text that is not empty, not {event.name!r}")
    return event


def written(event: NewEvent, *, now_ms: int, default_id: str = "") -> events.Event:
    """Return an event as it lies in the log.

    Raises:
        ValueError: it may not enter the log; the message says why.
        TypeError: its data is no JSON object.
    """
    made = events.Event(
        event.name,
        _object(event, "data", event.data),
        event.id or default_id,
        stamp_ms(event, now_ms),
        _object(event, "user", event.user),
        received_ms=now_ms,
    )
    events.check_event(made)
    return made


def stamp_ms(event: NewEvent, now_ms: int) -> int:
    """Return an event's time stamp in milliseconds since 1970, now if it has none."""
    if event.ts is None:
        return now_ms
    if isinstance(event.ts, int):
        return event.ts
    return time_ms(event.ts, f"ts of event {event.name!r}")


def _object(event: NewEvent, what: str, value: Mapping[str, Any] | None) -> bytes:
    if value is None:
        return b"{}"
    try:
        data = serde.dumps(value)
    except serde.UnserializableError as error:
        raise TypeError(
            f"{what} of event {event.name!r} cannot be written as JSON: {error}"
        ) from error
    if not data.startswith(b"{"):
        kind = type(value).__name__
        raise TypeError(f"{what} of event {event.name!r} must be a JSON object, not a {kind}")
    return data


def wall_ms() -> int:
    """Return the machine's wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
