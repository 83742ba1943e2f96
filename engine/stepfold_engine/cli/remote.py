"""A client of a running engine, for the commands that talk to one."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Mapping
from typing import Annotated, NoReturn, cast

import typer

from stepfold_engine.cli.failures import NO_ENGINE, USAGE, fail

URL_DEFAULT = "http://127.0.0.1:8288"
TIMEOUT_S = 40.0
"""Longer than the engine itself waits for an answer."""

STREAM_TIMEOUT_S = 20.0
"""A stream says something every few seconds."""

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="STEPFOLD_URL",
        help="Where the engine is.",
        show_default=True,
    ),
]
Body = Mapping[str, object]


class RefusedError(Exception):
    """The engine refused a request; ``status`` says why, as in HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Remote:
    """Asks the engine at a URL. One that is not there ends the command."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            fail(f"--url {url}: it begins with http:// or https://", USAGE)

    def ask(
        self, method: str, path: str, *, query: Body | None = None, body: object = None
    ) -> object:
        """Return the JSON of the answer; None if it is empty.

        Raises:
            RefusedError: the engine refused.
        """
        try:
            with self._open(method, path, query, body) as answer:
                data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._not_there(error)
        try:
            return json.loads(data) if data else None
        except ValueError:
            fail(f"what answers at {self.url} is not a stepfold engine", NO_ENGINE)

    def data(
        self, method: str, path: str, *, query: Body | None = None, body: object = None
    ) -> object:
        """Return what the answer's envelope holds.

        Raises:
            RefusedError: the engine refused.
        """
        answer = self.ask(method, path, query=query, body=body)
        return cast("Body", answer).get("data") if isinstance(answer, dict) else None

    def download(self, path: str, *, query: Body | None = None) -> tuple[bytes, Mapping[str, str]]:
        """Return the bytes of an answer, and its headers, with names in lower case.

        Raises:
            RefusedError: the engine refused.
        """
        try:
            with self._open("GET", path, query, None) as answer:
                headers = {name.lower(): value for name, value in answer.getheaders()}
                return answer.read(), headers
        except (OSError, http.client.HTTPException) as error:
            self._not_there(error)

    def lines(self, path: str) -> Generator[Body]:
        """Yield the objects of a stream until it ends."""
        try:
            with self._open("GET", path, None, None, STREAM_TIMEOUT_S) as answer:
                for line in answer:
                    yield cast("Body", json.loads(line))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._not_there(error)

    def _open(
        self,
        method: str,
        path: str,
        query: Body | None,
        body: object,
        timeout_s: float = TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        url = self.url + path
        if query:
            url += "?" + urllib.parse.urlencode({k: v for k, v in query.items() if v})
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            url, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            opened = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - as above
        except urllib.error.HTTPError as error:
            with error:
                raise RefusedError(error.code, _message(error)) from error
        return cast("http.client.HTTPResponse", opened)  # what http and https URLs give

    def _not_there(self, error: Exception) -> NoReturn:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            text = f"no engine answers at {self.url}; start one with: stepfold dev app.py"
        else:
            text = (
                f"no engine answers at {self.url} ({reason}); start one with: stepfold dev app.py"
            )
        fail(text, NO_ENGINE)


def asked(ask: Callable[[Remote], object], url: str) -> object:
    """Ask; what is refused ends the command."""
    try:
        return ask(Remote(url))
    except RefusedError as error:
        fail(str(error), USAGE if error.status == 400 else 1)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        said = json.loads(error.read())
    except (OSError, ValueError):
        said = None
    if isinstance(said, dict) and (text := cast("Body", said).get("error")):
        return str(text)
    return f"{error.code} {error.reason}"
