"""``stepfold dead-letters``: what could not be read, why, and a second chance for it."""

import base64
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import quote

import typer

from stepfold_engine.cli import tables
from stepfold_engine.cli.asking import OURS, AsJson, Limit
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.remote import URL_DEFAULT, Body, Remote, Url, asked
from stepfold_engine.cli.wording import text

PATH = f"{OURS}/dead-letters"
program = typer.Typer(
    help="What could not be read: list, show, send again.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
LetterId = Annotated[str, typer.Argument(metavar="ID", help="As the list shows it: 0-17.")]


@program.command("list")
def list_letters(limit: Limit = 20, as_json: AsJson = False, url: Url = URL_DEFAULT) -> None:
    """List dead letters, newest first."""
    found = asked(lambda remote: remote.data("GET", PATH, query={"limit": limit}), url)
    rows = cast("list[Body]", found)
    if as_json:
        tables.print_json(rows)
    else:
        tables.print_letters(tables.make_console(), rows)


@program.command()
def show(
    letter_id: LetterId,
    raw: Annotated[bool, typer.Option("--raw", help="Print the original bytes, only.")] = False,
    as_json: AsJson = False,
    url: Url = URL_DEFAULT,
) -> None:
    """Show a dead letter: why, where it lay, its key, headers and bytes."""
    found = asked(lambda remote: remote.data("GET", f"{PATH}/{quote(letter_id, safe='')}"), url)
    letter = cast("Body", found)
    if raw:
        sys.stdout.buffer.write(base64.b64decode(text(letter, "value")))
    elif as_json:
        tables.print_json([letter])
    else:
        tables.print_letter(tables.make_console(), letter)


@program.command()
def redrive(
    letter_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Which ones.")],
    value: Annotated[
        Path | None, typer.Option("--value", help="A file with the mended bytes, for one letter.")
    ] = None,
    url: Url = URL_DEFAULT,
) -> None:
    """Send events again that could not be read, as they were or mended.

    An event without an id has as its id where it lay first, so that it starts nothing twice.
    """
    if value is not None and len(letter_ids) > 1:
        fail("--value mends one letter; give one ID", USAGE)
    try:
        body = None if value is None else {"value": base64.b64encode(value.read_bytes()).decode()}
    except OSError as error:
        fail(f"--value {value}: {error.strerror}", USAGE)
    for letter_id in letter_ids:
        path = f"{PATH}/{quote(letter_id, safe='')}/redrive"
        found = asked(partial(Remote.data, method="POST", path=path, body=body), url)
        typer.echo(f"{letter_id} is sent again as {text(cast('Body', found), 'source')}")
