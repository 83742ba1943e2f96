"""What answers the commands about history (``cli.sql``)."""

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import typer
from rich.console import Console

from stepfold_engine.cli.bars import bar
from stepfold_engine.cli.failures import FAILED, NO_ENGINE, USAGE, fail
from stepfold_engine.cli.prompt import converse
from stepfold_engine.cli.sqltables import WIDE, print_table, wide_console
from stepfold_engine.sources import FolderSource
from stepfold_projections import archive, keeping
from stepfold_projections import report as reports
from stepfold_projections.asking import (
    Asked,
    Engine,
    Folder,
    Kept,
    NoEngineError,
    Result,
    opened,
    tables_in,
)
from stepfold_projections.catalogue import BY_NAME, describe
from stepfold_projections.publish import publish as publish_tables
from stepfold_projections.queries import QueryError
from stepfold_projections.source import Source, SourceError
from stepfold_projections.store import BusyError

_T = TypeVar("_T")


def print_schema(name: str) -> None:
    """Print the tables, or one with its columns."""
    if name and name not in BY_NAME:
        fail(f"there is no table {name}; there are: {', '.join(BY_NAME)}", USAGE)
    typer.echo(describe(name))


def answer(
    question: str, form: str, out: Path | None, as_of: str, data: Path | None, url: str
) -> None:
    """Ask, and print or write the answer."""
    text = sys.stdin.read() if question == "-" else question
    with asked(data, url) as tables:
        show(tables.ask(text, as_of), form, out)


def talk(as_of: str, data: Path | None, url: str) -> None:
    """Ask and answer at a prompt."""
    with asked(data, url) as tables:
        converse(tables, as_of)


def report(hours: int, page: Path | None, as_of: str, data: Path | None, url: str) -> None:
    """Print the report, or write it as a page."""
    with asked(data, url) as tables:
        parts, over_time = reports.gather(tables, hours, as_of)
    if page is not None:
        page.write_text(reports.page(parts, over_time))
        typer.echo(f"written: {page}")
        return
    console = wide_console()
    for line in reports.lines_of(over_time):
        console.print(line)
    for part in parts:
        console.print(f"\n{part.title}", style="bold")
        if part.result.arrow.num_rows:
            print_table(console, part.result)
        else:
            console.print(part.empty)


def retention(days: tuple[int, int, int, int], data: Path) -> None:
    """Print what is older than it is kept."""
    keep = archive.Retention(*days)
    with _folder(data, opened) as folder:
        rows = archive.expired(folder.store, keep, datetime.now(UTC).replace(tzinfo=None))
    for what, before, count in rows:
        typer.echo(f"{count:>10,}  {what} from before {before}")


def rebuild(data: Path, source: Callable[[], Source]) -> None:
    """Make a folder's tables anew."""
    try:
        with bar("reading the log") as shown, closing(source()) as log:
            keeping.rebuild(keeping.tables_of(data), log, shown)
    except (SourceError, BusyError) as error:
        fail(str(error), FAILED)
    typer.echo(f"made anew: {keeping.tables_of(data)}")


def publish(target: Path, data: Path | None, url: str) -> None:
    """Write a copy of the tables."""
    with asked(data, url) as tables:
        if isinstance(tables, Folder):
            size = publish_tables(tables.store, target)
        else:
            assert isinstance(tables, Engine | Kept), "there are no others"
            size = tables.publish(target.absolute())
    typer.echo(f"published: {target}, {size:,} bytes")


@contextmanager
def asked(data: Path | None, url: str) -> Generator[Asked]:
    """Give who can be asked; what is refused ends the command."""
    if data is not None:
        with _folder(data, tables_in) as found:
            yield found
        return
    try:
        yield Engine(url)
    except NoEngineError as error:
        fail(f"{error}; for the tables of a folder: --data FOLDER", NO_ENGINE)
    except QueryError as error:
        fail(str(error), USAGE if error.status == 400 else FAILED)


@contextmanager
def _folder(data: Path, give: Callable[..., AbstractContextManager[_T]]) -> Generator[_T]:
    """Give what is to be asked about a folder; what is refused ends the command."""

    def log() -> Source | None:
        if (data / "log.db").exists() or not keeping.tables_of(data).exists():
            return FolderSource(data)
        typer.echo(f"{data} holds no log: its tables stand as they were left", err=True)
        return None

    try:
        with bar("reading the log") as shown, give(data, log, shown) as found:
            yield found
    except QueryError as error:
        fail(str(error), USAGE if error.status == 400 else FAILED)
    except SourceError as error:
        fail(str(error), FAILED)


def show(result: Result, form: str, out: Path | None) -> None:
    """Print an answer, or write it to a file."""
    if form != "table":
        data = result.bytes(form)
        if out is not None:
            out.write_bytes(data)
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    elif out is not None:
        with out.open("w") as file:
            print_table(Console(file=file, width=WIDE), result)
    else:
        print_table(wide_console(), result)
    if result.cut:
        typer.echo(f"only the first {result.arrow.num_rows:,} rows are shown", err=True)
