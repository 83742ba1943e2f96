"""``POST /v1/sql``: questions in SQL, passed on to who keeps the tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.formats.plain import parse_json
from stepfold_engine.wire.replies import BadRequestError

ARROW = "application/vnd.apache.arrow.stream"
BODY_BYTES_MAX = 1 << 19


class Tables(Protocol):
    """Who answers questions in SQL."""

    async def ask(self, asked: Mapping[str, object]) -> tuple[dict[str, Any], bytes]:
        """Return the head and the body of an answer.

        Raises:
            RequestRefusedError: it was refused.
        """
        ...


class Sql:
    """Answers for one node; without tables it says what is missing."""

    def __init__(self, tables: Tables | None, missing: str = "") -> None:
        self.tables, self._missing = tables, missing or "this engine keeps no tables"

    async def post(self, request: Request) -> Response:
        """``POST /v1/sql``: ``{"sql", "as_of", "seconds"}``; JSON, or Arrow if it is accepted."""
        body = await request.body()
        if len(body) > BODY_BYTES_MAX:
            raise RequestRefusedError(413, f"the body has more than {BODY_BYTES_MAX} bytes")
        asked = _asked(body)
        asked["arrow"] = ARROW in request.headers.get("accept", "")
        if self.tables is None:
            raise RequestRefusedError(501, self._missing)
        head, answer = await self.tables.ask(asked)
        kind = ARROW if asked["arrow"] else "application/json"
        headers = {"x-stepfold-cut": "true"} if head.get("cut") else {}
        return Response(answer, media_type=kind, headers=headers)

    async def copy(self, _: Request) -> Response:
        """``POST /v1/sql/copy``: the tables as one DuckDB file."""
        if self.tables is None:
            raise RequestRefusedError(501, self._missing)
        head, _body = await self.tables.ask({"copy": True})
        path = Path(str(head["path"]))
        remove = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, media_type="application/octet-stream", background=remove)


def _asked(body: bytes) -> dict[str, object]:
    try:
        given = parse_json(body)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadRequestError('the body is not a JSON object; write {"sql": "SELECT …"}')
    asked = cast("dict[str, object]", given)
    sql, as_of, seconds = (asked.get(name) for name in ("sql", "as_of", "seconds"))
    if not isinstance(sql, str) or not sql.strip():
        raise BadRequestError("sql must be a text: one SELECT")
    if as_of is not None and not isinstance(as_of, str):
        raise BadRequestError("as_of must be a time as text, such as 2026-11-20T14:30")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise BadRequestError("seconds must be a number")
    return {"sql": sql, "as_of": as_of, "seconds": seconds}
