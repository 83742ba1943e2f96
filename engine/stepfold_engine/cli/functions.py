"""``stepfold functions``: what starts each function, and what is about to."""

from collections.abc import Mapping, Sequence
from typing import cast

from stepfold_engine.cli import tables
from stepfold_engine.cli.asking import OURS, AsJson
from stepfold_engine.cli.remote import URL_DEFAULT, Body, Url, asked
from stepfold_engine.cli.wording import clock, duration, number, text


def functions(as_json: AsJson = False, url: Url = URL_DEFAULT) -> None:
    """List functions: what starts them, when their crons come due, what their debounces hold.

    For example:

      stepfold functions
    """
    found = asked(lambda remote: remote.data("GET", f"{OURS}/functions"), url)
    rows = cast("list[Body]", found)
    if as_json:
        tables.print_json(rows)
        return
    names = ("function", "starts on", "next at", "debounced")
    cells = [(text(row, "id"), _starts(row), _next(row), _debounced(row)) for row in rows]
    tables.print_table(tables.make_console(), names, cells, "no functions")


def _starts(row: Body) -> str:
    events = [text(trigger, "event") for trigger in _listed(row, "triggers")]
    return ", ".join(events + [text(cron, "cron") for cron in _listed(row, "crons")]) or "invoked"


def _next(row: Body) -> str:
    crons = _listed(row, "crons")
    due_ms = [number(cron, "next_ms") for cron in crons if number(cron, "next_ms")]
    if due_ms:
        return clock(min(due_ms))
    return "another process knows" if crons else ""


def _debounced(row: Body) -> str:
    found = row.get("debounce")
    if not isinstance(found, Mapping):
        return ""
    debounce = cast("Body", found)
    said = f"{duration(number(debounce, 'period_ms'))}, {number(debounce, 'pending'):,} pending"
    first = _listed(debounce, "next")[:1]
    return f"{said}, next at {clock(number(first[0], 'due_ms'))}" if first else said


def _listed(row: Body, field: str) -> Sequence[Body]:
    return cast("Sequence[Body]", row.get(field) or [])
