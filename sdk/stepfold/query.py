"""Questions in SQL from Python, answered by a running engine."""

import importlib
import os
from typing import Any, Protocol, cast

URL_DEFAULT = "http://127.0.0.1:8288"


class QueryResult(Protocol):
    """An answer.

    Attributes:
        arrow: a ``pyarrow.Table``.
        cut: there were more rows than an answer may have.
    """

    @property
    def arrow(self) -> Any:
        """The answer as a ``pyarrow.Table``."""
        ...

    @property
    def cut(self) -> bool:
        """Whether there were more rows than an answer may have."""
        ...

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        ...

    def pandas(self) -> Any:
        """Return a pandas DataFrame; pandas must be installed."""
        ...

    def polars(self) -> Any:
        """Return a polars DataFrame."""
        ...


def query(sql: str, *, as_of: str = "", url: str = "") -> QueryResult:
    """Ask a running engine about runs, steps and events: ``query("SELECT …").polars()``.

    Needs ``pip install 'stepfold[sql]'``. What is wrong with the question, or refused, raises an
    exception whose text says so.

    Args:
        sql: one SELECT; ``stepfold sql --schema`` lists tables and columns.
        as_of: what was known at this time, such as ``2026-11-20T14:30`` (UTC).
        url: where the engine is; else ``STEPFOLD_URL``, else this machine.
    """
    try:
        asking = importlib.import_module("stepfold_projections.asking")
    except ModuleNotFoundError as error:
        text = f"query() needs {error.name}: pip install 'stepfold[sql]'"
        raise ModuleNotFoundError(text, name=error.name) from error
    engine = asking.Engine(url or os.environ.get("STEPFOLD_URL", URL_DEFAULT))
    return cast("QueryResult", engine.ask(sql, as_of))
