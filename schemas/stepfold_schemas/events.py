"""Events: what somebody outside says, and the limits on what they may say."""

from dataclasses import dataclass

EVENT_NAME_CHARS_MAX = 255
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
        InvalidEventError: the name is empty, too long or reserved, the time is out of range, or
            the event is too large.
    """
    if not event.name:
        raise InvalidEventError("event name is empty")
    if len(event.name) > EVENT_NAME_CHARS_MAX:
        msg = f"event name has {len(event.name)} characters, the limit is {EVENT_NAME_CHARS_MAX}"
        raise InvalidEventError(msg)
    if event.name.lower().startswith(RESERVED_PREFIXES):
        raise InvalidEventError(f"event name is reserved for internal use: {event.name}")
    if not EVENT_TS_MIN_MS <= event.ts <= EVENT_TS_MAX_MS:
        msg = (
            f"event {event.name}: ts {event.ts} is not between the years 1980 and 2100;"
            " it is in milliseconds since 1970"
        )
        raise InvalidEventError(msg)
    size = len(event.data) + len(event.user) + len(event.name) + len(event.id)
    if size > EVENT_BYTES_MAX:
        msg = f"event {event.name}: {size} bytes, the limit is {EVENT_BYTES_MAX}"
        raise InvalidEventError(msg)
