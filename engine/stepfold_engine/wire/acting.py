"""Routes that act on runs: rerun, resume, cancel. Who asks, and why, is recorded."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepfold.port import Fact
from stepfold_engine.errors import CorruptLogError, RequestRefusedError
from stepfold_engine.formats.plain import parse_json
from stepfold_engine.history import History, NoHistory
from stepfold_engine.journals import read_run
from stepfold_engine.node import Node
from stepfold_engine.recordings import facts_in
from stepfold_engine.reruns import FROM_FAILURE, FROM_START, FROM_STEP, Rerun
from stepfold_engine.wire.recalled import Recalled
from stepfold_engine.wire.replies import BadRequestError, data_reply
from stepfold_schemas import strict
from stepfold_schemas.events import EVENT_BYTES_MAX
from stepfold_schemas.ids import home_of, ulid_text

TEXT_CHARS_MAX = 1_000
"""The longest name of who asks, reason, or step's id."""

_GONE = 404


class Acting:
    """Answers for one node.

    Args:
        node: what runs.
        history: the index of runs.
        id_of: returns the run that a request's path names.
        recalled: knows runs whose journal is gone.
    """

    def __init__(
        self,
        node: Node,
        history: History | NoHistory,
        id_of: Callable[[Request], Awaitable[bytes]],
        recalled: Recalled,
    ) -> None:
        self._node, self._history, self._id_of = node, history, id_of
        self._recalled = recalled

    def routes(self, prefix: str) -> list[Route]:
        """Return the routes, below a prefix."""
        run = f"{prefix}/runs/{{id}}"
        return [
            Route(run, self.cancel, methods=["DELETE"]),
            Route(f"{run}/resume", self.resume, methods=["POST"]),
            Route(f"{run}/rerun", self.rerun, methods=["POST"]),
        ]

    async def resume(self, request: Request) -> Response:
        """``POST …/runs/{id}/resume``: let a stopped run go on."""
        given, run = await _object(request), await self._id_of(request)
        await self._node.resume_run(run, _text(given, "asked_by"), _text(given, "why"))
        return data_reply({"run_id": ulid_text(run)})

    async def cancel(self, request: Request) -> Response:
        """``DELETE …/runs/{id}``: cancel a run."""
        given, run = await _object(request), await self._id_of(request)
        by, why = _text(given, "asked_by"), _text(given, "why")
        reason = f"cancelled by {by or 'request'}" + (f": {why}" if why else "")
        await self._node.cancel(run, reason)
        return data_reply({"run_id": ulid_text(run)})

    async def rerun(self, request: Request) -> Response:
        """``POST …/runs/{id}/rerun``: a new run that shares what this one recorded."""
        given = await _object(request)
        step, data = _text(given, "from"), None
        if given.get("input") is not None:
            data = _event_data(given["input"])
        where = FROM_STEP if step else FROM_FAILURE if given.get("from_failure") else FROM_START
        if step and given.get("from_failure"):
            raise BadRequestError("from names a step, from_failure finds it: give one of them")
        run, facts = await self._to_rerun(request)
        asked = Rerun(run, where, step, data, _text(given, "tag"))
        answer = await self._node.rerun(
            asked, facts, asked_by=_text(given, "asked_by"), why=_text(given, "why")
        )
        body: dict[str, object] = {
            "run_id": ulid_text(answer.run),
            "rerun_of": ulid_text(run),
            "repeated": answer.repeated,
        }
        return data_reply(body)

    async def _to_rerun(self, request: Request) -> tuple[bytes, list[Fact]]:
        """Return the run that is meant, and its journal, as far back as anybody knows it."""
        try:
            run = await self._id_of(request)
            return run, await self._facts(run)
        except RequestRefusedError as error:
            name = str(request.path_params["id"]).upper()
            recalled = await self._recalled.run(name, error)
            return recalled.run, facts_in(recalled)

    async def _facts(self, run: bytes) -> list[Fact]:
        """Return a run's journal: by the index if this process keeps one, else from the log."""
        if isinstance(self._history, NoHistory):
            if home_of(run) >= self._node.partitions:
                raise RequestRefusedError(_GONE, f"no run {ulid_text(run)}")
            return await read_run(self._node.log, home_of(run), run)
        view = await self._history.run(run)
        if view is None:
            raise RequestRefusedError(_GONE, f"no run {ulid_text(run)}")
        try:
            return await self._history.timeline(view)
        except CorruptLogError as error:
            text = f"run {ulid_text(run)}: its journal is no longer kept, or damaged: {error}"
            raise RequestRefusedError(_GONE, text) from error


async def _object(request: Request) -> Mapping[str, object]:
    data = await request.body()
    try:
        given: object = parse_json(data) if data else None
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not data:
        return {}
    if not isinstance(given, dict):
        raise BadRequestError("the body is not a JSON object")
    return cast("Mapping[str, object]", given)


def _text(given: Mapping[str, object], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise BadRequestError(f"{name} is not text")
    try:
        strict.check_text(name, value, TEXT_CHARS_MAX)
    except ValueError as error:
        raise BadRequestError(str(error)) from error
    return value


def _event_data(given: object) -> bytes:
    try:
        data = json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
        strict.read_object(data)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"input takes the place of the event's data: {error}") from error
    if len(data) > EVENT_BYTES_MAX:
        text = f"input takes {len(data)} bytes of JSON, the limit is {EVENT_BYTES_MAX}"
        raise BadRequestError(text)
    return data
