"""Dead letters over HTTP: list, show, send again."""

import base64
from collections.abc import Mapping, Sequence
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepfold_engine.deadletters import DeadLetter, letter_by_id, newest_letters
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.formats.plain import parse_json
from stepfold_engine.node import Node
from stepfold_engine.wire.replies import data_reply

PREVIEW_BYTES = 200
LIMIT_MAX = 1_000


class Letters:
    """Serves the dead letters of a node's log."""

    def __init__(self, node: Node) -> None:
        self._node, self._log = node, node.log

    def routes(self, under: str) -> Sequence[Route]:
        """Return the routes under this path."""
        return (
            Route(f"{under}/dead-letters", self.newest),
            Route(f"{under}/dead-letters/{{id}}", self.one),
            Route(f"{under}/dead-letters/{{id}}/redrive", self.redrive, methods=["POST"]),
        )

    async def newest(self, request: Request) -> Response:
        """``GET /stepfold/v1/dead-letters?limit=N``: newest first."""
        text = request.query_params.get("limit", "20")
        if not text.isdecimal() or len(text) > 6:
            raise RequestRefusedError(400, f"limit is not a number: {text[:80]}")
        letters = await newest_letters(self._log, min(max(int(text), 1), LIMIT_MAX))
        return data_reply([_row(letter) for letter in letters])

    async def one(self, request: Request) -> Response:
        """``GET /stepfold/v1/dead-letters/{id}``: everything, bytes in base64."""
        letter = await letter_by_id(self._log, request.path_params["id"])
        headers = [[name, _base64(value)] for name, value in letter.headers]
        more = {"value": _base64(letter.value), "key": _base64(letter.key), "headers": headers}
        return data_reply(_row(letter) | more)

    async def redrive(self, request: Request) -> Response:
        """``POST /stepfold/v1/dead-letters/{id}/redrive``: a value in base64 replaces its own."""
        letter = await letter_by_id(self._log, request.path_params["id"])
        body = await request.body()
        value = _value(body) if body else None
        return data_reply({"id": letter.id, "source": await self._node.redrive(letter, value)})


def _row(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "at_ms": letter.at_ms,
        "source": letter.source,
        "error": letter.error,
        "bytes": len(letter.value),
        "preview": letter.value[:PREVIEW_BYTES].decode(errors="replace"),
    }


def _value(body: bytes) -> bytes | None:
    try:
        given = cast("Mapping[str, object]", parse_json(body))
        text = given.get("value")
        return None if text is None else base64.b64decode(str(text), validate=True)
    except (ValueError, AttributeError) as error:
        raise RequestRefusedError(400, 'the body is {"value": BASE64}, or empty') from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
