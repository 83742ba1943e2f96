"""A schema registry for tests: a small HTTP server that speaks Confluent's REST API.

It can be down, broken, or refuse, when a test says so; a real one is in ``apicurio``. Confluent's
own client registers the schemas and writes the records in the tests, which keeps it honest.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TYPE = "application/vnd.schemaregistry.v1+json"

# Schemas: of an event, and of a record that names another one.
EVENT: dict[str, Any] = {
    "type": "record",
    "name": "com.shop.Event",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "id", "type": ["null", "string"], "default": None},
        {"name": "data", "type": {"type": "map", "values": "long"}},
    ],
}
MONEY = {"type": "record", "name": "com.shop.Money", "fields": [{"name": "n", "type": "int"}]}
BILL = {
    "type": "record",
    "name": "com.shop.Bill",
    "fields": [{"name": "sum", "type": "com.shop.Money"}],
}


class Registry:
    """The registry.

    Attributes:
        user_info: ``user:password`` that it wants; "" takes anybody.
        broken: it answers with this status, whatever is asked.
        asked: the paths that were asked for.
    """

    def __init__(self, user_info: str = "") -> None:
        self.user_info, self.broken = user_info, 0
        self.asked: list[str] = []
        self.port = 0
        self._subjects: dict[str, list[int]] = {}
        self._schemas: list[dict[str, object]] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Answer, at the same port as before."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                self._answer(json.loads(self.rfile.read(length) or b"{}"))

            def _answer(self, body: dict[str, object]) -> None:
                said = self.headers.get("authorization", "")
                status, answer = registry.answer(self.command, urlsplit(self.path).path, body, said)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", TYPE)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Answer nobody."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(
        self, method: str, path: str, body: dict[str, object], said: str
    ) -> tuple[int, object]:
        self.asked.append(path)
        if self.broken:
            return self.broken, {"error_code": 50001, "message": "the backend store failed"}
        wanted = f"Basic {base64.b64encode(self.user_info.encode()).decode()}"
        if self.user_info and said != wanted:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["schemas", "types"]:
                return 200, ["AVRO", "JSON", "PROTOBUF"]
            case ["schemas", "ids", number]:
                return self._by_id(int(number))
            case ["subjects", subject, "versions"] if method == "POST":
                return 200, {"id": self.register(subject, body)}
            case ["subjects", subject] if method == "POST":
                return self._registered(subject, body)
            case ["subjects", subject, "versions", version]:
                return self._version(subject, version)
            case _:
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def register(self, subject: str, schema: dict[str, object]) -> int:
        """Register a schema; return its id."""
        kept = {k: v for k, v in schema.items() if k in ("schema", "schemaType", "references")}
        if kept not in self._schemas:
            self._schemas.append(kept)
        number = self._schemas.index(kept) + 1
        versions = self._subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def _by_id(self, number: int) -> tuple[int, object]:
        if 0 < number <= len(self._schemas):
            return 200, self._schemas[number - 1]
        return 404, {"error_code": 40403, "message": f"Schema {number} not found"}

    def _registered(self, subject: str, body: dict[str, object]) -> tuple[int, object]:
        for version, number in enumerate(self._subjects.get(subject, []), 1):
            if self._schemas[number - 1].get("schema") == body.get("schema"):
                row = {"subject": subject, "id": number, "version": version}
                return 200, row | self._schemas[number - 1]
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def _version(self, subject: str, version: str) -> tuple[int, object]:
        versions = self._subjects.get(subject)
        if versions is None:
            return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
        at = len(versions) if version in ("latest", "-1") else int(version)
        if not 0 < at <= len(versions):
            return 404, {"error_code": 40402, "message": f"Version {version} not found."}
        number = versions[at - 1]
        return 200, {"subject": subject, "id": number, "version": at} | self._schemas[number - 1]


@contextmanager
def registry(user_info: str = "") -> Iterator[Registry]:
    """Run a registry while the block runs."""
    running = Registry(user_info)
    running.start()
    try:
        yield running
    finally:
        running.stop()
