"""What the commands that run functions have in common: who may send events, and when they stop."""

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.wire.server import LOCAL

STOPS = (signal.SIGINT, signal.SIGTERM)

EventKeys = Annotated[
    list[str] | None,
    typer.Option("--event-key", help="Only these keys may send events. May be repeated."),
]
Host = Annotated[str, typer.Option("--host", help="The address to listen on.")]
Serves = Annotated[
    list[str] | None,
    typer.Option("--serves", help="Go on with pinned runs of this version, too. May be repeated."),
]


def checked_keys(host: str, given: list[str] | None) -> tuple[str, ...]:
    """Return the event keys; end the command if anybody in the network could send events."""
    keys = tuple(key for key in given or [] if key)
    if host not in LOCAL and not keys:
        text = f"--host {host} lets others send events: say with --event-key KEY who may"
        fail(text, USAGE)
    return keys


@contextmanager
def stopping(stop: asyncio.Event) -> Generator[None]:
    """While the block runs, let Ctrl-C and SIGTERM set an event.

    A second signal finds no handler any more and stops the process at once.
    """
    loop = asyncio.get_running_loop()

    def told() -> None:
        stop.set()
        for number in STOPS:
            loop.remove_signal_handler(number)

    for number in STOPS:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in STOPS:
            loop.remove_signal_handler(number)
