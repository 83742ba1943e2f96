"""``stepfold dev``: the engine and the functions of one file, in one process."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stepfold_engine.cli.development import Development, Options
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.loading import LoadError, NoSuchFileError, parse_target
from stepfold_engine.cli.serving import EventKeys, Host, Serves, checked_keys
from stepfold_engine.errors import EngineError
from stepfold_engine.log.moved import forget_move

AlwaysReplay = Annotated[
    bool,
    typer.Option(
        "--always-replay", help="Replay a run whenever something happens: finds divergence."
    ),
]
Data = Annotated[Path, typer.Option("--data", help="The folder of the log.")]
Reload = Annotated[
    bool, typer.Option("--reload/--no-reload", help="Load the code again when it changes.")
]
TakeBack = Annotated[
    bool,
    typer.Option("--take-back", help="Run a log here again although it was moved to Kafka."),
]
Partitions = Annotated[
    int | None,
    typer.Option("--partitions", min=1, max=64, help="Of a new log; fixed from then on."),
]
Projections = Annotated[
    bool,
    typer.Option(
        "--projections/--no-projections",
        envvar="STEPFOLD_PROJECTIONS",
        help="Keep tables for SQL, in a process of its own.",
    ),
]


def dev(  # noqa: PLR0913 - the options of a command
    file: Annotated[
        str, typer.Argument(metavar="FILE[:APP]", help="A Python file with an App in it.")
    ],
    *,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65_535, help="0 chooses a free one.")
    ] = 8288,
    host: Host = "127.0.0.1",
    data: Data = Path(".stepfold"),
    partitions: Partitions = None,
    reload: Reload = True,
    always_replay: AlwaysReplay = False,
    event_key: EventKeys = None,
    serves: Serves = None,
    projections: Projections = True,
    take_back: TakeBack = False,
) -> None:
    """Run the functions of a file, with the engine, on this machine.

    Everything is kept in one folder and survives a restart. The code is loaded again when a file
    changes. Ctrl-C stops it; what was going on goes on at the next start.

    For example:

      stepfold dev app.py

      stepfold dev shop/functions.py:app --port 9000 --data /var/lib/shop
    """
    keys = checked_keys(host, event_key)
    console = Console(highlight=False, markup=False, emoji=False)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("stepfold").setLevel(logging.INFO)
    try:
        target = parse_target(file)
        options = Options(
            target,
            host,
            port,
            data,
            partitions,
            reload,
            always_replay,
            keys,
            projections,
            tuple(serves or ()),
        )
        if take_back:
            forget_move(data)
        asyncio.run(Development(options, console).run())
    except NoSuchFileError as error:
        fail(str(error), USAGE)
    except (LoadError, EngineError) as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("stopped at once; what was going on goes on at the next start", 130)
