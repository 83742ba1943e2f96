"""How commands fail: a message on standard error, and an exit code that scripts can tell apart."""

import sys
from typing import NoReturn

import typer

FAILED, USAGE, NO_ENGINE = 1, 2, 3


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End the command with a message."""
    sys.stdout.flush()
    typer.echo(message, err=True)
    raise typer.Exit(code)
