"""A copy of the tables that any DuckDB client can open: consistent, whole, put in place at once."""

# pyright: reportUnknownMemberType=false

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import duckdb

from stepfold_projections.catalogue import TABLES
from stepfold_projections.definitions import definitions
from stepfold_projections.recordings import NAME
from stepfold_projections.store import Store

READABLE_SINCE = "v1.0.0"
"""The oldest DuckDB that can open a copy; its clients are often older than the one here."""


def publish(store: Store, target: Path) -> int:
    """Write a copy; return its size. Readers of the old copy keep what they opened.

    Tables become plain tables, older history included; views stay views.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": "256MB",
            "threads": 1,
            "storage_compatibility_version": READABLE_SINCE,
        }
        with duckdb.connect(str(new), config=config) as copy:
            _fill(store, copy)
        size = new.stat().st_size
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(target)
    finally:
        for left in (new, new.with_name(new.name + ".wal")):
            with suppress(FileNotFoundError):
                left.unlink()
        shutil.rmtree(new.with_name(new.name + ".tmp"), ignore_errors=True)
    return size


def _fill(store: Store, copy: duckdb.DuckDBPyConnection) -> None:
    source = store.db.cursor()
    source.execute("BEGIN TRANSACTION READ ONLY")  # one moment for all tables
    try:
        for table in TABLES:
            # Recordings are for exporting and rerunning, and large: a copy is without them.
            some = "WHERE false" if table.name == NAME else ""
            rows = source.sql(f"SELECT * FROM main.{table.name} {some}").to_arrow_reader(10_000)
            copy.register("given", rows)
            columns = ", ".join(f'"{name}"::{kind} AS "{name}"' for name, kind, _ in table.columns)
            copy.execute(f"CREATE TABLE {table.name} AS SELECT {columns} FROM given")
            copy.unregister("given")
            rows.close()
    finally:
        source.execute("ROLLBACK")
        source.close()
    for name, query in definitions({}).items():
        if name not in {table.name for table in TABLES}:
            copy.execute(f"CREATE VIEW {name} AS {query}")
