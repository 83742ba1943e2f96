"""Measure the projections: rebuild, the views, freshness, the projector's memory, its cost.

python -m bench.projections [--runs 100000] [--steps 10000000] [--only rebuild,views,live]

rebuild  tables made anew from a log of RUNS finished runs of ten steps. Counted are entries: the
         facts in the journal, here one a record, as most are, and events.
views    each view, asked five times, over STEPS steps of finished runs in the tables.
live     W1 of ``bench.quick`` (64 runs of ten steps at once) through the real engine, in turns
         with and without a projector beside it; and, with it, how long after its end a run can be
         asked for, under that load and, as most engines are, under a tenth of it.
"""

import argparse
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.live import measure_live
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
    print(f"rebuild: {records:,} entries in {wall:.1f} s: {records / wall:,.0f} a second")
    print(f"  {cpu / records * 1e6:.1f} us of CPU an entry, {memory:,.0f} MB at most")
    print(f"  tables {path.stat().st_size / 1e6:,.0f} MB; load {os.getloadavg()[0]:.1f}")


FILL = """
INSERT INTO past.runs BY NAME
SELECT 'run' || lpad(i::VARCHAR, 23, '0') AS run,
  ['shop-fulfil', 'shop-refund', 'shop-invoice', 'shop-restock', 'shop-welcome'][1 + i % 5] AS function,
  'v1' AS version, CASE WHEN hash(i) % 100 = 0 THEN 'failed' ELSE 'completed' END AS status,
  'shop/order.created' AS event_name, 'e' || i AS event_id, '{"amount": 7}'::JSON AS input,
  CASE WHEN hash(i) % 100 = 0 THEN 'StepError' END AS error_name,
  epoch_ms(1790000000000 + i * 40) AS started_at,
  epoch_ms(1790000000000 + i * 40 + 400) AS ended_at, 400 AS duration_ms, 1 AS attempts,
  0 AS partition, i * 12 AS first_offset, i * 12 + 11 AS last_offset, false AS partial
FROM range({first}, {last}) r(i);
INSERT INTO past.steps BY NAME
SELECT 'run' || lpad((j // 10)::VARCHAR, 23, '0') AS run,
  ['shop-fulfil', 'shop-refund', 'shop-invoice', 'shop-restock', 'shop-welcome'][1 + (j // 10) % 5]
    AS function,
  'step ' || j % 10 AS step, CASE WHEN hash(j) % 1000 = 0 THEN 'failed' ELSE 'completed' END AS status,
  1 + (hash(j) % 50 = 1)::INTEGER AS attempts, epoch_ms(1790000000000 + j * 4) AS started_at,
  epoch_ms(1790000000000 + j * 4) AS attempt_started_at,
  epoch_ms(1790000000000 + j * 4 + (hash(j) % 3000)::BIGINT) AS ended_at, (hash(j) % 3000)::BIGINT AS duration_ms,
  '{"ok": true}'::JSON AS output,
  CASE WHEN hash(j) % 1000 = 0 THEN 'TimeoutError' END AS error_name,
  CASE WHEN hash(j) % 1000 = 0 THEN 'no answer from 10.0.1.' || j % 250 || ' in 30 s' END
    AS error_message,
  false AS attempt_open, epoch_ms(1790000000000 + (j // 10) * 40 + 400) AS run_ended_at
FROM range({first} * 10, {last} * 10) r(j);
"""
FILL_RUNS = 100_000


def fill(path: Path, steps: int) -> None:
    """Write finished runs into tables, a part at a time, as folding them would leave them."""
    store = Store(path)
    for first in range(0, steps // 10, FILL_RUNS):
        last = min(first + FILL_RUNS, steps // 10)
        text = FILL.replace("{first}", str(first)).replace("{last}", str(last))
        for statement in text.split(";\n")[:2]:
            store.db.execute(statement)
    with store.transaction():
        store.sum_up()
    store.close()


def measure_views(folder: Path, steps: int) -> None:
    """Ask each view, five times; of a timeline, one run's."""
    path = folder / "many.duckdb"
    if not path.exists():
        fill(path, steps)
    store = Store(path)
    desk = Desk(store.db, Limits(rows=10_000_000))
    count = desk.ask("SELECT count(*) AS n FROM steps").table["n"][0]
    print(f"views over {count.as_py():,} steps; load {os.getloadavg()[0]:.1f}:")
    run = desk.ask("SELECT max(run) AS run FROM runs").table["run"][0]
    for view in VIEWS:
        only = f" WHERE run = '{run}'" if view.name == "run_timeline" else ""
        times = sorted(desk.ask(f"SELECT * FROM {view.name}{only}").seconds for _ in range(5))
        print(f"  {view.name:<14} {times[2] * 1000:8.1f} ms (least {times[0] * 1000:.1f})")
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--only", default="rebuild,views,live")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepfold-bench-") as place:
        home = given.folder or Path(place)
        home.mkdir(parents=True, exist_ok=True)
        if "rebuild" in given.only:
            if not (home / "log").exists():
                make_log(home / "log", given.runs)
            measure_rebuild(home / "log")
        if "views" in given.only:
            measure_views(home, given.steps)
        if "live" in given.only:
            measure_live()


if __name__ == "__main__":
    main()
