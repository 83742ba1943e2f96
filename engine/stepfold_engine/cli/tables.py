"""Runs, events and timelines printed: tables on a terminal, tab-separated lines in a pipe."""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepfold_engine.cli.wording import (
    BAD,
    MILD,
    OK,
    clock,
    described,
    duration,
    error_text,
    number,
    part,
    text,
)

Body = Mapping[str, object]
_STYLES = {"completed": OK, "failed": BAD, "cancelled": BAD, "stopped": BAD, "retrying": "yellow"}
_PREVIEW_CHARS = 60


def make_console() -> Console:
    """Return a console that prints texts as they are."""
    return Console(highlight=False, markup=False, emoji=False)


def print_json(rows: Sequence[Body]) -> None:
    """Print objects, one a line."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_runs(console: Console, rows: Sequence[Body]) -> None:
    """Print a list of runs."""
    cells = [
        (
            text(row, "id"),
            text(row, "function"),
            text(row, "status"),
            clock(number(row, "started_ms")),
            duration(number(row, "ended_ms") - number(row, "started_ms"))
            if number(row, "ended_ms")
            else "",
            waits_for(row),
        )
        for row in rows
    ]
    print_table(
        console, ("run", "function", "status", "started", "took", "waits for"), cells, "no runs"
    )


def print_events(console: Console, rows: Sequence[Body]) -> None:
    """Print a list of events."""
    cells = [
        (
            text(row, "internal_id"),
            text(row, "name"),
            clock(int(datetime.fromisoformat(text(row, "received_at")).timestamp() * 1000)),
            text(row, "id") if row.get("id") != row.get("internal_id") else "",
            _preview(row.get("data")),
        )
        for row in rows
    ]
    print_table(console, ("event", "name", "received", "id", "data"), cells, "no events")


def print_run(console: Console, head: Body, entries: Sequence[Body]) -> None:
    """Print a run: a header, then what happened to it, each with the time since its start."""
    status, started_ms = text(head, "status"), number(head, "started_ms")
    line = Text(f"run {text(head, 'id')}  ", "bold")
    line.append(status, _STYLES.get(status, ""))
    console.print(line, soft_wrap=True)
    ended_ms = number(head, "ended_ms")
    took = f", took {duration(ended_ms - started_ms)}" if ended_ms else ""
    facts = [
        ("function", text(head, "function")),
        ("event", f"{text(head, 'event')} {' '.join(_texts(head.get('events')))}".strip()),
        ("started", f"{clock(started_ms, millis=True)}{took}"),
        ("waits for", waits_for(head)),
        *_outcome(part(head, "outcome")),
    ]
    for name, value in facts:
        if value:
            console.print(Text(f"  {name:<10} {value}"), soft_wrap=True)
    if entries:
        console.print()
    for entry in entries:
        said = described(entry)
        if said is None:
            continue
        since = duration(number(entry, "at_ms") - started_ms)
        row = Text(f"  {clock(number(entry, 'at_ms'), millis=True)}  +{since:<10}  ", MILD)
        row.append(said.text, said.style)
        console.print(row, soft_wrap=True)


def print_letters(console: Console, rows: Sequence[Body]) -> None:
    """Print a list of dead letters."""
    cells = [
        (
            text(row, "id"),
            clock(number(row, "at_ms")),
            text(row, "source"),
            text(row, "error"),
            _preview(text(row, "preview")),
        )
        for row in rows
    ]
    print_table(console, ("id", "since", "lay at", "error", "bytes"), cells, "no dead letters")


def print_letter(console: Console, letter: Body) -> None:
    """Print a dead letter; bytes that are no text in hexadecimal."""
    headers = cast("list[list[str]]", letter.get("headers") or [])
    lines = [
        ("id", text(letter, "id")),
        ("since", clock(number(letter, "at_ms"), millis=True)),
        ("lay at", text(letter, "source")),
        ("error", text(letter, "error")),
        ("key", _shown(text(letter, "key"))),
        *(("header", f"{name}: {_shown(value)}") for name, value in headers),
        ("value", _shown(text(letter, "value"))),
    ]
    for name, value in lines:
        console.print(Text(f"{name:<8} {value}"), soft_wrap=True)


def _shown(encoded: str) -> str:
    data = base64.b64decode(encoded)
    try:
        shown = data.decode()
    except UnicodeDecodeError:
        return data.hex(" ")
    return shown if shown.isprintable() else data.hex(" ")


def waits_for(row: Body) -> str:
    """Say what an unfinished run waits for."""
    given = row.get("waiting")
    waiting = cast("list[Body]", given) if isinstance(given, list) else []
    version = text(row, "waits_for_version")
    words = [f"version {version}"] if version else list[str]()
    for item in waiting:
        kind, until_ms = text(item, "kind"), number(item, "until_ms")
        what = {
            "sleep": "sleep",
            "timer": "timer",
            "wait": f"event {text(item, 'target')}",
            "signal": f"signal {text(item, 'target')}",
            "invoke": f"function {text(item, 'target')}".rstrip(),
            "step": f"retry of {text(item, 'name')}",
            "running": f"step {text(item, 'name')}",
        }.get(kind, kind)
        words.append(f"{what} until {clock(until_ms)}" if until_ms else what)
    shown = ", ".join(words[:3])
    return f"{shown}, {len(words) - 3} more" if len(words) > 3 else shown


def _outcome(outcome: Body) -> list[tuple[str, str]]:
    if "data" in outcome:
        return [("result", json.dumps(outcome["data"], ensure_ascii=False))]
    if error := part(outcome, "error"):
        stack = text(error, "stack").rstrip().replace("\n", "\n             ")
        return [("error", error_text(error)), ("", stack)]
    return [("reason", text(outcome, "reason"))]


def _texts(value: object) -> list[str]:
    return [str(v) for v in cast("list[object]", value)] if isinstance(value, list) else []


def _preview(value: object) -> str:
    whole = json.dumps(value, ensure_ascii=False)
    return whole if len(whole) <= _PREVIEW_CHARS else whole[: _PREVIEW_CHARS - 1] + "…"


def print_table(
    console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], none: str
) -> None:
    """Print rows: a table on a terminal, tab-separated lines in a pipe."""
    if not console.is_terminal:
        for row in rows:
            console.file.write("\t".join(row) + "\n")
        return
    if not rows:
        console.print(Text(none, MILD))
        return
    table = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    console.print(table)
