"""``stepfold diff``: two runs of a function side by side."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.fetching import (
    Data,
    Kafka,
    Namespace,
    Where,
    runs_of,
)
from stepfold_engine.cli.kafkaoptions import EVENTS_PREFIX, EventsPrefix
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.cli.tables import make_console
from stepfold_engine.cli.wording import BAD, MILD, OK, clock, duration
from stepfold_engine.recordings import facts_in
from stepfold_engine.replaying.comparing import Comparison, Row, compare
from stepfold_engine.replaying.telling import end_of, short, what
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.runfile import ExportedRun

Ref = Annotated[str, typer.Argument(help="A file made by stepfold export, or a run's id.")]


def diff(  # noqa: PLR0913 - the options of a command
    run_a: Ref,
    run_b: Ref,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also what is the same.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = None,
    kafka: Kafka = "",
    namespace: Namespace = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    url: Url = URL_DEFAULT,
) -> None:
    """Compare two runs of a function: where they part, and in which values.

    Exit code 0 if they are alike, 1 if they differ.

    For example:

      stepfold diff good.avro bad.avro

      stepfold diff 4K2M9QZ1 7T3N8RB2
    """
    where = Where(url, data, kafka, namespace, events_prefix)
    one, other = runs_of(run_a, where).first, runs_of(run_b, where).first
    try:
        found = compare(one, other)
    except ValueError as error:
        fail(str(error), USAGE)
    if as_json:
        typer.echo(json.dumps(_plain(found, one, other), ensure_ascii=False))
    else:
        _print(make_console(), found, one, other, everything=everything)
    raise typer.Exit(0 if found.part is None and not found.order else 1)


def _plain(found: Comparison, one: ExportedRun, other: ExportedRun) -> dict[str, object]:
    rows = [row for row in found.rows if row.differs]
    return {
        "runs": [ulid_text(one.run), ulid_text(other.run)],
        "function": one.function,
        "parts_at": _title(found.part) if found.part is not None else None,
        "order": found.order or None,
        "differences": [
            {
                "kind": row.kind,
                "step": row.name,
                "in": [row.one is not None, row.other is not None]
                if row.kind not in ("event", "end")
                else [True, True],
                "values": [asdict(d) for d in row.differences],
            }
            for row in rows
        ],
    }


def _print(
    console: Console, found: Comparison, one: ExportedRun, other: ExportedRun, *, everything: bool
) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    for letter, run in (("A", one), ("B", other)):
        code = "" if one.fingerprint == other.fingerprint else f", code {run.fingerprint[:12]}"
        head = (
            f"{letter}  {ulid_text(run.run)}  {run.function}, began {clock(run.started_ms)}{code}"
        )
        say(head, "bold")
        say(f"   {end_of(run, facts_in(run))}", MILD)
    say("")
    if found.part is None:
        say("they are alike: the same event, the same outcomes, the same end", OK)
    else:
        say(f"they part at {_title(found.part)}", BAD)
    if found.order:
        say(f"their order differs: {found.order}", BAD)
    for row in found.rows:
        if row.differs or everything:
            _print_row(say, row)


def _print_row(say: Callable[..., None], row: Row) -> None:
    say("")
    say(f"{_title(row)}{_times(row)}", "bold" if row.differs else MILD)
    if row.kind not in ("event", "end") and (row.one is None or row.other is None):
        say(f"  only in {'B' if row.one is None else 'A'}", BAD)
    for difference in row.differences:
        path = difference.path or "value"
        say(f"  {path}")
        say(f"    A  {short(difference.one, 300)}", BAD)
        say(f"    B  {short(difference.other, 300)}", OK)


def _title(row: Row) -> str:
    titles = {"event": "the event", "end": "the end"}
    return titles.get(row.kind) or what(row.kind, row.name)


def _times(row: Row) -> str:
    if row.one is None or row.other is None:
        return ""
    took = [duration(step.took_ms) for step in (row.one, row.other)]
    tries = [step.attempt for step in (row.one, row.other)]
    attempts = f", attempts {tries[0]} | {tries[1]}" if tries[0] != tries[1] else ""
    return f"  ({took[0]} | {took[1]}{attempts})"
