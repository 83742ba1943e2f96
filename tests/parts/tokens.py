"""A token endpoint for tests, as RFC 6749 has it; its tokens name somebody and are not signed."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

CLIENT, SECRET = "shop client", "secret/+1"


class Endpoint:
    """The endpoint.

    Attributes:
        life_s: how long its tokens live, in seconds.
        given: how many it gave.
        scopes: what was asked for.
    """

    def __init__(self) -> None:
        self.life_s, self.given = 3_600.0, 0
        self.scopes: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                status, answer = endpoint.answer(body, self.headers.get("authorization", ""))
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/token"

    def answer(self, body: str, said: str) -> tuple[int, dict[str, object]]:
        asked = {name: values[0] for name, values in parse_qs(body).items()}
        wanted = base64.b64encode(b"shop%20client:secret%2F%2B1").decode()
        if asked.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        if said != f"Basic {wanted}":
            return 401, {"error": "invalid_client"}
        self.given += 1
        self.scopes.append(asked.get("scope", ""))
        now_s = time.time()
        claims = {"sub": "shop", "iat": now_s, "exp": now_s + self.life_s}
        token = f"{_part({'alg': 'none'})}.{_part(claims)}."
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": self.life_s}


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Run an endpoint while the block runs."""
    running = Endpoint()
    threading.Thread(target=running.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()


def _part(claims: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
