"""The command ``stepfold``: its commands, and what they have in common."""

from typing import Annotated

import typer

from stepfold_engine.cli import (
    acting,
    asking,
    checks,
    dev,
    diffs,
    exports,
    functions,
    letters,
    replays,
    sql,
)
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.wire.replies import release

try:
    from stepfold_engine.cli.sharing import add_commands
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "aiokafka":
        raise

    def add_commands(program: typer.Typer) -> None:
        """Add the commands that can do without Kafka's client."""
        program.command()(asking.run)
        program.command("topics")(_without_kafka)
        program.command("log")(_without_kafka)


HELP = """\
Durable functions on a log.

Write functions in app.py, then:

  stepfold dev app.py                             run them, with the engine, on this machine

  stepfold send shop/order.paid '{"order": 7}'    send an event

  stepfold runs                                   see what ran

  stepfold run RUN_ID                             see what happened in a run

  stepfold run app.py --kafka HOST:PORT           run them on Kafka, in several processes

Exit codes: 0 fine, 1 what was asked for failed, 2 wrong usage, 3 no engine answers.
"""

program = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _without_kafka() -> None:
    """Use Kafka (needs: pip install 'stepfold[engine,kafka]')."""
    fail("this command needs Kafka's client: pip install 'stepfold[engine,kafka]'", USAGE)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stepfold {release()}")
        raise typer.Exit


@program.callback()
def _common(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    pass


program.command()(dev.dev)
program.command()(asking.send)
program.command()(asking.runs)
add_commands(program)
program.command()(functions.functions)
program.command()(asking.events)
program.command()(acting.cancel)
program.command()(acting.resume)
program.command()(acting.rerun)
program.command()(asking.signal)
program.add_typer(letters.program, name="dead-letters")
program.command()(exports.export)
program.command()(replays.replay)
program.command()(diffs.diff)
program.command()(checks.replay_check)


program.command()(sql.sql)
program.command()(sql.report)
program.command()(sql.retention)
program.add_typer(sql.projections, name="projections")


def main() -> None:
    """Run the command line."""
    program(prog_name="stepfold")
