"""The tables and views as SQL: over the file alone, with older history, now or as of a time."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources

from stepfold_projections.catalogue import BY_NAME, TABLES, VIEWS, Table

NOW = "CAST(now() AT TIME ZONE 'UTC' AS TIMESTAMP)"

SHAPE = (
    "regexp_replace(left(error_message, 300), '[0-9A-HJKMNP-TV-Z]{26}"
    "|[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}|[0-9]+(\\.[0-9]+)*', '#', 'g')"
)
"""An error's text with every number and id as #."""


def named(name: str) -> dict[str, str]:
    """Return the statements of a file of SQL by the name in the comment before each."""
    text = (resources.files("stepfold_projections") / "sql" / f"{name}.sql").read_text()
    found: dict[str, str] = {}
    for part in text.split("\n\n"):
        title, _, body = part.strip().partition("\n")
        found[title.removeprefix("-- ")] = body.strip().removesuffix(";")
    return found


def definitions(
    older: Mapping[str, Sequence[str]],
    as_of: datetime | None = None,
    schema: str = "main",
    *,
    summed: bool = False,
) -> dict[str, str]:
    """Return the query of every table and view.

    Args:
        older: files of finished history of tables, which are not in the file itself.
        as_of: what was known at this time (UTC), as far as rows say when they changed.
        schema: where the tables are, for the views.
        summed: what is summed up of finished history is in the file, and may be used.
    """
    moment = NOW if as_of is None else f"TIMESTAMP '{as_of:%Y-%m-%d %H:%M:%S.%f}'"
    sources = named("tables")
    found: dict[str, str] = {}
    for table in TABLES:
        query = with_older(sources[table.name].replace("{now}", moment), older)
        found[table.name] = query if as_of is None else _as_of(table, query, moment)
    places = {table.name: f"{schema}.{table.name}" for table in TABLES}
    sums = named("sums")
    by_rows = sums["of_rows"].format(steps=places["steps"])
    failed = sums["failed"].format(**places, shape=SHAPE)
    if summed:
        failed = f"SELECT * FROM past.failed UNION ALL {sums['open_failed'].format(shape=SHAPE)}"
        still_open = sums["of_rows"].format(steps=f"({sums['open_steps']})")
        by_rows = sums["with_open"].format(open_steps=still_open)
    for name, query in named("views").items():
        found[name] = query.format(
            **places, step_sums=f"({by_rows})", failed=f"({failed})", now=moment
        )
    assert set(found) == set(BY_NAME), (
        "every table is documented, and every documented one is there"
    )
    return found


def with_older(query: str, older: Mapping[str, Sequence[str]]) -> str:
    """Let a query read files of finished history beside the file's own rows."""
    for name, files in older.items():
        names = ", ".join("'" + f.replace("'", "''") + "'" for f in files)
        options = "union_by_name = true, hive_partitioning = false"
        both = (
            f"(SELECT * FROM past.{name} UNION ALL BY NAME"
            f" SELECT * FROM read_parquet([{names}], {options}))"
        )
        query = re.sub(rf"\bpast\.{name}\b", both.replace("\\", r"\\"), query)
    return query


def _as_of(table: Table, query: str, moment: str) -> str:
    """Take from rows what came after a time, and leave out those that came after it."""
    if not table.ends:
        return f"SELECT * FROM ({query}) WHERE {table.since} <= {moment}"
    changes = [
        f"CASE WHEN ended_at <= {moment} THEN {column} END AS {column}" for column in table.ends
    ]
    status = f"CASE WHEN ended_at > {moment} THEN '{table.unended}' ELSE status END AS status"
    changed = ", ".join([*changes, status])
    begun = f"coalesce({table.since}, ended_at)"
    return f"SELECT * REPLACE ({changed}) FROM ({query}) WHERE {begun} <= {moment}"


__all__ = ["NOW", "VIEWS", "definitions", "named", "with_older"]
