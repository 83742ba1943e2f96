"""The public HTTP API: the routes of the protocol, and our own below ``/stepfold/v1``."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stepfold_engine.errors import EngineError, RequestRefusedError
from stepfold_engine.formats.plain import parse_json
from stepfold_engine.history import STATUSES, History, NoHistory, RunFilter, RunView
from stepfold_engine.node import Node
from stepfold_engine.wire.acting import Acting
from stepfold_engine.wire.eventlog import EventFilter, event_by_id, newest_events
from stepfold_engine.wire.exports import Exports
from stepfold_engine.wire.functions import Functions
from stepfold_engine.wire.ingest import Ingest
from stepfold_engine.wire.letters import Letters
from stepfold_engine.wire.live import LiveFeed
from stepfold_engine.wire.models import (
    event_row,
    fact_body,
    outcome_body,
    run_body,
    run_row,
)
from stepfold_engine.wire.recalled import Recalled
from stepfold_engine.wire.replies import (
    BadRequestError,
    data_reply,
    error_reply,
    json_reply,
    on_any_error,
    on_engine_error,
    release,
)
from stepfold_engine.wire.sql import Sql
from stepfold_schemas import strict
from stepfold_schemas.ids import parse_ulid, ulid_text

LIMIT_MAX = 1_000
SIGNAL_CHARS_MAX = 255
NUMBER_MAX = (1 << 47) - 1
"""Numbers in questions are counts and times."""

SHOWN_CHARS = 80


class Api:
    """Answers for one node."""

    def __init__(self, node: Node, history: History | NoHistory, live: LiveFeed) -> None:
        self.node, self.history, self.live = node, history, live

    # The protocol's routes.

    async def root(self, _: Request) -> Response:
        """``GET /``."""
        return json_reply({"name": "stepfold", "version": release(), "status": 200})

    async def health(self, _: Request) -> Response:
        """``GET /health``."""
        return json_reply({"status": 200, "message": "OK"})

    async def dev(self, _: Request) -> Response:
        """``GET /dev``: clients ask whether a server for development is here."""
        body: dict[str, object] = {
            "version": release(),
            "startOpts": {},
            "functions": self._functions(),
            "handlers": [],
            "isSingleNodeService": True,
            "isMissingSigningKey": False,
            "isMissingEventKeys": False,
            "features": {},
        }
        return json_reply(body)

    def _functions(self) -> list[dict[str, object]]:
        states = self.node.states()
        found: list[dict[str, object]] = []
        for spec in states[0].functions.values() if states else ():
            triggers = [
                {"event": t.event} | ({"expression": t.expression} if t.expression else {})
                for t in spec.triggers
            ]
            triggers += [{"cron": cron} for cron in spec.crons]
            found.append({"id": spec.id, "name": spec.name, "slug": spec.id, "triggers": triggers})
        return found

    async def events(self, request: Request) -> Response:
        """``GET /v1/events``: newest first."""
        asked = request.query_params
        wanted = EventFilter(
            name=asked.get("name", ""),
            limit=_limit(request),
            cursor=asked.get("cursor", "").upper(),
            before_ms=_time(request, "received_before"),
            after_ms=_time(request, "received_after"),
        )
        return data_reply([event_row(e) for e in await newest_events(self.node, wanted)])

    async def event(self, request: Request) -> Response:
        """``GET /v1/events/{id}``."""
        text = request.path_params["id"]
        _ulid(text, "event")
        event = await event_by_id(self.node, text)
        if event is None:
            raise RequestRefusedError(404, f"no event {text}")
        return data_reply(event_row(event))

    async def runs_of_event(self, request: Request) -> Response:
        """``GET /v1/events/{id}/runs``."""
        event = ulid_text(_ulid(request.path_params["id"], "event"))
        views = await self.history.runs_of_event(event)
        return data_reply([run_row(v, await self.history.outcome(v)) for v in views])

    async def run(self, request: Request) -> Response:
        """``GET /v1/runs/{id}``."""
        view = await self._run(_ulid(request.path_params["id"], "run"))
        return data_reply(run_row(view, await self.history.outcome(view)))

    async def cancel(self, request: Request) -> Response:
        """``DELETE /v1/runs/{id}``."""
        await self.node.cancel(_ulid(request.path_params["id"], "run"), "cancelled by request")
        return Response(status_code=200)

    async def signal(self, request: Request) -> Response:
        """``POST /v1/signals``."""
        given = await _json_object(request)
        name = given.get("signal")
        if not isinstance(name, str) or not 0 < len(name) <= SIGNAL_CHARS_MAX:
            text = f"signal must be a string of 1 to {SIGNAL_CHARS_MAX} characters"
            raise BadRequestError(text)
        try:
            text = json.dumps(given.get("data"), ensure_ascii=False, allow_nan=False)
            data = text.encode()
            name.encode()
            strict.check_nesting(data)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the signal's name or data cannot be kept: {error}") from error
        run = await self.node.signal(name, data)
        if run is None:
            raise RequestRefusedError(404, f"nobody waits for signal {name!r}")
        return data_reply({"run_id": ulid_text(run)})

    # Our own routes.

    async def our_runs(self, request: Request) -> Response:
        """``GET /stepfold/v1/runs``."""
        asked = request.query_params
        status = asked.get("status", "")
        if status and status not in STATUSES:
            raise BadRequestError(f"no status {status!r}; there are: {', '.join(sorted(STATUSES))}")
        cursor = asked.get("cursor", "")
        wanted = RunFilter(
            status,
            asked.get("function", ""),
            _number(request, "since_ms", 0),
            _limit(request),
            _ulid(cursor, "run") if cursor else b"\xff" * 16,
        )
        views = await self.history.runs(wanted)
        return data_reply([run_body(v) for v in views], complete=self.history.complete)

    async def our_run(self, request: Request) -> Response:
        """``GET /stepfold/v1/runs/{id}``; the beginning of an id will do if it is unique."""
        view = await self.named(request)
        body = run_body(view)
        outcome = await self.history.outcome(view)
        if outcome is not None:
            body["outcome"] = outcome_body(outcome)
        return data_reply(body)

    async def timeline(self, request: Request) -> Response:
        """``GET /stepfold/v1/runs/{id}/timeline``."""
        view = await self.named(request)
        facts = await self.history.timeline(view)
        return data_reply([fact_body(view.id, fact) for fact in facts])

    async def partitions(self, _: Request) -> Response:
        """``GET /stepfold/v1/partitions``."""
        rows: list[dict[str, object]] = []
        for number in range(self.node.partitions):
            owner = self.node.owners.get(number)
            if owner is None:
                why = self.node.stopped_partitions.get(number)
                gone = {"status": "stopped", "reason": why} if why else {"status": "elsewhere"}
                rows.append({"partition": number, **gone})
                continue
            rows.append(
                {
                    "partition": number,
                    "status": "stalled" if owner.stalled else "owned",
                    "epoch": owner.state.epoch,
                    "seq": owner.state.seq,
                    "confirmed_seq": owner.confirmed_seq,
                    "runs": len(owner.state.runs),
                    "functions": len(owner.state.functions),
                    "suspects": len(owner.state.trials.suspects),
                }
            )
        return data_reply(rows, unserved=len(self.node.native.unserved))

    async def watch(self, _: Request) -> Response:
        """``GET /stepfold/v1/live``: confirmed entries, one JSON object a line, until closed."""
        return StreamingResponse(self.live.lines(), media_type="application/x-ndjson")

    async def _run(self, run: bytes) -> RunView:
        view = await self.history.run(run)
        if view is None:
            raise RequestRefusedError(404, f"no run {ulid_text(run)}")
        return view

    async def named(self, request: Request) -> RunView:
        """Return the run that a whole id, its beginning, or its last eight characters name."""
        return await self._run(await self.id_of(request))

    async def id_of(self, request: Request) -> bytes:
        """Return the id that is meant; whether there is such a run is not asked of a whole one."""
        text = str(request.path_params["id"]).upper()
        if len(text) == 26:
            return _ulid(text, "run")
        found = await self.history.named(text)
        if not found:
            raise RequestRefusedError(404, f"no run {text}")
        if len(found) > 1:
            names = ", ".join(ulid_text(run) for run in found)
            raise RequestRefusedError(409, f"several runs are meant by {text}: {names}, …")
        return found[0]


def build_app(
    node: Node,
    history: History | NoHistory,
    live: LiveFeed,
    keys: Collection[str] = (),
    sql: Sql | None = None,
) -> Starlette:
    """Return the application that serves a running node.

    Args:
        node: what it serves.
        history: answers questions about runs.
        live: the feed for those who watch.
        keys: event keys that may send events; none means anybody may.
        sql: answers questions in SQL.
    """
    api, ingest, sql = Api(node, history, live), Ingest(node, keys), sql or Sql(None)
    recalled, ours = Recalled(sql.tables), "/stepfold/v1"
    routes = [
        Route("/", api.root),
        Route("/health", api.health),
        Route("/dev", api.dev),
        Route("/e/{key}", ingest.post, methods=["POST"]),
        Route("/v1/events", api.events),
        Route("/v1/events/{id}", api.event),
        Route("/v1/events/{id}/runs", api.runs_of_event),
        Route("/v1/runs/{id}", api.run, methods=["GET"]),
        Route("/v1/runs/{id}", api.cancel, methods=["DELETE"]),
        Route("/v1/signals", api.signal, methods=["POST"]),
        Route("/v1/sql", sql.post, methods=["POST"]),
        Route("/v1/sql/copy", sql.copy, methods=["POST"]),
        Route(f"{ours}/runs", api.our_runs),
        Route(f"{ours}/runs/{{id}}", api.our_run, methods=["GET"]),
        Route(f"{ours}/runs/{{id}}/timeline", api.timeline),
        *Acting(node, history, api.id_of, recalled).routes(ours),
        Route(f"{ours}/partitions", api.partitions),
        Route(f"{ours}/live", api.watch),
        *Functions(node).routes(ours),
        *Letters(node).routes(ours),
        *Exports(node, history, api.named, recalled).routes(ours),
    ]
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    handlers = {
        EngineError: on_engine_error,
        404: _on_no_route,
        405: _on_no_route,
        Exception: on_any_error,
    }
    app = Starlette(routes=routes, middleware=[cors], exception_handlers=handlers)
    # A redirect would be made of the Host header; a path with a slash too many is just unknown.
    app.router.redirect_slashes = False
    return app


async def _on_no_route(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    # Not ``request.url``, which is made of the Host header, whose bytes are anybody's.
    return error_reply(status, f"no route {request.method} {request.scope['path']}")


async def _json_object(request: Request) -> Mapping[str, object]:
    try:
        given = parse_json(await request.body())
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadRequestError("the body is not a JSON object")
    return cast("Mapping[str, object]", given)


def _ulid(text: str, what: str) -> bytes:
    try:
        return parse_ulid(text)
    except ValueError as error:
        raise BadRequestError(f"bad {what} id: {error}") from error


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    try:
        found = int(text) if text else default
    except ValueError as error:
        raise BadRequestError(f"{name} is not a number: {text[:SHOWN_CHARS]}") from error
    if abs(found) > NUMBER_MAX:
        raise BadRequestError(f"{name} is out of range: {text[:SHOWN_CHARS]}")
    return found


def _limit(request: Request) -> int:
    return min(max(_number(request, "limit", 20), 1), LIMIT_MAX)


def _time(request: Request, name: str) -> int:
    """Read a time given as RFC 3339 or in milliseconds; 0 if it is not given."""
    text = request.query_params.get(name, "")
    if not text or text.isdecimal():
        return _number(request, name, 0)
    try:
        at = datetime.fromisoformat(text)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        shown = text[:SHOWN_CHARS]
        raise BadRequestError(f"{name} is not a time (RFC 3339): {shown}") from error
