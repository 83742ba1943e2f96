"""Commands about history: ``sql``, ``report``, ``retention`` and ``projections …``.

What answers them takes a second to import, so it is imported only when it is asked.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepfold_engine.cli import kafkaoptions, keeping
from stepfold_engine.cli.failures import USAGE, fail
from stepfold_engine.cli.remote import URL_DEFAULT, Url
from stepfold_engine.cli.serving import Host
from stepfold_engine.projecting import MISSING, NEEDED

if TYPE_CHECKING:
    from types import ModuleType

DATA_DEFAULT = Path(".stepfold")
FORMATS = ("table", "csv", "json", "parquet", "arrow")

Data = Annotated[
    Path | None,
    typer.Option("--data", help="A log's folder, or a copy of one: no engine is asked."),
]
Folder = Annotated[Path, typer.Option("--data", help="The folder of the log.")]
AsOf = Annotated[str, typer.Option("--as-of", help="What was known then: 2026-11-20T14:30 (UTC).")]
Out = Annotated[Path | None, typer.Option("--out", help="Write the answer to a file.")]
Days = Annotated[int, typer.Option(min=0, help="Days; 0 keeps them for ever.")]


def _answers() -> "ModuleType":
    try:
        from stepfold_engine.cli import answering  # noqa: PLC0415 - takes a second
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {*NEEDED, "prompt_toolkit"}:
            raise
        fail(MISSING, USAGE)
    return answering


def sql(  # noqa: PLR0913 - the options of a command
    question: Annotated[str, typer.Argument(metavar="[SELECT]", help="SQL; - reads it.")] = "",
    *,
    form: Annotated[
        str, typer.Option("--format", "-o", help=f"One of: {', '.join(FORMATS)}.")
    ] = "table",
    out: Out = None,
    as_of: AsOf = "",
    schema: Annotated[bool, typer.Option("--schema", help="Show tables and columns.")] = False,
    data: Data = None,
    url: Url = URL_DEFAULT,
) -> None:
    """Ask about runs, steps and events in SQL (DuckDB's). Without a question, a prompt.

    For example:

      stepfold sql "SELECT * FROM failures LIMIT 10"

      stepfold sql "SELECT function, count(*) FROM runs GROUP BY 1" --format csv

      stepfold sql --schema
    """
    if form not in FORMATS:
        fail(f"--format {form}: one of {', '.join(FORMATS)}", USAGE)
    if schema:
        _answers().print_schema(question)
    elif question:
        _answers().answer(question, form, out, as_of, data, url)
    else:
        _answers().talk(as_of, data, url)


def report(
    *,
    hours: Annotated[int, typer.Option("--hours", min=1, help="Up to the newest run.")] = 24,
    page: Annotated[Path | None, typer.Option("--html", help="Write one HTML page.")] = None,
    as_of: AsOf = "",
    data: Data = None,
    url: Url = URL_DEFAULT,
) -> None:
    """Print what most people want to know: runs, failures, slow and flaky steps, waits.

    For example:

      stepfold report --hours 168 --html report.html
    """
    _answers().report(hours, page, as_of, data, url)


def retention(
    *,
    completed: Days = 365,
    failed: Days = 730,
    cancelled: Days = 365,
    events: Days = 365,
    data: Folder = DATA_DEFAULT,
) -> None:
    """Show what is older than it is kept, and would go from a folder's tables.

    For example:

      stepfold retention --completed 90 --data .stepfold
    """
    _answers().retention((completed, failed, cancelled, events), data)


projections = typer.Typer(help="The tables behind SQL.", no_args_is_help=True)


@projections.command()
def run(  # noqa: PLR0913 - the options of a command
    *,
    data: Folder = DATA_DEFAULT,
    kafka: kafkaoptions.Servers = "",
    namespace: kafkaoptions.Namespace = "",
    events_prefix: kafkaoptions.EventsPrefix = kafkaoptions.EVENTS_PREFIX,
    config: kafkaoptions.Config = None,
    given: kafkaoptions.Given = None,
    host: Host = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=0, max=65_535, help="Answer POST /v1/sql there; 0: any."),
    ] = None,
) -> None:
    """Keep the tables of a log on Kafka in a folder, up to date, until stopped.

    It only reads Kafka. stepfold sql --data asks it, and so do processes that run functions with
    --projections. A second one on the same folder waits, and takes over when the first is gone.

    For example:

      stepfold projections run --kafka kafka-1:9092 --namespace shop --data ./tables --port 8289
    """
    log = keeping.Given(kafka, namespace, events_prefix, config, tuple(given or ()))
    keeping.run(log, data, host, port)


@projections.command()
def rebuild(
    data: Folder = DATA_DEFAULT,
    *,
    kafka: kafkaoptions.Servers = "",
    namespace: kafkaoptions.Namespace = "",
    events_prefix: kafkaoptions.EventsPrefix = kafkaoptions.EVENTS_PREFIX,
    config: kafkaoptions.Config = None,
    given: kafkaoptions.Given = None,
) -> None:
    """Make the tables anew from the log, beside the old ones. Nobody else may have them open.

    What the log no longer holds is taken over from the old tables.

    For example:

      stepfold projections rebuild --data .stepfold

      stepfold projections rebuild --data ./tables --kafka kafka-1:9092 --namespace shop
    """
    log = keeping.Given(kafka, namespace, events_prefix, config, tuple(given or ()))
    _answers().rebuild(data, keeping.opener(log, data))


@projections.command()
def publish(
    target: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write.")],
    data: Data = None,
    url: Url = URL_DEFAULT,
) -> None:
    """Write a copy of the tables that any DuckDB client can open.

    For example:

      stepfold projections publish /srv/shared/stepfold.duckdb
    """
    _answers().publish(target, data, url)
