"""``stepfold export``: a run, with its history, as one file."""

import time
from pathlib import Path
from typing import Annotated

import typer

from stepfold_engine.cli.asking import RunId
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.fetching import (
    ENDING,
    Data,
    Kafka,
    Namespace,
    Where,
    runs_of,
    write_file,
)
from stepfold_engine.cli.kafkaoptions import EVENTS_PREFIX, EventsPrefix
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.exporting.redaction import RedactionError, redacted
from stepfold_engine.recordings import missing_from
from stepfold_engine.wire.replies import release
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.runfile import RunFile

Redact = Annotated[
    list[str] | None,
    typer.Option(
        "--redact",
        metavar="PATHS",
        help="Replace values: event.data.card, step.charge.token, result.x, errors, or a key"
        " wherever it is. Several: with commas, or repeated.",
    ),
]


def export(  # noqa: PLR0913 - the options of a command
    run_id: RunId,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; RUN_ID.avro if not given.")
    ] = None,
    related: Annotated[
        bool, typer.Option("--with-related", help="Also the runs that it invoked.")
    ] = False,
    redact: Redact = None,
    data: Data = None,
    kafka: Kafka = "",
    namespace: Namespace = "",
    events_prefix: EventsPrefix = EVENTS_PREFIX,
    url: Url = URL_DEFAULT,
) -> None:
    """Write a run, with its whole history, to one file, to be replayed anywhere.

    From a running engine; or, without one, from a log's folder or from Kafka, which are only read.

    For example:

      stepfold export 4K2M9QZ1 -o run.avro --redact event.data.card,password

      stepfold export 01JQ… --kafka kafka-1:9092 --namespace shop
    """
    if run_id.endswith(ENDING):
        fail(f"{run_id} is a file already; give a run's id", USAGE)
    file = runs_of(run_id, Where(url, data, kafka, namespace, events_prefix), related=related)
    paths = [path for given in redact or [] for path in given.split(",")]
    try:
        runs = [redacted(run, paths) for run in file.runs]
    except RedactionError as error:
        fail(str(error), USAGE)
    target = out or Path(ulid_text(file.first.run) + ENDING)
    source = f"Kafka {kafka}" if kafka else str(data or url)
    made_ms = time.time_ns() // 1_000_000
    size = write_file(target, RunFile(runs, release(), made_ms, source))
    first, others = runs[0], len(runs) - 1
    also = f" and {others} related" if others else ""
    typer.echo(f"written: {target}, {size:,} bytes: run {ulid_text(first.run)}{also}")
    typer.echo(f"  {first.function}, {first.status}, {len(first.journal)} entries")
    for one in missing_from(file.runs) if related else ():
        text = f"what step {one.name!r} of run {ulid_text(one.run)} invoked ({one.function})"
        typer.echo(f"  left out: {text}: it has not started, or its recording is nowhere")
    if paths:
        typer.echo(f"  redacted: {', '.join(paths)}")
