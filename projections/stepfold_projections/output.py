"""Answers written out: as a table for people, CSV, JSON lines, Parquet, or an Arrow stream."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import base64
import csv
import io
import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from stepfold_projections.arrow import ArrowTable, pa, pq

FORMATS = ("table", "csv", "json", "parquet", "arrow")


def written(table: ArrowTable, form: str) -> bytes:
    """Return an answer in one of the formats, but for ``table``."""
    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    elif form == "arrow":
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    elif form == "csv":
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(table.column_names)
        rows.writerows([[_cell(v) for v in row] for row in rows_of(table)])
        return text.getvalue().encode()
    else:
        for row in table.to_pylist():
            sink.write(json.dumps(row, ensure_ascii=False, default=plain).encode() + b"\n")
    return sink.getvalue()


def rows_of(table: ArrowTable) -> list[Sequence[Any]]:
    """Return an answer row by row."""
    columns = [table.column(i).to_pylist() for i in range(table.num_columns)]
    return list(zip(*columns, strict=True)) if columns else []


def plain(value: object) -> object:
    """Return what JSON has no word for as text, a time with its zone; bytes in base 64."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds") + ("" if value.tzinfo else "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=plain)
    return value if isinstance(value, (str, int, float)) else plain(value)


def cell_text(value: object, width: int = 60) -> str:
    """Return a value for people, at most this wide."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        text = f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}"
    elif isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    else:
        text = str(_cell(value))
    text = text.replace("\n", "⏎")
    return text if len(text) <= width else text[: width - 1] + "…"


def read_stream(data: bytes) -> ArrowTable:
    """Read an Arrow stream."""
    return pa.ipc.open_stream(data).read_all()
