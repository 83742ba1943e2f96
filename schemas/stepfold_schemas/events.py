"""Events: what somebody outside says, and the limits on what they may say."""

from dataclasses import dataclass

from stepfold_schemas import strict

EVENT_NAME_CHARS_MAX = 255
EVENT_ID_CHARS_MAX = 1_000
EVENT_BYTES_MAX = 3 * 1024 * 1024
EVENTS_A_REQUEST_MAX = 5_000
EVENT_TS_MIN_MS = 315_532_800_000
"""1980-01-01: an earlier time stamp is a unit mistake (seconds given for milliseconds)."""
EVENT_TS_MAX_MS = 4_102_444_800_000
"""2100-01-01."""
RESERVED_PREFIXES = ("inngest/", "stepfold/")


class InvalidEventError(ValueError):
    """An event was refused; the message says which field is wrong and what to write instead."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it lies in the log.

    Attributes:
        name: what happened, such as ``shop/order.created``.
        data: a JSON object, as UTF-8 bytes.
        id: the id its sender gave it, or "" if none; sent again with the same id it does not
            start a function twice.
        ts: when it happened, in milliseconds since 1970; in the future, it delays the start.
        user: a JSON object about who it concerns, as UTF-8 bytes.
        internal: the ULID given at ingestion, 26 characters, or "" if another producer wrote it.
        received_ms: when it was taken in, in milliseconds since 1970.
    """

    name: str
    data: bytes
    id: str = ""
    ts: int = 0
    user: bytes = b"{}"
    internal: str = ""
    received_ms: int = 0


def check_event(event: Event) -> None:
    """Refuse an event that may not enter the log.

    Raises:
        InvalidEventError: the name is empty, too long or reserved, the time is out of range, the
            event is too large, or its texts are not Unicode.
    """
    check_taken(event)
    if event.name.lower().startswith(RESERVED_PREFIXES):
        raise InvalidEventError(f"event name is reserved for internal use: {event.name}")
    if event.ts < EVENT_TS_MIN_MS:
        raise InvalidEventError(_bad_time(event, "ts", event.ts))


def check_taken(event: Event) -> None:
    """Refuse an event that nothing can be done with, although it lies in the log already.

    Other producers know fewer rules than ``check_event`` does; ``ts`` 0 is none.

    Raises:
        InvalidEventError: as ``check_event``, but for reserved names and times before 1980.
    """
    if not event.name:
        raise InvalidEventError("event name is empty")
    try:
        strict.check_text("event name", event.name, EVENT_NAME_CHARS_MAX)
        strict.check_text(f"event {event.name}: id", event.id, EVENT_ID_CHARS_MAX)
    except ValueError as error:
        raise InvalidEventError(str(error)) from error
    for field, at_ms in (("ts", event.ts), ("received_ms", event.received_ms)):
        if not 0 <= at_ms <= EVENT_TS_MAX_MS:
            raise InvalidEventError(_bad_time(event, field, at_ms))
    size = len(event.data) + len(event.user) + len(event.name.encode()) + len(event.id.encode())
    if size > EVENT_BYTES_MAX:
        msg = f"event {event.name}: {size} bytes, the limit is {EVENT_BYTES_MAX}"
        raise InvalidEventError(msg)


def _bad_time(event: Event, field: str, at_ms: int) -> str:
    return (
        f"event {event.name}: {field} {at_ms} is not between the years 1980 and 2100;"
        " it is in milliseconds since 1970"
    )
