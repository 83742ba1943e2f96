"""Questions in SQL from users: they read the tables and nothing else, within limits.

What is asked is parsed first. Only one SELECT is let through, over the documented tables and its
own WITH names, without table functions but those that make rows of what they are given. Behind
that stand DuckDB's own locks: no files but the history's, no extensions, no settings, a
transaction that is rolled back. Each question has a time limit, a limit on rows, and all share
the memory limit of the file.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from stepfold_projections.arrow import ArrowTable, pa
from stepfold_projections.catalogue import BY_NAME
from stepfold_projections.definitions import definitions

ROWS_MAX = 100_000
SECONDS_MAX = 30.0
AT_ONCE_MAX = 2
WAITING_MAX = 16
SQL_CHARS_MAX = 100_000
TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "json_each", "json_tree"})
FORBIDDEN_FUNCTIONS = frozenset(
    {
        "current_setting", "getenv", "getvariable", "nextval", "currval", "read_text", "read_blob",
        "write_log", "parse_duckdb_log_message", "in_search_path", "current_database",
        "current_schemas", "query", "query_table", "error", "add_parquet_key", "which_secret",
        "sleep_ms", "json_serialize_sql", "json_deserialize_sql", "json_execute_serialized_sql",
    }
)  # fmt: skip
"""Functions of values that tell of, or reach, something other than their arguments."""


_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_SYSTEM_NAMES = ("sqlite_", "duckdb_", "pragma_", "pg_")


class QueryError(Exception):
    """A question was refused or failed; the message says why. ``status`` follows HTTP."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What one question may cost, and how many may be asked at once."""

    seconds: float = SECONDS_MAX
    rows: int = ROWS_MAX
    at_once: int = AT_ONCE_MAX
    waiting: int = WAITING_MAX


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question came to; ``cut`` says that there were more rows."""

    table: ArrowTable
    cut: bool
    seconds: float


class Desk:
    """Answers questions over one file, from any thread.

    Args:
        db: the connection that owns the file; each question gets a cursor of it.
        limits: of each question.
        older: tells the files of finished history, by table.
    """

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        limits: Limits | None = None,
        older: Callable[[], Mapping[str, Sequence[str]]] = dict,
    ) -> None:
        self._db, self.limits, self._older = db, limits or Limits(), older
        self._free = threading.BoundedSemaphore(self.limits.at_once)
        self._lock, self._waiting = threading.Lock(), 0
        self._closed = False

    def ask(self, sql: str, as_of: datetime | None = None, seconds: float = 0.0) -> Answer:
        """Answer a question.

        Args:
            sql: one SELECT.
            as_of: what was known at this time (UTC).
            seconds: the time it may take, if less than the limit.

        Raises:
            QueryError: it may not be asked, is wrong, takes too long or too much memory, or too
                many are asked at once.
        """
        allowed = min(seconds or self.limits.seconds, self.limits.seconds)
        begun = time.monotonic()
        with self.turn(allowed), self._connection() as db:
            check(db, sql)
            with _interrupting(db, max(allowed - (time.monotonic() - begun), 0.01)) as late:
                try:
                    return self._answer(db, sql, as_of, begun)
                except (duckdb.Error, MemoryError, pa.ArrowException, RuntimeError) as error:
                    raise _explained(error, allowed if late.is_set() else 0.0) from error

    def _answer(
        self, db: duckdb.DuckDBPyConnection, sql: str, as_of: datetime | None, begun: float
    ) -> Answer:
        if as_of is not None:
            for name, query in definitions(self._older(), as_of, "temp.main").items():
                db.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {query}")
        db.execute("BEGIN TRANSACTION READ ONLY")
        try:
            reader = db.sql(sql).to_arrow_reader(4_096)
            batches: list[Any] = []
            rows = 0
            for batch in reader:
                batches.append(batch)
                rows += batch.num_rows
                if rows > self.limits.rows:
                    break
            table = pa.Table.from_batches(batches, reader.schema)
        finally:
            with suppress(duckdb.Error):
                db.execute("ROLLBACK")
        cut = rows > self.limits.rows
        return Answer(table.slice(0, self.limits.rows), cut, time.monotonic() - begun)

    def close(self) -> None:
        """Answer no more, and wait until what is being answered is over: it has time limits."""
        self._closed = True
        for _ in range(self.limits.at_once):
            self._free.acquire()

    @contextmanager
    def turn(self, seconds: float) -> Generator[None]:
        """Wait for a turn; refuse if too many wait already."""
        if self._closed:
            raise QueryError("the tables are being opened again; ask again in a moment", 503)
        with self._lock:
            if self._waiting >= self.limits.waiting:
                raise QueryError("too many questions wait for an answer; ask again later", 429)
            self._waiting += 1
        try:
            got = self._free.acquire(timeout=seconds)
        finally:
            with self._lock:
                self._waiting -= 1
        if not got:
            raise QueryError("other questions took all the time; ask again later", 429)
        try:
            yield
        finally:
            self._free.release()

    @contextmanager
    def _connection(self) -> Generator[duckdb.DuckDBPyConnection]:
        db = self._db.cursor()
        try:
            yield db
        finally:
            db.close()


@contextmanager
def _interrupting(db: duckdb.DuckDBPyConnection, seconds: float) -> Generator[threading.Event]:
    """Stop what the connection does after a time, again and again until the block ends."""
    late, over = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        late.set()
        while not over.wait(0.05):
            db.interrupt()

    watcher = threading.Thread(target=watch, name="stepfold-sql-limit", daemon=True)
    watcher.start()
    try:
        yield late
    finally:
        over.set()
        watcher.join()


def _explained(error: BaseException, seconds: float) -> QueryError:
    if seconds:
        return QueryError(f"stopped: it took longer than {seconds:g} s", 408)
    text = str(error)
    if isinstance(error, (duckdb.OutOfMemoryException, MemoryError)) or "Out of Memory" in text:
        first = text.partition("\n")[0]
        return QueryError(f"stopped: it takes more memory than questions may use ({first})", 413)
    return QueryError(text)


# What may be asked.


def check(db: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what is not one SELECT over the documented tables.

    Raises:
        QueryError: the message names what is not allowed.
    """
    if len(sql) > SQL_CHARS_MAX:
        raise QueryError(f"a question has at most {SQL_CHARS_MAX:,} characters")
    try:
        kinds = [s.type for s in db.extract_statements(sql)]
        if len(kinds) != 1:
            raise QueryError("ask one SELECT at a time")
        if kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
            raise QueryError(f"only SELECT can be asked; this is {kinds[0].name}")
        row = db.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    said: dict[str, Any] = json.loads(row[0][0])
    if said.get("error"):
        message = said.get("error_message", "")
        raise QueryError(f"only SELECT over the tables can be asked: {message}")
    _check_node(said, frozenset())


def _check_node(node: Any, names: frozenset[str]) -> None:
    """Look at a part of the parsed question; ``names`` are those given by WITH around it."""
    if isinstance(node, list):
        for part in node:
            _check_node(part, names)
        return
    if not isinstance(node, dict):
        return
    inner = names | _with_names(node)
    _check_kind(node, inner)
    for part in node.values():
        _check_node(part, inner)


def _check_kind(node: Mapping[str, Any], names: frozenset[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        _check_table(node, names)
    elif kind == "TABLE_FUNCTION":
        name = str(node.get("function", {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise QueryError(f"the function {name}() cannot be asked as a table")
    elif kind in ("SHOW_REF", "COLUMN_DATA", "DELIM_GET"):
        raise QueryError("only the documented tables can be asked; see stepfold sql --schema")
    elif "function_name" in node:
        name = str(node["function_name"]).lower()
        if name in FORBIDDEN_FUNCTIONS or name.startswith(_SYSTEM_NAMES):
            raise QueryError(f"the function {name}() is not allowed")


def _with_names(node: Mapping[str, Any]) -> frozenset[str]:
    given = node.get("cte_map")
    entries = given.get("map", []) if isinstance(given, dict) else []
    names = {str(entry.get("key", "")).lower() for entry in entries}
    if node.get("cte_name"):
        names.add(str(node["cte_name"]).lower())
    for name in names:
        # Inside its own definition the name may mean a table of DuckDB's, or a file.
        if not _PLAIN_NAME.fullmatch(name) or name.startswith(_SYSTEM_NAMES):
            raise QueryError(f"WITH {name}: choose a name of letters, digits and _")
    return frozenset(names)


def _check_table(node: Mapping[str, Any], names: frozenset[str]) -> None:
    name = str(node.get("table_name", ""))
    place = [str(node.get(k) or "") for k in ("catalog_name", "schema_name")]
    if any(place) or node.get("at_clause"):
        whole = ".".join([p for p in place if p] + [name])
        raise QueryError(f"there is no table {whole}; write just the table's name")
    if name.lower() not in BY_NAME and name.lower() not in names:
        raise QueryError(f"there is no table {name}; there are: {', '.join(BY_NAME)}")
