"""``GET /stepfold/v1/runs/{id}/export`` and ``/stepfold/v1/export``: runs as run files."""

import io
import time
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.exporting.journals import find_run
from stepfold_engine.exporting.live import FOUND_MAX, recording_of, related_to, some_of
from stepfold_engine.history import History, NoHistory, RunFilter, RunView
from stepfold_engine.history.absent import NOT_HERE, NOT_IMPLEMENTED
from stepfold_engine.node import Node
from stepfold_engine.wire.recalled import Recalled
from stepfold_engine.wire.replies import BadRequestError, release
from stepfold_schemas import codec
from stepfold_schemas.ids import ULID_CHARS, parse_ulid, ulid_text
from stepfold_schemas.runfile import ExportedRun, RunFile

AVRO = "application/avro"
NEXT = "x-stepfold-next"


class Exports:
    """Answers for one node."""

    def __init__(
        self,
        node: Node,
        history: History | NoHistory,
        named: Callable[[Request], Awaitable[RunView]],
        recalled: Recalled,
    ) -> None:
        self._node, self._history, self._named = node, history, named
        self._recalled = recalled

    def routes(self, ours: str) -> list[Route]:
        """Return the routes."""
        return [
            Route(f"{ours}/runs/{{id}}/export", self.one),
            Route(f"{ours}/export", self.some),
        ]

    async def one(self, request: Request) -> Response:
        """Return one run; with ``?related=true`` also those that it invoked."""
        name = str(request.path_params["id"]).upper()
        related_too = request.query_params.get("related", "") == "true"
        try:
            if isinstance(self._history, NoHistory) and len(name) == ULID_CHARS:
                return _reply(await find_run(self._node.log, _ulid(name), related=related_too))
            view = await self._named(request)
            assert isinstance(self._history, History), "no run is found without it"
            runs = [await recording_of(self._history, view)]
        except RequestRefusedError as error:
            runs = [await self._recalled.run(name, error)]
        if related_too:
            related = related_to(self._history, runs[0], self._node.partitions, self._recalled.run)
            runs += await related
        return _reply(runs)

    async def some(self, request: Request) -> Response:
        """Return runs, newest first: ``function``, ``status``, ``since_ms``, ``limit``, ``before``.

        The header ``x-stepfold-next`` holds what to ask for with ``before`` to get more.
        """
        asked = request.query_params
        wanted = RunFilter(
            asked.get("status", ""),
            asked.get("function", ""),
            _number(asked.get("since_ms", "0"), "since_ms"),
            min(max(_number(asked.get("limit", "100"), "limit"), 1), FOUND_MAX),
            _ulid(asked["before"]) if asked.get("before") else RunFilter().before,
        )
        if isinstance(self._history, NoHistory):
            raise RequestRefusedError(NOT_IMPLEMENTED, NOT_HERE)
        runs, following = await some_of(self._history, wanted)
        return _reply(runs, {NEXT: ulid_text(following)} if following else {})


def _reply(runs: Sequence[ExportedRun], headers: dict[str, str] | None = None) -> Response:
    if not runs:
        return Response(b"", media_type=AVRO)
    out = io.BytesIO()
    made_ms = time.time_ns() // 1_000_000
    codec.write_runs(out, RunFile(list(runs), release(), made_ms, "an engine"))
    return Response(out.getvalue(), media_type=AVRO, headers=headers)


def _number(text: str, name: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise BadRequestError(f"{name} is not a number: {text[:80]}")
    return int(text)


def _ulid(text: str) -> bytes:
    try:
        return parse_ulid(text)
    except ValueError as error:
        raise BadRequestError(str(error)) from error
