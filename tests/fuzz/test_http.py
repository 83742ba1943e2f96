"""The HTTP interface: whatever is sent, an answer in JSON, and never "internal error"."""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette

import stepfold
from stepfold.crew import WorkerSettings
from stepfold.loop import UserLoop
from stepfold.serving import serves_of
from stepfold.worker import NativeWorker
from stepfold_engine.clock import SystemClock
from stepfold_engine.history import History
from stepfold_engine.log.base import EVENTS, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.settings import Settings
from stepfold_engine.wire.api import build_app
from stepfold_engine.wire.live import LiveFeed
from stepfold_schemas import codec
from stepfold_schemas.events import Event
from tests.fuzz.effort import PURE
from tests.fuzz.engines import id_at_home_in
from tests.fuzz.test_codec import DAMAGED
from tests.fuzz.test_formats import RECORDS
from tests.fuzz.values import CLEAN_TEXT, JSON, JSON_BYTES, JSON_TEXT, NAMES, same

PARTITIONS = 2
ANSWER_S_MAX = 30.0
"""No question may be left open for longer, however slow the machine."""


@dataclass
class Answer:
    """What a request was answered with."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, which must be strict JSON."""

        def refuse(name: str) -> Any:
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.body.decode(), parse_constant=refuse)


class Served:
    """An engine with an app, served without a socket, on a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.loop = UserLoop()
        self._stack = AsyncExitStack()
        self.ids: list[str] = ["0" * 26]
        self._sent = 0
        self.log: MemoryLog
        self.node: Node
        self._app: Starlette
        self.loop.run_until_complete(self._start(folder))

    def new_ids(self) -> list[str]:
        """Return an id of an event for each partition."""
        self._sent += 1
        return [id_at_home_in(n, PARTITIONS, self._sent) for n in range(PARTITIONS)]

    async def _start(self, folder: Path) -> None:
        app = stepfold.App("t")

        @app.function("f", on="t/go")
        async def f(ctx: stepfold.Context) -> Any:
            await ctx.step.wait_for_signal("s", signal="s", timeout="1h", on_conflict="replace")
            return ctx.event.data

        clock = SystemClock()
        self.log = MemoryLog(PARTITIONS, clock.now_ms)
        self.node = Node(self.log, clock, CelMatching(), Settings())
        live = LiveFeed()
        self.node.watchers.append(live)

        def worker(native: Native) -> NativeWorker:
            made = NativeWorker(
                app.functions, native, decode_event=codec.decode_event, settings=WorkerSettings()
            )
            made.run_inline(self.loop)
            native.serves = serves_of(lambda: app.functions)
            return made

        history = History(self.node, folder / "history.db")
        await self._stack.enter_async_context(self.node.running(worker))
        await self._stack.enter_async_context(history.running())
        specs = [function.spec() for function in app.functions.values()]
        await self.node.declare("t", specs, complete=True, forced=True)
        self.node.resume()
        self._app = build_app(self.node, history, live)

    def ask(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        body: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        chunk: int = 1 << 20,
    ) -> Answer:
        """Send a request and return its answer."""
        return self.loop.run_until_complete(
            asyncio.wait_for(self._ask(method, path, query, body, headers, chunk), ANSWER_S_MAX)
        )

    async def _ask(
        self,
        method: str,
        path: str,
        query: bytes,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        chunk: int,
    ) -> Answer:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": quote(path).encode(), "root_path": "",
            "query_string": query, "headers": list(headers), "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }  # fmt: skip
        parts = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
        messages = [
            {"type": "http.request", "body": part, "more_body": part is not parts[-1]}
            for part in parts
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self._app(scope, receive, send)
        except Exception:
            # Starlette raises again what it has answered with 500, for the server's log.
            assert sent, "it failed without an answer"
        given_ = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return Answer(sent[0]["status"], given_, b"".join(m.get("body", b"") for m in sent[1:]))

    def close(self) -> None:
        """Stop the engine."""
        self.loop.run_until_complete(self._stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("http"))
    yield found
    found.close()


def check(answer: Answer, *, may: Sequence[int] = ()) -> Any:
    """Check that an answer is a success, or says in JSON that the caller is wrong."""
    assert answer.status in (200, 503, 507, *may) or 400 <= answer.status < 500, answer
    if not answer.body:
        return None
    assert answer.headers.get("content-type", "").startswith(("application/", "text/plain"))
    if answer.headers.get("content-type", "").startswith("text/plain"):
        return None  # CORS says its own
    body = answer.json()
    if answer.status >= 400:
        assert isinstance(body["error"], str)
        assert body["error"]
        assert len(body["error"]) < 2_000
    return body


def goes_on(served: Served) -> None:
    """See that events still start runs in every partition, and that runs can be asked for."""
    sent = [{"name": "t/go", "data": {"n": 1}, "id": id_} for id_ in served.new_ids()]
    for event in check(served.ask("POST", "/e/key", body=json.dumps(sent).encode()))["ids"]:
        run = served.loop.run_until_complete(_run_of(served, event))
        served.ids[:] = [event, run]
        assert check(served.ask("GET", f"/stepfold/v1/runs/{run}"))["data"]["id"] == run
        assert check(served.ask("DELETE", f"/v1/runs/{run}")) is None
    assert not served.node.stopped_partitions


async def _run_of(served: Served, event: str) -> str:
    for _ in range(3_000):
        found = await served._ask("GET", f"/v1/events/{event}/runs", b"", b"", (), 1)
        if found.status == 200 and found.json()["data"]:
            return str(found.json()["data"][0]["run_id"])
        await asyncio.sleep(0.005)
    raise AssertionError("the event started nothing")


_SEGMENTS = st.sampled_from(
    ["e", "v1", "0-0", "events", "runs", "signals", "stepfold", "timeline", "resume", "partitions",
     "dev", "health", "key", "..", "", "%2e", "0" * 26, "Z" * 26, "7" + "Z" * 25, "0" * 8, "İ"]
) | NAMES.filter(lambda name: len(name) < 10_000).map(
    lambda name: unquote(quote(name, errors="replace"), errors="replace")
)  # fmt: skip
KNOWN = ["/", "/health", "/dev", "/e/k", "/v1/events", "/v1/events/{}", "/v1/events/{}/runs",
         "/v1/runs/{}", "/v1/signals", "/stepfold/v1/runs", "/stepfold/v1/runs/{}",
         "/stepfold/v1/runs/{}/timeline", "/stepfold/v1/runs/{}/resume",
         "/stepfold/v1/partitions", "/stepfold/v1/dead-letters", "/stepfold/v1/dead-letters/{}",
         "/stepfold/v1/dead-letters/0-0/redrive"]  # fmt: skip
PATHS = st.lists(_SEGMENTS, max_size=5).map(lambda parts: "/" + "/".join(parts)) | st.builds(
    str.format, st.sampled_from(KNOWN), _SEGMENTS
)
METHODS = st.sampled_from(
    ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "FOO", "", "é"]
)
_NUMBERS = st.sampled_from(
    ["0", "-1", "1", "9" * 30, "9" * 5_000, "1e9", "NaN", "", "٣", "1_000", "0x10", "abc",
     "253402300800000", "9223372036854775808", "2030-01-01T00:00:00Z", "0001-01-01T00:00:00",
     "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2030-01-01"]
)  # fmt: skip
_PAIRS = st.tuples(
    st.sampled_from(["limit", "since_ms", "status", "function", "cursor", "name", "received_before",
                     "received_after", "x"]),
    _NUMBERS | NAMES.filter(lambda name: len(name) < 10_000) | st.sampled_from(
        ["completed", "running", "t-f", "0" * 26, "Z" * 26, "t/go"]),
)  # fmt: skip
QUERIES = st.lists(_PAIRS, max_size=3).map(
    lambda pairs: "&".join(f"{k}={quote(v, errors='replace')}" for k, v in pairs).encode()
) | st.binary(max_size=20)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-type", b"x-inngest-event-id-seed", b"origin", b"content-length",
                         b"access-control-request-method", b"host", b"x"]),
        st.binary(max_size=12) | st.sampled_from(
            [b"application/json", b"1,AAAAAAAAAAAAAA==", b"9" * 400,
             b"1756000000000,AAECAwQFBgcICQ=="]),
    ),
    max_size=3,
)  # fmt: skip


@PURE
@given(method=METHODS, path=PATHS, query=QUERIES, body=JSON_BYTES, headers=HEADERS)
@example("GET", "/stepfold/v1/runs", b"since_ms=" + b"9" * 30, b"", [])
@example("GET", "/v1/events", b"received_before=" + b"9" * 5_000, b"", [])
@example("GET", "/v1/events", b"received_after=0001-01-01T00:00:00", b"", [])
def test_any_request_has_an_answer(
    served: Served,
    method: str,
    path: str,
    query: bytes,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
) -> None:
    if path.endswith("/live"):
        return
    check(served.ask(method, path, query, body, headers))
    goes_on(served)


_INT64 = st.integers(-(2**63), 2**63 - 1)
AVRO_RECORDS = (
    DAMAGED
    | st.builds(
        lambda data, ts, at: codec.encode(Event("t/go", data, "", ts, data, "", at)),
        JSON_BYTES,
        _INT64,
        _INT64,
    )
).map(NewRecord)

_FIELDS = st.sampled_from(["name", "NAME", "data", "id", "ts", "user", "v", "_inngest"])
_EVENT_TEXT = st.lists(st.tuples(_FIELDS, JSON_TEXT | st.just('"t/go"')), max_size=5).map(
    lambda pairs: "{" + ",".join(f'"{k}":{v}' for k, v in pairs) + "}"
)
_DEEP = st.builds(
    lambda field, n: f'{{"name":"t/go","{field}":' + "[" * n + "]" * n + "}",
    st.sampled_from(["name", "data", "id", "ts", "user"]),
    st.sampled_from([*range(940, 1_000, 3), 100, 500, 2_000]),
)
BODIES = (
    st.lists(_EVENT_TEXT | _DEEP | JSON_TEXT, max_size=4).map(lambda e: "[" + ",".join(e) + "]")
    | _EVENT_TEXT
    | _DEEP
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@PURE
@given(body=BODIES | JSON_BYTES, headers=HEADERS, chunk=st.sampled_from([7, 1_000, 1 << 20]))
def test_any_body_is_taken_in_or_refused(
    served: Served, body: bytes, headers: list[tuple[bytes, bytes]], chunk: int
) -> None:
    answer = served.ask(
        "POST", "/e/key", body=body, headers=headers, chunk=max(chunk, len(body) // 100)
    )
    found = check(answer)
    assert isinstance(found["ids"], list)
    goes_on(served)


@PURE
@given(data=st.dictionaries(CLEAN_TEXT, JSON, max_size=3))
def test_an_event_is_shown_as_it_was_sent(served: Served, data: dict[str, Any]) -> None:
    body = json.dumps({"name": "t/shown", "data": data}).encode()
    answer = served.ask("POST", "/e/key", body=body)
    found = check(answer)
    if answer.status != 200:
        assert "larger" in found["error"] or "too large" in found["error"]
        return
    shown = check(served.ask("GET", f"/v1/events/{found['ids'][0]}"))
    assert same(shown["data"]["data"], data)


@PURE
@given(body=JSON_BYTES | st.builds(
    lambda name, data: f'{{"signal":{name},"data":{data}}}'.encode("utf-8", "surrogatepass"),
    st.just('"s"') | JSON_TEXT, JSON_TEXT | _DEEP))  # fmt: skip
def test_any_signal_is_sent_or_refused(served: Served, body: bytes) -> None:
    check(served.ask("POST", "/v1/signals", body=body))
    goes_on(served)


@PURE
@given(records=st.lists(AVRO_RECORDS | RECORDS, min_size=1, max_size=3))
@example([NewRecord(codec.encode(Event("t/go", b'{"a":"\\ud800"}')))])
@example([NewRecord(codec.encode(Event("t/go", b'{"a":NaN}')))])
@example([NewRecord(codec.encode(Event("t/go", b"{}", received_ms=2**62)))])
@example([NewRecord(b'{"name":"\\ud800"}')])
def test_events_are_listed_whatever_lies_in_the_log(
    served: Served, records: list[NewRecord]
) -> None:
    served.loop.run_until_complete(served.log.append(EVENTS, 0, records))
    for path in ("/v1/events", "/stepfold/v1/dead-letters"):
        answer = check(served.ask("GET", path, b"limit=10"))
        assert isinstance(answer["data"], list)
    goes_on(served)


@pytest.mark.parametrize(
    "path", ["/v1/runs/{}", "/stepfold/v1/runs/{}", "/stepfold/v1/runs/{}/timeline"]
)
@PURE
@given(data=st.dictionaries(st.text(max_size=3), JSON, max_size=3), cut=st.integers(0, 26))
def test_runs_are_shown_whatever_they_hold(
    served: Served, path: str, data: dict[str, Any], cut: int
) -> None:
    body = json.dumps({"name": "t/go", "data": data}).encode("utf-8", "surrogatepass")
    served.ask("POST", "/e/key", body=body)
    goes_on(served)
    _, run = served.ids
    check(served.ask("GET", path.format(run[:cut])), may=[404, 409])
    check(served.ask("GET", path.format(run)))


def test_nothing_was_an_internal_error(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Errors of ours would be logged; see that what the others sent left the engine whole."""
    with caplog.at_level(logging.ERROR):
        goes_on(served)
    assert not served.node.stopped_partitions
