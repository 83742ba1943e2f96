"""Logs made from simulated histories, and the tables as plain rows."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepfold_engine.log.base import Log, NewRecord
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.sources import FolderSource
from stepfold_projections.projector import Projector
from stepfold_projections.queries import Desk, Limits
from stepfold_projections.source import Source
from stepfold_projections.store import Store
from tests.projections.reference import COMPARED, Row, Tables
from tests.simulation.ledger import Happening, Written
from tests.simulation.world import World


def simulated(seed: int) -> tuple[list[Happening], int]:
    """Simulate a history; return what happened, and the number of partitions."""
    logging.disable(logging.CRITICAL)
    try:
        outcome = World(seed).run()
    finally:
        logging.disable(logging.NOTSET)
    return outcome.ledger.happenings, outcome.shape.partitions


def write_log(folder: Path, happenings: list[Happening], partitions: int) -> None:
    """Append a history's records to a log in a folder."""

    async def write() -> None:
        now = [0]
        log = EmbeddedLog.open(folder, partitions, lambda: now[0])
        await append_all(log, happenings, now)
        await log.close()

    asyncio.run(write())


async def append_all(log: Log, happenings: list[Happening], now: list[int]) -> None:
    """Append a history's records to a log whose clock shows what ``now`` holds."""
    for h in happenings:
        if isinstance(h, Written):
            now[0] = h.at_ms
            await log.append(h.topic, h.partition, [NewRecord(h.value, h.key, h.headers)])


def trim_log(folder: Path, partition: int, before: int) -> None:
    """Trim a journal."""

    async def trim() -> None:
        log = EmbeddedLog.open(folder, None, lambda: 0)
        await log.trim("journal", partition, before)
        await log.close()

    asyncio.run(trim())


def projected(
    folder: Path, batch: int = 10_000, *, reopen: bool = False, log: Source | None = None
) -> Tables:
    """Take in a log, ``batch`` records of each partition at a time; return the tables."""
    path = folder / "projections" / "tables.duckdb"
    source = log or FolderSource(folder)
    store = Store(path)
    projector = Projector(source, store)
    while projector.step(batch):
        if reopen:
            store.close()
            store = Store(path)
            projector = Projector(source, store)
    assert not projector.stopped
    found = shown(store)
    store.close()
    source.close()
    return found


def tables_in(folder: Path) -> Tables:
    """Return the tables of a folder as they lie there."""
    store = Store(folder / "projections" / "tables.duckdb")
    found = shown(store)
    store.close()
    return found


def shown(store: Store) -> Tables:
    """Return the tables as people see them."""
    desk = Desk(store.db, Limits(seconds=60), store.older)
    return {name: desk.ask(f"SELECT * FROM {name}").table.to_pylist() for name in COMPARED}


def canonical(tables: Tables) -> dict[str, list[str]]:
    """Return rows that can be compared: the compared columns, times in ms, in some order."""
    return {
        name: sorted(repr([_plain(row.get(column)) for column in columns]) for row in tables[name])
        for name, columns in COMPARED.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.replace(tzinfo=UTC).timestamp() * 1000)
    return value


def differences(one: Tables, other: Tables) -> str:
    """Say what one has and the other has not, and the other way round."""
    a, b = canonical(one), canonical(other)
    lines: list[str] = []
    for name in COMPARED:
        lines += [f"{name} - {row[:600]}" for row in a[name] if row not in b[name]][:3]
        lines += [f"{name} + {row[:600]}" for row in b[name] if row not in a[name]][:3]
        if len(a[name]) != len(b[name]):
            lines.append(f"{name}: {len(a[name])} rows, {len(b[name])} rows")
    return "\n".join(lines)


__all__ = ["Row", "canonical", "differences", "projected", "shown", "simulated", "write_log"]
