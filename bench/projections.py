"""Measure the projections: rebuild, the views, freshness, the projector's memory, its cost.

python -m bench.projections [--runs 100000] [--only rebuild,views,live]
"""

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stepfold_engine.log import tables
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from stepfold_engine.sources import FolderSource
from stepfold_projections.catalogue import VIEWS
from stepfold_projections.keeping import rebuild, remove, tables_of
from stepfold_projections.queries import Desk, Limits
from stepfold_projections.store import Store
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    Error,
    PartitionClaimed,
    RetryPolicy,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_id, run_key, step_key, ulid_text

STEPS = 10
FUNCTIONS = [f"shop-{name}" for name in ("fulfil", "refund", "invoice", "restock", "welcome")]
FIRST_MS = 1_790_000_000_000


def entries(runs: int, random: random.Random) -> Iterator[tuple[int, list[Entry], Event | None]]:
    """Yield the decisions of runs of ten steps, one after the other."""
    retry = RetryPolicy()
    names = {f: [f"{f[5:]} step {i}" for i in range(STEPS)] for f in FUNCTIONS}
    keys = {name: step_key(name) for some in names.values() for name in some}
    for number in range(runs):
        at_ms = FIRST_MS + number * 40
        function = FUNCTIONS[number % len(FUNCTIONS)]
        run = run_id(at_ms, run_key(0, function, str(number)))
        internal = ulid_text(run_id(at_ms, run_key(0, "", str(number))))
        data = b'{"order_id": %d, "amount": %d}' % (number, number % 1000)
        event = Event("shop/order.created", data, "", at_ms, b"{}", internal, at_ms)
        raw = codec.encode(event)
        started = RunStarted(
            run, function, "v1", "", [raw], [internal], False, 0, 0, 0, retry, [], "", None
        )
        yield at_ms, [started], event
        failed = False
        for i, name in enumerate(names[function]):
            at_ms += random.randrange(3, 60)
            attempt = 1
            if random.random() < 0.01 * (1 + i % 3):
                error = Error("TimeoutError", f"no answer from 10.0.{i}.{number % 250} in 30 s")
                yield at_ms, [
                    StepAttemptFailed(run, keys[name], name, 1, at_ms - 3, error, at_ms + 2000)
                ], None  # fmt: skip
                attempt, at_ms = 2, at_ms + 2050
            if random.random() < 0.001:
                error = Error("CardError", f"card {number} was declined")
                yield at_ms, [StepFailed(run, keys[name], name, attempt, at_ms - 30, error)], None
                yield at_ms + 1, [RunFailed(run, error)], None
                failed = True
                break
            result = b'{"ok": true, "n": %d}' % i
            yield at_ms, [StepCompleted(run, keys[name], name, attempt, at_ms - 30, result)], None
        if not failed:
            yield at_ms + 1, [RunCompleted(run, b'{"state": "shipped"}')], None


def make_log(folder: Path, runs: int) -> tuple[int, int]:
    """Write a log of finished runs; return how many records and entries its journal has."""
    folder.mkdir(parents=True)
    db = tables.connect(folder / "log.db")
    db.execute("PRAGMA synchronous=OFF")
    tables.prepare(db, 1, folder)
    claim = Decision(1, 0, FIRST_MS, 0, [], [PartitionClaimed(1, b"n" * 16, "n", "i")])
    journal = [tables.row_of(0, FIRST_MS, NewRecord(codec.encode(claim)))]
    events: list[tables.Row] = []
    seq = offset = count = 0

    def flush() -> None:
        def work() -> None:
            tables.insert(db, (JOURNAL, 0), journal)
            tables.insert(db, (EVENTS, 0), events)

        tables.transaction(db, work)
        journal.clear()
        events.clear()

    for at_ms, some, event in entries(runs, random.Random(1)):
        if event is not None:
            record = NewRecord(codec.encode(event), event.internal.encode())
            events.append(tables.row_of(count, at_ms, record))
            count += 1
        seq, offset = seq + 1, offset + 1
        value = codec.encode(Decision(1, seq, at_ms, 0, [], some))
        journal.append(tables.row_of(offset, at_ms, NewRecord(value)))
        if len(journal) >= 20_000:
            flush()
    flush()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return offset + 1, seq + 1


def measure_rebuild(folder: Path) -> None:
    """Make the tables anew."""
    path = tables_of(folder)
    remove(path)
    records = 0

    def count(done: int, _: int) -> None:
        nonlocal records
        records = done

    wall, cpu = time.perf_counter(), time.process_time()
    rebuild(path, FolderSource(folder), count)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"rebuild: {records:,} records in {wall:.1f} s: {records / wall:,.0f} a second")
    print(f"  {cpu / records * 1e6:.1f} us of CPU a record, {memory:,.0f} MB at most")
    print(f"  tables {path.stat().st_size / 1e6:,.0f} MB; load {os.getloadavg()[0]:.1f}")


def measure_views(folder: Path) -> None:
    """Ask each view, five times; of a timeline, one run's."""
    store = Store(tables_of(folder))
    desk = Desk(store.db, Limits(rows=10_000_000))
    steps = desk.ask("SELECT count(*) AS n FROM steps").table["n"][0]
    print(f"views over {steps.as_py():,} steps:")
    run = desk.ask("SELECT max(run) AS run FROM runs").table["run"][0]
    for view in VIEWS:
        only = f" WHERE run = '{run}'" if view.name == "run_timeline" else ""
        times = sorted(desk.ask(f"SELECT * FROM {view.name}{only}").seconds for _ in range(5))
        print(f"  {view.name:<14} {times[2] * 1000:8.1f} ms (least {times[0] * 1000:.1f})")
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepfold-bench-") as place:
        folder = given.folder or Path(place) / "log"
        if not folder.exists():
            make_log(folder, given.runs)
        measure_rebuild(folder)
        measure_views(folder)


if __name__ == "__main__":
    main()
