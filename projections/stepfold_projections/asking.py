"""Questions from Python and the command line: to a running engine, or to a copied folder."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeArgument=false, reportMissingTypeStubs=false

import http.client
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import duckdb

from stepfold_projections import keeper
from stepfold_projections.arrow import ArrowTable
from stepfold_projections.keeping import open_tables, tables_of
from stepfold_projections.output import plain, read_stream, rows_of, written
from stepfold_projections.projector import Progress, Projector
from stepfold_projections.queries import Desk, Limits, QueryError
from stepfold_projections.source import Source
from stepfold_projections.store import BusyError, Store

ARROW = "application/vnd.apache.arrow.stream"
TIMEOUT_S = 150.0
LOCAL_LIMITS = Limits(seconds=3_600.0, rows=10_000_000)
"""Of a folder's own questions: nobody else waits for them."""


@dataclass(frozen=True, slots=True)
class Result:
    """An answer: ``arrow``, ``pandas()``, ``polars()``, or rows. ``cut``: there were more rows."""

    arrow: ArrowTable
    cut: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        rows: list[dict[str, Any]] = self.arrow.to_pylist()
        return rows

    def pandas(self) -> Any:
        """Return a pandas DataFrame; pandas must be installed."""
        return self.arrow.to_pandas()

    def polars(self) -> Any:
        """Return a polars DataFrame."""
        import polars as pl  # noqa: PLC0415 - takes a moment, and few want it

        return pl.from_arrow(self.arrow)

    def bytes(self, form: str) -> bytes:
        """Return it as ``csv``, ``json``, ``parquet`` or ``arrow``."""
        return written(self.arrow, form)


class NoEngineError(Exception):
    """No engine answers there."""


class Asked(Protocol):
    """Who can be asked."""

    def ask(self, sql: str, as_of: str = "") -> Result:
        """Return the answer.

        Raises:
            QueryError: it was refused, or is wrong.
        """
        ...


class Engine:
    """A running engine, through its API."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise QueryError(f"{url}: an engine's address begins with http:// or https://")
        self.url = url.rstrip("/")

    def ask(self, sql: str, as_of: str = "") -> Result:
        """Return the answer; see ``Asked``.

        Raises:
            NoEngineError: no engine answers.
            QueryError: it was refused, or is wrong.
        """
        body = json.dumps({"sql": sql, "as_of": as_of or None}).encode()
        headers = {"Content-Type": "application/json", "Accept": ARROW}
        request = urllib.request.Request(f"{self.url}/v1/sql", body, headers)  # noqa: S310 - checked
        with _opened(self.url, request) as answer:
            return Result(read_stream(answer.read()), "x-stepfold-cut" in answer.headers)

    def publish(self, target: Path) -> int:
        """Fetch a copy of the tables, put it in place at once, and return its size.

        Raises:
            NoEngineError: no engine answers.
            QueryError: it was refused.
        """
        request = urllib.request.Request(f"{self.url}/v1/sql/copy", b"", method="POST")  # noqa: S310 - checked
        with _opened(self.url, request) as answer:
            return _put(answer, target)


def _put(copy: BinaryIO, target: Path) -> int:
    """Write a file beside its place, and put it there at once; return its size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            shutil.copyfileobj(copy, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        size = new.stat().st_size
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)
    return size


@contextmanager
def _opened(url: str, request: urllib.request.Request) -> Generator[Any]:
    """Give an answer to be read; what goes wrong is said in words."""
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked
            yield answer
    except urllib.error.HTTPError as error:
        with error:
            raise QueryError(_message(error), error.code) from error
    except (OSError, http.client.HTTPException) as error:
        text = f"no engine answers at {url}: {getattr(error, 'reason', error)}"
        raise NoEngineError(text) from error


def _message(error: urllib.error.HTTPError) -> str:
    data = error.read().decode(errors="replace")
    try:
        said = json.loads(data)
    except ValueError:
        return data or str(error)
    return str(said.get("error") or said.get("message") or said)


class Folder:
    """A folder's own tables, brought up to date with its log. Use ``opened``."""

    def __init__(self, desk: Desk, store: Store) -> None:
        self._desk, self.store = desk, store

    def ask(self, sql: str, as_of: str = "") -> Result:
        """Return the answer; see ``Asked``."""
        answer = self._desk.ask(sql, moment(as_of) if as_of else None)
        return Result(answer.table, answer.cut)


class Kept:
    """A folder's tables that another process keeps, which is asked."""

    def __init__(self, folder: Path) -> None:
        self._tables = tables_of(folder)

    def ask(self, sql: str, as_of: str = "") -> Result:
        """Return the answer; see ``Asked``."""
        asked = {"sql": sql, "as_of": as_of or None, "arrow": True}
        head, body = keeper.ask(keeper.address_of(self._tables), asked)
        return Result(read_stream(body), bool(head.get("cut")))

    def publish(self, target: Path) -> int:
        """Put a copy of the tables in place at once, and return its size."""
        head, _ = keeper.ask(keeper.address_of(self._tables), {"copy": True})
        with open(str(head["path"]), "rb") as file:  # noqa: PTH123 - a name from elsewhere
            Path(str(head["path"])).unlink()
            return _put(file, target)


@contextmanager
def tables_in(
    folder: Path, source: Callable[[], Source | None], progress: Progress | None = None
) -> Generator[Asked]:
    """Give who can be asked about a folder's tables: who keeps them, else the tables themselves.

    Args:
        folder: where they lie.
        source: opens their log; None if it is not there: then the tables stand as they are.
        progress: told how far their bringing up to date is.

    Raises:
        QueryError: they cannot be opened.
    """
    if keeper.answers(tables_of(folder)):
        yield Kept(folder)
        return
    with opened(folder, source, progress) as found:
        yield found


def rows_in(folder: Path, sql: str) -> bytes:
    """Ask a folder's tables as they stand; return the rows as JSON, ``{"data": [[…]]}``.

    Raises:
        QueryError: they cannot be opened, or the question is wrong.
    """
    with tables_in(folder, lambda: None) as tables:
        rows = rows_of(tables.ask(sql).arrow)
    return json.dumps({"data": rows}, default=plain).encode()


@contextmanager
def opened(
    folder: Path, source: Callable[[], Source | None], progress: Progress | None = None
) -> Generator[Folder]:
    """Bring a folder's tables up to date, to be asked. No engine is needed.

    Where the folder may not be written to, the tables are made in a temporary one. Without a log
    the tables are asked as they stand.

    Raises:
        QueryError: an engine has the tables open.
    """
    with _log(source) as log, tempfile.TemporaryDirectory(prefix="stepfold-") as other:
        path = tables_of(folder)
        try:
            store = open_tables(path, log, progress)
        except (OSError, duckdb.IOException):
            if log is None:
                raise
            store = open_tables(tables_of(Path(other)), log, progress)
        except BusyError as error:
            raise QueryError(str(error), 423) from error
        try:
            if log is not None:
                Projector(log, store).catch_up(progress)
            yield Folder(Desk(store.db, LOCAL_LIMITS, store.older), store)
        finally:
            store.close()


@contextmanager
def _log(source: Callable[[], Source | None]) -> Generator[Source | None]:
    log = source()
    try:
        yield log
    finally:
        if log is not None:
            log.close()


def moment(text: str) -> datetime:
    """Read a time, UTC if it names no zone.

    Raises:
        QueryError: it is not a time.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise QueryError(f"not a time: {text}; write it as 2026-11-20T14:30") from error
    return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at
