"""The client, against a server that only remembers what it was asked."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import stepfold
from stepfold import Client, ClientError, NewEvent

RUN = "01K3CW3600000G40R40M30E20A"
ANSWERS: dict[tuple[str, str], tuple[int, object]] = {
    ("POST", "/e/key%2F1"): (200, {"ids": ["01A", "01B"], "status": 200}),
    ("POST", "/e/dev"): (400, {"ids": [""], "status": 400, "error": "event name is reserved"}),
    ("GET", f"/v1/runs/{RUN}"): (200, {"data": {"run_id": RUN, "status": "Running"}}),
    ("GET", "/v1/events/01A/runs"): (200, {"data": [{"run_id": RUN}]}),
    ("DELETE", f"/v1/runs/{RUN}"): (200, None),
    ("POST", "/v1/signals"): (200, {"data": {"run_id": RUN}}),
}


class Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, Any]]

    def answer(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size)) if size else None
        self.seen.append((self.command, self.path, body))
        status, answer = ANSWERS.get((self.command, self.path), (404, {"error": "not found"}))
        if isinstance(body, dict) and body.get("signal") == "nobody":  # pyright: ignore[reportUnknownMemberType]
            status, answer = 404, {"error": "no waiter"}
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    class Fresh(Handler):
        seen: list[tuple[str, str, Any]] = []  # noqa: RUF012

    server = HTTPServer(("127.0.0.1", 0), Fresh)
    monkeypatch.setenv("STEPFOLD_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("STEPFOLD_EVENT_KEY", raising=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


def test_events_are_sent(server: type[Handler]) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    client = Client(key="key/1")
    sent = client.send([NewEvent("a/b", {"at": at}, "mine", at, {"id": 1}), {"name": "c"}])
    assert sent == ["01A", "01B"]
    assert asyncio.run(client.send_async({"name": "c"})) == ["01A", "01B"]
    (_, path, body), second = server.seen
    assert path == "/e/key%2F1"
    assert body == [
        {
            "name": "a/b",
            "data": {"at": "2030-01-01T00:00:00Z"},
            "id": "mine",
            "ts": 1_893_456_000_000,
            "user": {"id": 1},
        },
        {"name": "c", "data": {}},
    ]
    assert second[2] == [{"name": "c", "data": {}}]


def test_an_app_without_an_engine_sends_over_http(
    server: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPFOLD_EVENT_KEY", "key/1")
    app = stepfold.App("a")
    assert asyncio.run(app.send(name="a/b", data={"n": 1})) == ["01A", "01B"]
    assert server.seen[0][2] == [{"name": "a/b", "data": {"n": 1}}]


def test_a_refusal_is_an_error_with_what_the_server_said(server: type[Handler]) -> None:
    with pytest.raises(ClientError, match="400 event name is reserved") as caught:
        Client().send({"name": "inngest/x"})
    assert caught.value.status == 400
    assert server.seen


def test_runs_are_asked_about_and_cancelled(server: type[Handler]) -> None:
    client = Client()
    assert client.run(RUN)["status"] == "Running"
    assert client.runs_of("01A") == [{"run_id": RUN}]
    client.cancel(RUN)
    with pytest.raises(ClientError) as caught:
        client.run("01K3CW3600000G40R40M30E20B")
    assert caught.value.status == 404
    with pytest.raises(ValueError, match="not a ULID"):
        client.run("../../secret")
    assert [(method, path) for method, path, _ in server.seen][:3] == [
        ("GET", f"/v1/runs/{RUN}"),
        ("GET", "/v1/events/01A/runs"),
        ("DELETE", f"/v1/runs/{RUN}"),
    ]


def test_signals_are_sent(server: type[Handler]) -> None:
    assert Client().signal("approval", {"ok": True}) == RUN
    assert Client().signal("nobody") is None
    assert server.seen[0][2] == {"signal": "approval", "data": {"ok": True}}


def test_no_server_is_told_with_its_address() -> None:
    with pytest.raises(ClientError, match=r"no answer from http://127.0.0.1:9: .*STEPFOLD_URL"):
        Client("http://127.0.0.1:9").send({"name": "a"})


def test_a_url_must_be_one() -> None:
    with pytest.raises(ValueError, match="begins with http"):
        Client("file:///etc/passwd")
