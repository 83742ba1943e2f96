"""Replies: the envelopes of the protocol, and errors as HTTP sees them."""

import json
import logging
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import Response

from stepfold_engine.errors import (
    AppendRefusedError,
    EngineError,
    LogFullError,
    RecordTooLargeError,
    RequestRefusedError,
)

_log = logging.getLogger("stepfold")

MESSAGE_CHARS_MAX = 1_000

_LAST_MS = 253_402_300_799_000
"""The last second of the year 9999."""


class BadRequestError(RequestRefusedError):
    """The caller is wrong; the message says how."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


def release() -> str:
    """Return which release this is; "dev" if it runs from a checkout that is not installed."""
    try:
        return version("stepfold")
    except PackageNotFoundError:
        return "dev"


def json_reply(body: object, status: int = 200) -> Response:
    """Return a reply with this JSON."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(data, status, media_type="application/json")


def data_reply(data: object, **metadata: object) -> Response:
    """Return a success in the envelope of the v1 API."""
    about = {"fetched_at": rfc3339(None), "cached_until": None, **metadata}
    return json_reply({"data": data, "metadata": about})


def error_reply(status: int, message: str, **more: object) -> Response:
    """Return an error in the envelope of every endpoint; what it quotes may be cut off."""
    return json_reply({**more, "error": shortened(message), "status": status}, status)


def shortened(message: str) -> str:
    """Return the beginning of a message that quotes what somebody sent, however long that was."""
    return message if len(message) <= MESSAGE_CHARS_MAX else message[:MESSAGE_CHARS_MAX] + "…"


def status_of(error: EngineError) -> int:
    """Return the HTTP status that tells a caller what this error means for him."""
    match error:
        case RequestRefusedError(status=status):
            return status
        case LogFullError():
            return 507
        case RecordTooLargeError():
            return 413
        case AppendRefusedError():
            return 503
        case _:
            return 500


async def on_engine_error(_: Request, error: Exception) -> Response:
    """Answer for an error that the engine raised on purpose."""
    assert isinstance(error, EngineError), "registered for these only"
    return error_reply(status_of(error), str(error))


async def on_any_error(request: Request, error: Exception) -> Response:
    """Answer for an error of ours, without details."""
    # Not ``request.url``, which is made of the Host header, whose bytes are anybody's.
    _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return error_reply(500, "internal error; the engine's log has the details")


def rfc3339(at_ms: int | None) -> str:
    """Write a time, or now, as RFC 3339 in UTC with milliseconds.

    What other producers write for a time may lie outside of all years; the nearest is shown.

    >>> rfc3339(1_756_000_000_123), rfc3339(-1)
    ('2025-08-24T01:46:40.123Z', '1970-01-01T00:00:00.000Z')
    """
    shown_ms = None if at_ms is None else min(max(at_ms, 0), _LAST_MS)
    at = datetime.now(UTC) if shown_ms is None else datetime.fromtimestamp(shown_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
