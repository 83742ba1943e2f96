"""The embedded log against the bare disk, in about fifteen seconds: JSON lines, then a table.

C writers append one record each, wait until it is durable, and append the next. ``raw`` is what
the disk allows: the same bytes in the same batches, one ``write`` and one ``fdatasync`` each, in
turns with the log, since a shared disk is not the same from one second to the next.
"""

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.engine import load1, percentile
from stepfold_engine.clock import SystemClock
from stepfold_engine.log.base import JOURNAL, NewRecord
from stepfold_engine.log.embedded import EmbeddedLog

RECORD_BYTES = 300
WRITERS = (1, 10, 64, 500)
TURNS = 3
TURN_S = float(os.environ.get("BENCH_LOG_SECONDS", "15")) / (len(WRITERS) * TURNS * 2)


def append_raw(file: int, writers: int, took_s: list[float]) -> float:
    """Write and sync batches for one turn; return how long it took."""
    batch = os.urandom(RECORD_BYTES * writers)
    begun_s = time.perf_counter()
    end_s = begun_s + TURN_S
    while (now_s := time.perf_counter()) < end_s:
        os.write(file, batch)
        os.fdatasync(file)
        took_s.append(time.perf_counter() - now_s)
    return now_s - begun_s


async def append_to_log(log: EmbeddedLog, writers: int, took_s: list[float]) -> float:
    """Append with so many writers for one turn; return how long it took."""
    record = [NewRecord(os.urandom(RECORD_BYTES))]
    begun_s = time.perf_counter()
    end_s = begun_s + TURN_S

    async def write() -> None:
        while (now_s := time.perf_counter()) < end_s:
            await log.append(JOURNAL, 0, record)
            took_s.append(time.perf_counter() - now_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    return time.perf_counter() - begun_s


def figures(what: str, writers: int, count: int, seconds: float, took_s: list[float]) -> Any:
    """Return one line of the result."""
    return {
        "what": what,
        "writers": writers,
        "appends_per_s": round(count / seconds),
        "p50_ms": round(percentile(took_s, 50) * 1000, 3),
        "p99_ms": round(percentile(took_s, 99) * 1000, 3),
        "load1": load1(),
    }


async def measure(folder: Path) -> list[Any]:
    """Return the lines for all numbers of writers."""
    log = EmbeddedLog.open(folder / "log", 1, SystemClock().now_ms)
    file = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lines: list[Any] = []
    try:
        await append_to_log(log, 10, [])
        append_raw(file, 10, [])
        for writers in WRITERS:
            log_took_s, raw_took_s = list[float](), list[float]()
            log_s = raw_s = 0.0
            for _ in range(TURNS):
                raw_s += append_raw(file, writers, raw_took_s)
                log_s += await append_to_log(log, writers, log_took_s)
            raw_count = len(raw_took_s) * writers
            lines.append(figures("raw", writers, raw_count, raw_s, raw_took_s))
            lines.append(figures("log", writers, len(log_took_s), log_s, log_took_s))
    finally:
        os.close(file)
        await log.close()
    return lines


def table(lines: list[Any]) -> str:
    """Return the lines as a table: the log, and the disk in brackets."""
    rows = ["| writers | appends/s (disk) | p50 ms (disk) | p99 ms (disk) |", "|---|---|---|---|"]
    for raw, log in zip(lines[::2], lines[1::2], strict=True):
        cells = [f"{log[k]:,} ({raw[k]:,})" for k in ("appends_per_s", "p50_ms", "p99_ms")]
        rows.append(f"| {log['writers']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        lines = asyncio.run(measure(Path(folder)))
    for line in lines:
        print(json.dumps(line))
    print(table(lines))


if __name__ == "__main__":
    main()
