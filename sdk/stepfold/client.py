"""A client of a stepfold server over HTTP, for programs that are not part of one."""

import asyncio
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, cast

from stepfold import serde
from stepfold.errors import ClientError
from stepfold.events import NewEvent, Sendable, listed, stamp_ms, wall_ms
from stepfold_schemas.ids import parse_ulid

URL_VARIABLE = "STEPFOLD_URL"
KEY_VARIABLE = "STEPFOLD_EVENT_KEY"
URL_DEFAULT = "http://127.0.0.1:8288"
KEY_DEFAULT = "dev"
TIMEOUT_S = 30.0


class Client:
    """Sends events to a server and asks it about runs.

    Args:
        url: where the server is; ``$STEPFOLD_URL`` if not given, else this machine's port 8288.
        key: the event key; ``$STEPFOLD_EVENT_KEY`` if not given. A development server takes any.
        timeout_s: how long to wait for an answer.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = (url or os.environ.get(URL_VARIABLE) or URL_DEFAULT).rstrip("/")
        self._key = key or os.environ.get(KEY_VARIABLE) or KEY_DEFAULT
        self._timeout_s = timeout_s
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"the server's URL is {self.url!r}: it begins with http:// or https://"
            )

    def send(self, events: Sendable | Sequence[Sendable]) -> list[str]:
        """Send one event or several; return the ids they were given when they were taken in.

        Raises:
            ValueError: an event is not well formed.
            ClientError: the server refused one, or could not be reached.
        """
        body = [_body(event) for event in listed(events)]
        key = urllib.parse.quote(self._key, safe="")
        answer = self._request("POST", f"/e/{key}", body)
        return [str(one) for one in answer["ids"]]

    async def send_async(self, events: Sendable | Sequence[Sendable]) -> list[str]:
        """Send without blocking the event loop; see ``send``."""
        return await asyncio.to_thread(self.send, events)

    def run(self, run_id: str) -> dict[str, Any]:
        """Return what the server knows of a run.

        Raises:
            ValueError: this is no run id.
            ClientError: there is no such run, or the server could not be reached.
        """
        return cast("dict[str, Any]", self._request("GET", f"/v1/runs/{_run(run_id)}")["data"])

    def runs_of(self, event_id: str) -> list[dict[str, Any]]:
        """Return the runs that an event started, by the id that ``send`` returned.

        Raises:
            ClientError: there is no such event, or the server could not be reached.
        """
        path = f"/v1/events/{urllib.parse.quote(event_id, safe='')}/runs"
        return cast("list[dict[str, Any]]", self._request("GET", path)["data"])

    def cancel(self, run_id: str) -> None:
        """Cancel a run.

        Raises:
            ValueError: this is no run id.
            ClientError: there is no such run, or the server could not be reached.
        """
        self._request("DELETE", f"/v1/runs/{_run(run_id)}")

    def signal(self, name: str, data: object = None) -> str | None:
        """Send a signal; return the id of the run that got it, None if none waited for it.

        Raises:
            ClientError: the server refused it, or could not be reached.
        """
        try:
            answer = self._request("POST", "/v1/signals", {"signal": name, "data": data})
        except ClientError as error:
            if error.status == 404:
                return None
            raise
        return str(answer["data"]["run_id"])

    def _request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else serde.dumps(body)
        headers = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            self.url + path, data, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310 - as above
                return _read(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                said = _message(error.read())
            msg = f"{method} {path}: {error.code} {said or error.reason}"
            raise ClientError(msg, status=error.code) from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            msg = (
                f"no answer from {self.url}: {reason}. Is the server running? Its address is taken"
                f" from ${URL_VARIABLE}, or given as Client(url)"
            )
            raise ClientError(msg) from error


def _body(event: NewEvent) -> dict[str, Any]:
    body: dict[str, Any] = {"name": event.name, "data": event.data}
    if event.id is not None:
        body["id"] = event.id
    if event.ts is not None:
        body["ts"] = stamp_ms(event, wall_ms())
    if event.user is not None:
        body["user"] = event.user
    return body


def _run(run_id: str) -> str:
    parse_ulid(run_id)
    return run_id


def _read(data: bytes) -> dict[str, Any]:
    if not data:
        return {}
    try:
        return cast("dict[str, Any]", json.loads(data))
    except ValueError as error:
        raise ClientError(f"the server's answer is not JSON: {data[:80]!r}") from error


def _message(data: bytes) -> str:
    try:
        answer = json.loads(data)
    except ValueError:
        return data[:200].decode(errors="replace")
    if not isinstance(answer, dict):
        return str(answer)  # pyright: ignore[reportUnknownArgumentType] - JSON is anything
    said = cast("dict[str, Any]", answer)
    return str(said.get("error") or said.get("message") or said)
