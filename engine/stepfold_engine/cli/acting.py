"""Commands that act on runs: rerun, resume, cancel. Who asks, and why, is recorded."""

import getpass
import json
import socket
from pathlib import Path
from typing import Annotated, cast

import typer

from stepfold_engine.cli import bulk
from stepfold_engine.cli.asking import OURS, RunId, quoted
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.remote import URL_DEFAULT, Body, Url, asked

Why = Annotated[str, typer.Option("--why", help="Why, for who reads the run's journal.")]
By = Annotated[
    str, typer.Option("--by", envvar="STEPFOLD_USER", help="Who asks; you, if not given.")
]


OldRun = Annotated[str, typer.Argument(metavar="[RUN_ID]", help="A run's id; or give --where.")]
FromStep = Annotated[
    str, typer.Option("--from", metavar="STEP", help="Share what was recorded before it.")
]
FromFailure = Annotated[
    bool, typer.Option("--from-failure", help="Begin at the step that made the run fail.")
]
Input = Annotated[
    str, typer.Option("--input", metavar="JSON", help="In place of the event's data.")
]
Again = Annotated[
    str, typer.Option("--again", metavar="NAME", help="Another rerun than those before.")
]
Where = Annotated[
    str, typer.Option("--where", metavar="SQL", help="All runs of which this is true.")
]
State = Annotated[Path | None, typer.Option("--state", help="Where --where notes how far it came.")]


def rerun(  # noqa: PLR0913 - the options of a command
    run_id: OldRun = "",
    *,
    from_step: FromStep = "",
    from_failure: FromFailure = False,
    given: Input = "",
    again: Again = "",
    where: Where = "",
    rate: Annotated[float, typer.Option("--rate", help="Reruns a second, with --where.")] = 20.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    state: State = None,
    why: Why = "",
    by: By = "",
    url: Url = URL_DEFAULT,
) -> None:
    """Start a run again: from its start, from a step, or from where it failed.

    It is a new run, which shares what the old one recorded before the step. The same rerun asked
    for again within a day is the same run. With --where it is done for many; stopped in between,
    the same command goes on.

    For example:

      stepfold rerun 4K2M9QZ1 --from charge --why "the card service is back"

      stepfold rerun --where "status = 'failed' AND function = 'shop-fulfil'" --from-failure
    """
    body = _body(run_id, where, from_step, given, from_failure=from_failure)
    body |= {"asked_by": by or me(), "why": why, "tag": again}
    if where:
        if rate <= 0:
            fail(f"--rate {rate}: a number above 0", USAGE)
        bulk.rerun_all(bulk.Bulk(where, body, rate, state, url), dry_run=dry_run, yes=yes)
        return
    path = f"{OURS}/runs/{quoted(run_id)}/rerun"
    if dry_run:
        fail("--dry-run goes with --where", USAGE)
    done = cast("Body", asked(lambda remote: remote.data("POST", path, body=body), url))
    note = ", asked for before; --again NAME makes another" if done.get("repeated") else ""
    typer.echo(f"{done['run_id']} is a rerun of {done['rerun_of']}{note}")


def _body(
    run_id: str, where: str, from_step: str, given: str, *, from_failure: bool
) -> dict[str, object]:
    if bool(run_id) == bool(where):
        fail("give a run's id, or --where with a condition on runs", USAGE)
    if from_step and from_failure:
        fail("--from names a step, --from-failure finds it: give one of them", USAGE)
    body: dict[str, object] = {"from": from_step, "from_failure": from_failure}
    if given:
        try:
            body["input"] = json.loads(given)
        except ValueError as error:
            fail(f"--input is not JSON: {error}", USAGE)
    return body


def cancel(run_id: RunId, why: Why = "", by: By = "", url: Url = URL_DEFAULT) -> None:
    """Cancel a run.

    For example:

      stepfold cancel 4K2M9QZ1 --why "the order was a test"
    """
    path, body = f"{OURS}/runs/{quoted(run_id)}", {"asked_by": by or me(), "why": why}
    done = cast("Body", asked(lambda remote: remote.data("DELETE", path, body=body), url))
    typer.echo(f"cancelled {done['run_id']}")


def resume(run_id: RunId, why: Why = "", by: By = "", url: Url = URL_DEFAULT) -> None:
    """Let a stopped run go on, when its code has been put right.

    For example:

      stepfold resume 4K2M9QZ1 --why "the old code is back"
    """
    path, body = f"{OURS}/runs/{quoted(run_id)}/resume", {"asked_by": by or me(), "why": why}
    done = cast("Body", asked(lambda remote: remote.data("POST", path, body=body), url))
    typer.echo(f"resumed {done['run_id']}")


def me() -> str:
    """Return who uses the command, as far as the machine knows."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "somebody"
    return f"{name}@{socket.gethostname()}"
