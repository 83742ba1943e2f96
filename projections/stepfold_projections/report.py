"""The one-page answer that most people want: as text with small charts, or as one HTML page."""

# plotly ships no complete types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepfold_projections.asking import Asked, Result
from stepfold_projections.output import cell_text, rows_of

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48
COLOURS = {
    "completed": "#3a8f5c",
    "failed": "#c0392b",
    "cancelled": "#8a8a8a",
    "started": "#2f6db5",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report: what it says, the question behind it, and its answer."""

    title: str
    sql: str
    empty: str
    result: Result


_SINCE = "(SELECT max(t) - INTERVAL '{hours} hours' FROM (SELECT max(started_at) AS t FROM runs))"
_PARTS = (
    (
        "Runs by status",
        "SELECT status, count(*) AS runs, min(started_at) AS first, max(started_at) AS last,"
        " CAST(median(duration_ms) AS BIGINT) AS median_ms FROM runs"
        " WHERE started_at >= {since} GROUP BY status ORDER BY runs DESC",
        "There are no runs.",
    ),
    (
        "Failures",
        "SELECT function, step, error_name, shape, failures, last_at, example_run FROM failures"
        " WHERE last_at >= {since} ORDER BY failures DESC LIMIT 10",
        "Nothing failed.",
    ),
    (
        "Slowest steps",
        "SELECT function, step, steps, p50_ms, p95_ms, max_ms, total_ms FROM slow_steps"
        " ORDER BY p95_ms DESC LIMIT 10",
        "No step has ended.",
    ),
    (
        "Flakiest steps",
        "SELECT function, step, steps, retried, failed, round(100 * retried_share, 1) AS percent"
        " FROM flaky_steps ORDER BY retried_share DESC LIMIT 10",
        "No step was tried twice.",
    ),
    (
        "Waiting now",
        "SELECT function, kind, step, target, count(*) AS runs, min(since) AS longest_since,"
        " min(due_at) AS next_due FROM waiting_now GROUP BY ALL ORDER BY runs DESC LIMIT 10",
        "Nothing waits.",
    ),
)
_OVER_TIME = (
    "SELECT time_bucket(INTERVAL '{bucket} minutes', minute) AS moment, sum(started) AS started,"
    " sum(completed) AS completed, sum(failed) AS failed, sum(cancelled) AS cancelled"
    " FROM throughput WHERE minute >= {since} GROUP BY moment ORDER BY moment"
)


def gather(tables: Asked, hours: int, as_of: str = "") -> tuple[list[Part], Part]:
    """Ask everything that the report says; return its parts, and runs over time."""
    since = _SINCE.format(hours=hours)
    parts: list[Part] = []
    for title, sql, empty in _PARTS:
        asked = sql.replace("{since}", since)
        parts.append(Part(title, asked, empty, tables.ask(asked, as_of)))
    bucket = max(1, hours * 60 // WIDTH)
    sql = _OVER_TIME.format(bucket=bucket, since=since)
    return parts, Part("Runs over time", sql, "There are no runs.", tables.ask(sql, as_of))


def bars(values: Sequence[float]) -> str:
    """Draw numbers as a line of small bars.

    >>> bars([0, 1, 4])
    ' ▂█'
    """
    top = max(values, default=0)
    return "".join(
        " " if not v else BARS[min(len(BARS) - 1, int(v / top * (len(BARS) - 1)))] for v in values
    )


def lines_of(over_time: Part) -> list[str]:
    """Draw runs over time as text, a line for each outcome that there was."""
    rows = over_time.result.rows()
    lines: list[str] = []
    for name in ("started", "completed", "failed", "cancelled"):
        values = [float(row[name]) for row in rows]
        if any(values):
            lines.append(f"{name:<10} {bars(values)}  {sum(values):,.0f}")
    if rows:
        first, last = (f"{row['moment']:%Y-%m-%d %H:%M}" for row in (rows[0], rows[-1]))
        lines.append(f"{'':<10} {first} to {last} UTC")
    return lines


def page(parts: Sequence[Part], over_time: Part) -> str:
    """Return the report as one HTML page that needs nothing else."""
    body = [_heading(parts[0], over_time), f"<h2>{over_time.title}</h2>"]
    body.append(_over_time_chart(over_time))
    for part in parts:
        body.append(f"<h2>{part.title}</h2>")
        body.append(_html_table(part))
        if part is parts[2]:
            body.append(_steps_chart(part))
    return _PAGE.replace("{body}", "\n".join(body))


def _heading(by_status: Part, over_time: Part) -> str:
    moments = [row["moment"] for row in over_time.result.rows()]
    period = f"{moments[0]:%Y-%m-%d %H:%M} to {moments[-1]:%Y-%m-%d %H:%M} UTC" if moments else ""
    tiles = "".join(
        f'<div class="tile {html.escape(row["status"])}"><b>{row["runs"]:,}</b>'
        f"{html.escape(row['status'])}</div>"
        for row in by_status.result.rows()
    )
    return f"<p class=period>{period}</p><div class=tiles>{tiles}</div>"


def _over_time_chart(over_time: Part) -> str:
    import plotly.graph_objects as go  # noqa: PLC0415 - takes a second, and only pages need it

    rows = over_time.result.rows()
    figure = go.Figure()
    for name in ("completed", "failed", "cancelled"):
        figure.add_bar(
            x=[row["moment"] for row in rows],
            y=[float(row[name]) for row in rows],
            name=name,
            marker_color=COLOURS[name],
        )
    figure.update_layout(barmode="stack", height=300, yaxis_title="runs ended", **_LOOKS)
    return str(figure.to_html(full_html=False, include_plotlyjs=True, config=_CONFIG))


def _steps_chart(part: Part) -> str:
    import plotly.graph_objects as go  # noqa: PLC0415 - as above

    rows = [row for row in reversed(part.result.rows()) if row["p95_ms"]]
    if not rows:
        return ""
    names = [f"{row['function']} · {row['step']}" for row in rows]
    figure = go.Figure()
    for column, name, colour in (("p50_ms", "p50", "#9bbfe0"), ("p95_ms", "p95", "#2f6db5")):
        figure.add_bar(
            y=names, x=[row[column] for row in rows], name=name, orientation="h",
            marker_color=colour,
        )  # fmt: skip
    height = 110 + 34 * len(rows)
    figure.update_layout(barmode="group", height=height, xaxis_title="milliseconds", **_LOOKS)
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG))


_LOOKS: dict[str, Any] = {
    "template": "plotly_white",
    "margin": {"t": 34, "b": 40, "l": 50, "r": 10},
    "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
    "font": {"family": "system-ui, sans-serif"},
}
_CONFIG = {"displayModeBar": False, "responsive": True}


def _html_table(part: Part) -> str:
    if not part.result.arrow.num_rows:
        return f"<p>{html.escape(part.empty)}</p>"
    names: list[str] = part.result.arrow.column_names
    rows = rows_of(part.result.arrow)
    numeric = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(names))]
    marks = [" class=n" if right else "" for right in numeric]
    head = "".join(
        f"<th{mark}>{html.escape(name.removesuffix('_ms').replace('_', ' '))}</th>"
        for name, mark in zip(names, marks, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_html_cell(*cell) for cell in zip(names, row, marks, strict=True))}</tr>"
        for row in rows
    )
    asked = f"<details><summary>SQL</summary><pre>{html.escape(part.sql)}</pre></details>"
    return f"<table><tr>{head}</tr>{body}</table>{asked}"


def _html_cell(name: str, value: Any, mark: str) -> str:
    text = spoken(value) if name.endswith("_ms") and value is not None else cell_text(value, 120)
    return f"<td{mark}>{html.escape(text)}</td>"


def spoken(ms: float) -> str:
    """Write a length of time as people do.

    >>> spoken(20), spoken(2020), spoken(172_800_000)
    ('20 ms', '2.02 s', '2 d')
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms:.0f} ms"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>stepfold report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
tr:hover td { background: #f6f8fa; }
.period { color: #666; margin-top: -.6rem; } .tiles { display: flex; gap: .8rem; flex-wrap: wrap; }
.tile { border: 1px solid #ddd; border-radius: 8px; padding: .5rem 1rem; min-width: 6rem; }
.tile b { display: block; font-size: 1.5rem; color: #222; }
.tile.completed b { color: #3a8f5c; } .tile.failed b { color: #c0392b; }
th, td { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid #ddd; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; }
details { color: #666; font-size: 12px; margin-top: .3rem; } pre { white-space: pre-wrap; }
</style></head><body><h1>stepfold report</h1>
{body}
</body></html>
"""
