"""Events in: ``POST /e/{key}``.

Normalisation and refusals are the protocol's. Work stops at the first bad event; those before it
stay accepted, and the refusal carries their ids.
"""

import base64
import binascii
from collections.abc import Collection
from dataclasses import replace
from typing import cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from stepfold_engine.errors import EngineError, RequestRefusedError
from stepfold_engine.formats.plain import event_of, parse_json
from stepfold_engine.node import Node
from stepfold_engine.wire.replies import error_reply, json_reply, shortened, status_of
from stepfold_schemas.events import EVENTS_A_REQUEST_MAX, Event, InvalidEventError, check_event
from stepfold_schemas.ids import run_id, ulid_text

SEED_HEADER = "x-inngest-event-id-seed"
SEED_BYTES = 10
BODY_BYTES_MAX = 256 << 20
"""The largest body of a request: many large events, but not the whole memory."""

BYTES_AT_ONCE_MAX = 512 << 20
"""Of all bodies that are being taken in; more is refused for now."""


class Ingest:
    """Takes events in over HTTP."""

    def __init__(self, node: Node, keys: Collection[str] = ()) -> None:
        """Take events for a node.

        Args:
            node: where they go.
            keys: the event keys that may send; none means anybody may.
        """
        self._node, self._keys = node, frozenset(keys)
        self._taking_bytes = 0

    async def post(self, request: Request) -> Response:
        """Answer ``POST /e/{key}``."""
        if self._keys and request.path_params.get("key", "") not in self._keys:
            refused = {"status": 401, "message": "", "error": "Event key not found"}
            return json_reply(refused, 401)
        taken = 0
        body = bytearray()
        try:
            async for chunk in request.stream():
                self._taking_bytes += len(chunk)
                taken += len(chunk)
                self._check_sizes(taken)
                body += chunk
            return await self._take(bytes(body), request.headers.get(SEED_HEADER, ""))
        except ClientDisconnect:
            return error_reply(400, "the connection was closed before the body was complete")
        except RequestRefusedError as error:
            return _refusal([], error.status, str(error))
        finally:
            self._taking_bytes -= taken

    def _check_sizes(self, taken: int) -> None:
        if taken > BODY_BYTES_MAX:
            text = f"the body is larger than {BODY_BYTES_MAX} bytes; send fewer events at once"
            raise RequestRefusedError(413, text)
        if self._taking_bytes > BYTES_AT_ONCE_MAX:
            raise RequestRefusedError(503, "too many events are being taken in; try again")

    async def _take(self, body: bytes, seed: str) -> Response:
        try:
            given = parse_json(body)
        except ValueError as error:
            return _refusal([], 400, f"the body is not JSON: {error}")
        items: list[object] = cast("list[object]", given) if isinstance(given, list) else [given]
        if len(items) > EVENTS_A_REQUEST_MAX:
            text = f"{len(items)} events in one request, the limit is {EVENTS_A_REQUEST_MAX}"
            return _refusal([], 400, text)
        events, refused = self._accepted(items, parse_seed(seed))
        try:
            ids = await self._node.publish(events) if events else []
        except EngineError as error:
            return _refusal([], status_of(error), str(error))
        if refused:
            return _refusal(ids, 400, refused)
        return json_reply({"ids": ids, "status": 200})

    def _accepted(
        self, items: list[object], seed: tuple[int, bytes] | None
    ) -> tuple[list[Event], str]:
        """Return the events before the first bad one, and what is wrong with that ("" nothing)."""
        now_ms = self._node.clock.now_ms()
        events: list[Event] = []
        for index, item in enumerate(items, 1):
            try:
                event = event_of(item, now_ms)
                if seed is not None:
                    # The request may be repeated, so its ids are remembered like a sender's own.
                    internal = seeded_id(seed, index)
                    event = replace(event, id=event.id or internal, internal=internal)
                check_event(event)
            except InvalidEventError as error:
                return events, str(error)
            events.append(event)
        return events, ""


def parse_seed(text: str) -> tuple[int, bytes] | None:
    r"""Read the header that makes a repeated request give the same ids; None if it does not parse.

    >>> parse_seed("1756000000000,AAECAwQFBgcICQ==")
    (1756000000000, b'\x00\x01\x02\x03\x04\x05\x06\x07\x08\t')
    >>> parse_seed("soon")
    """
    millis, _, entropy = text.partition(",")
    try:
        at_ms, data = int(millis), base64.b64decode(entropy, validate=True)
    except (ValueError, binascii.Error):
        return None
    return (at_ms, data) if 0 < at_ms < 1 << 48 and len(data) == SEED_BYTES else None


def seeded_id(seed: tuple[int, bytes], index: int) -> str:
    """Return the internal id of the event at this 1-based index of a request.

    >>> seeded_id((1756000000000, bytes(range(10))), 1)
    '01K3CW3600000G40R40M30E20A'
    """
    at_ms, entropy = seed
    counter = (int.from_bytes(entropy[6:], "big") + index) & 0xFFFFFFFF
    return ulid_text(run_id(at_ms, entropy[:6] + counter.to_bytes(4, "big")))


def _refusal(ids: list[str], status: int, message: str) -> Response:
    # A list of one empty id when nothing was accepted: clients rely on it.
    return json_reply({"ids": ids or [""], "status": status, "error": shortened(message)}, status)
