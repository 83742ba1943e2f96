"""Requests over HTTP to the servers that stand beside brokers: registries, token endpoints."""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is; with ``tls`` it is spoken to over that."""

    host: str
    port: int | None
    tls: ssl.SSLContext | None = None

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: str | None = None,
        bytes_max: int = 1 << 20,
    ) -> tuple[int, bytes]:
        """Return an answer's status and, of what it says, as much as is wanted.

        Raises:
            OSError: nobody answers in time, or its certificate is not trusted.
            http.client.HTTPException: it does not speak HTTP.
        """
        connection: http.client.HTTPConnection
        if self.tls is not None:
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=ANSWER_S, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_S)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(bytes_max)
        finally:
            connection.close()


def json_object(data: bytes) -> Mapping[str, object]:
    """Return an answer's JSON object; an empty one if it is none."""
    try:
        found: object = json.loads(data)
    except ValueError:
        return {}
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}
