"""Commands that ask a running engine: send, runs, run, events, signal."""

import json
import re
import sys
import time
import urllib.parse
from typing import Annotated, cast

import typer

from stepfold_engine.cli import tables
from stepfold_engine.cli.console import print_line
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.remote import URL_DEFAULT, Body, RefusedError, Remote, Url, asked
from stepfold_engine.cli.wording import described, number, text
from stepfold_engine.history import STATUSES
from stepfold_schemas.ids import ULID_CHARS, parse_ulid

OURS = "/stepfold/v1"
SHORT_ID_CHARS = 8

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)")
_AGO_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}

JsonText = Annotated[str, typer.Argument(metavar="[JSON]", help="A JSON value; - reads it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="How many at most.")]
RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID", help="A run's id, its beginning, or its last eight characters."
    ),
]
Key = Annotated[str, typer.Option("--key", envvar="STEPFOLD_EVENT_KEY", help="The event key.")]


def send(  # noqa: PLR0913 - the options of a command
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name.")],
    data: JsonText = "{}",
    *,
    id: Annotated[  # noqa: A002 - the option's name
        str, typer.Option("--id", help="Sent again with the same id, it starts nothing twice.")
    ] = "",
    ts: Annotated[int, typer.Option("--ts", help="When it happened, ms since 1970.")] = 0,
    user: Annotated[str, typer.Option("--user", help="A JSON object about who it concerns.")] = "",
    key: Key = "dev",
    url: Url = URL_DEFAULT,
) -> None:
    """Send an event; print the id it was given.

    For example:

      stepfold send shop/order.paid '{"order": 7}'

      stepfold send shop/order.paid --id order-7 - < order.json
    """
    body: dict[str, object] = {"name": name, "data": _json(data, "the data")}
    if id:
        body["id"] = id
    if ts:
        body["ts"] = ts
    if user:
        body["user"] = _json(user, "--user")
    path = f"/e/{urllib.parse.quote(key, safe='')}"
    answer = asked(lambda remote: remote.ask("POST", path, body=body), url)
    typer.echo(cast("dict[str, list[str]]", answer)["ids"][0])


def runs(  # noqa: PLR0913 - the options of a command
    *,
    status: Annotated[
        str, typer.Option("--status", "-s", help=f"One of: {', '.join(STATUSES)}.")
    ] = "",
    function: Annotated[str, typer.Option("--function", "-f", help="A function's full id.")] = "",
    since: Annotated[str, typer.Option("--since", help="Such as 90s, 15m, 1h, 2d.")] = "",
    limit: Limit = 20,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow what happens.")] = False,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
) -> None:
    """List runs, newest first.

    For example:

      stepfold runs --status failed --since 1h

      stepfold runs --watch --function shop-fulfil
    """
    query = {
        "status": status,
        "function": function,
        "since_ms": since_ms(since),
        "limit": limit,
    }
    found = asked(lambda remote: remote.data("GET", f"{OURS}/runs", query=query), url)
    rows = cast("list[Body]", found)
    if as_json:
        tables.print_json(rows)
    elif rows or not watch:
        tables.print_runs(tables.make_console(), list(reversed(rows)) if watch else rows)
    if watch:
        _watch(Remote(url), function, as_json=as_json)


def run(run_id: RunId, as_json: AsJson = False, url: Url = URL_DEFAULT) -> None:
    """Show a run: where it stands, and everything that happened to it.

    For example:

      stepfold run 4K2M9QZ1
    """
    path = f"{OURS}/runs/{quoted(run_id)}"
    head = cast("Body", asked(lambda remote: remote.data("GET", path), url))
    whole = f"{OURS}/runs/{head['id']}/timeline"
    try:
        entries = cast("list[Body]", Remote(url).data("GET", whole))
        note = ""
    except RefusedError as error:
        entries, note = [], f"its journal cannot be shown: {error}"
    if as_json:
        tables.print_json([{**head, "timeline": entries}])
        return
    tables.print_run(tables.make_console(), head, entries)
    if note:
        typer.echo(note, err=True)


def events(
    name: Annotated[str, typer.Option("--name", help="Only events of this name.")] = "",
    limit: Limit = 20,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
) -> None:
    """List events, newest first.

    For example:

      stepfold events --name shop/order.paid --limit 5
    """
    query = {"name": name, "limit": limit}
    rows = cast("list[Body]", asked(lambda r: r.data("GET", "/v1/events", query=query), url))
    if as_json:
        tables.print_json(rows)
    else:
        tables.print_events(tables.make_console(), rows)


def signal(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The signal's name.")],
    data: JsonText = "null",
    url: Url = URL_DEFAULT,
) -> None:
    """Send a signal to the run that waits for it; print that run's id.

    For example:

      stepfold signal approval-7 '{"approved": true}'
    """
    body = {"signal": name, "data": _json(data, "the data")}
    answer = asked(lambda remote: remote.ask("POST", "/v1/signals", body=body), url)
    typer.echo(cast("dict[str, dict[str, str]]", answer)["data"]["run_id"])


def _watch(remote: Remote, function: str, *, as_json: bool) -> None:
    console = tables.make_console()
    try:
        for item in remote.lines(f"{OURS}/live"):
            if (lost := number(item, "dropped")) and not as_json:
                console.print(f"… {lost:,} more entries")
            if not item.get("type") or (function and text(item, "function") != function):
                continue
            if as_json:
                tables.print_json([item])
            elif (line := described(item)) is not None:
                print_line(console, item, text(item, "run")[-SHORT_ID_CHARS:], line)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _json(given: str, what: str) -> object:
    try:
        return json.loads(sys.stdin.read() if given == "-" else given)
    except ValueError as error:
        fail(f"{what} is not JSON: {error}", USAGE)


def since_ms(since: str) -> int:
    """Return the time so long ago; 0 for "". What is none ends the command."""
    if not since:
        return 0
    found = _AGO.fullmatch(since.strip())
    if found is None:
        fail(f"--since {since}: write a number and a unit, such as 90s, 15m, 1h or 2d", USAGE)
    return int(time.time() * 1000 - float(found[1]) * _AGO_MS[found[2]])


def quoted(run_id: str) -> str:
    """Return a part of a run's id as a path holds it; what is none ends the command."""
    # With zeros before it any part of an id is one.
    try:
        parse_ulid(run_id if len(run_id) == ULID_CHARS else run_id.rjust(ULID_CHARS, "0"))
    except ValueError:
        fail(f"{run_id} is not a run's id, nor the beginning or the end of one", USAGE)
    return run_id
