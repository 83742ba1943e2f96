"""The soak: steady load for a long time, and is anything still growing?

``python -m tests.chaos.soak [--minutes 60] [--rate 100] [--folder F] [--trace]``

One process (``soaked``) runs the app of the chaos rounds on the embedded log; clients outside send
it events at a bounded rate. Its days are two minutes long and its journals are kept for one, so
restating, trimming and forgetting happen hundreds of times in an hour. Every few seconds its
memory, handles, threads, tasks, timers and the sizes of its log are written to a CSV file. At the
end each is judged: the median of the second tenth against that of the last.

Flat means that the ratio stays under ``RATIO_MAX``, or that it grew by less than what one would
not notice. Exit code 1: something grew, or work was left undone.
"""

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from stepfold.crew import WorkerSettings
from tests.chaos.load import Load, ask
from tests.chaos.program import Orders

SAMPLE_S = 5.0
GROWTH_S = 120.0
RATIO_MAX = 1.15
DRAIN_S = 60.0
BARS = "▁▂▃▄▅▆▇█"
BARS_MAX = 48

KEPT_MS = 60_000
SETTINGS: dict[str, Any] = {
    "round_records_min": 5_000,
    "journal_keep_ms": KEPT_MS,
    "journal_keep_bytes": 64 << 20,
    "events_keep_ms": KEPT_MS,
}

JUDGED = {
    "rss_bytes": 12 << 20,
    "handles": 4,
    "threads": 4,
    "tasks": 200,
    "timers": 400,
    "objects": 40_000,
    "log_bytes": 8 << 20,
    "wal_bytes": 24 << 20,
    "history_bytes": 8 << 20,
    "journal_records": 20_000,
    "events_records": 4_000,
    "inbox_records": 4_000,
    "remembered": 4_000,
    "requests": 1_000,
    "runs": 400,
}
"""What must be flat, and by how much each may grow without being noticed. The write-ahead log
goes up and down with every checkpoint; a cancelled timer stays in asyncio's heap for a while."""

BOUNDED = {"step_threads": WorkerSettings().threads_max}
"""What may grow, up to a limit: a pool has as many threads as were once at work together."""

PACE = {"decisions": "decisions/s", "started": "runs/s", "rounds": "rounds/s"}


def sample(process: psutil.Process, url: str, begun_s: float) -> dict[str, float] | None:
    """Measure the process; None if it did not answer."""
    vitals = ask(url, "/chaos/vitals")
    if vitals is None:
        return None
    with process.oneshot():
        times = process.cpu_times()
        return {
            "seconds": round(time.monotonic() - begun_s, 1),
            "rss_bytes": process.memory_info().rss,
            "handles": process.num_fds(),
            "cpu_s": round(times.user + times.system, 2),
            **vitals,
        }


def bars(values: Sequence[float]) -> str:
    """Draw values as a line of bars, from nothing to the largest.

    >>> bars([0, 1, 2, 4])
    '▁▃▅█'
    """
    share = max(1, len(values) // BARS_MAX)
    means = [statistics.fmean(values[i : i + share]) for i in range(0, len(values), share)]
    top = max(means) or 1
    return "".join(BARS[round(m / top * (len(BARS) - 1))] for m in means)


def tenth(values: Sequence[float], number: int) -> float:
    """Return the median of the so-many-th tenth, from 1.

    >>> tenth(range(100), 2)
    14.5
    """
    first = len(values) * (number - 1) // 10
    return statistics.median(values[first : max(first + 1, len(values) * number // 10)])


def judge(samples: Sequence[dict[str, float]]) -> tuple[list[str], list[str]]:
    """Return the lines of the summary, and what is not flat."""
    lines = [f"{'':<16}{'2nd tenth':>14}{'last tenth':>14}{'ratio':>8}  "]
    grew: list[str] = []
    for name, unnoticed in JUDGED.items():
        values = [s[name] for s in samples]
        early, late = tenth(values, 2), tenth(values, 10)
        ratio = late / early if early else float(late > 0) or 1.0
        flat = ratio <= RATIO_MAX or late - early <= unnoticed
        if not flat:
            grew.append(name)
        word = "flat" if flat else "GROWS"
        lines.append(
            f"{name:<16}{early:>14,.0f}{late:>14,.0f}{ratio:>8.2f}  {word:<6}{bars(values)}"
        )
    for name, most in BOUNDED.items():
        values = [s[name] for s in samples]
        if max(values) > most:
            grew.append(name)
        limit = f"of {most}"
        lines.append(f"{name:<16}{'':>14}{max(values):>14,.0f}{'':>8}  {limit:<6}{bars(values)}")
    first, last = samples[0], samples[-1]
    seconds = max(last["seconds"] - first["seconds"], 1)
    pace = [f"{(last[n] - first[n]) / seconds:,.1f} {unit}" for n, unit in PACE.items()]
    cpu = (last["cpu_s"] - first["cpu_s"]) / seconds
    lines.append(f"{seconds:,.0f} s, {', '.join(pace)}, {cpu:.2f} CPUs")
    return lines, grew


class Soak:
    """One soak in a folder."""

    def __init__(self, folder: Path, rate: float, *, trace: bool) -> None:
        self.folder, self._trace = folder, trace
        self.table = folder / "vitals.csv"
        outside = folder / "outside"
        outside.mkdir(parents=True)
        orders = Orders(
            log=str(folder / "log"),
            outside=str(outside),
            life=1,
            settings=SETTINGS,
            witnessed=False,
            synced=False,
            noted=["ready", "got", "begin"],
            trace=trace,
        )
        with (folder / "output").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.soaked", orders.text()],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), f"it did not start: see {folder / 'output'}"
        self.url = f"http://127.0.0.1:{line.split()[1]}"
        self._load = Load("soak", outside, rate, remember=False)
        self._load.serve(self.url)

    def run(self, seconds: float) -> list[dict[str, float]]:
        """Load and measure for so long."""
        samples: list[dict[str, float]] = []
        begun_s = asked_s = time.monotonic()
        pause_s = min(SAMPLE_S, seconds / 40)
        watched = psutil.Process(self._process.pid)
        self._load.offer(True)
        with self.table.open("w", newline="") as file:
            writer: csv.DictWriter[str] | None = None
            while time.monotonic() < begun_s + seconds:
                time.sleep(pause_s)
                if self._process.poll() is not None:
                    break
                if (found := sample(watched, self.url, begun_s)) is None:
                    print("no answer", flush=True)
                    continue
                if writer is None:
                    writer = csv.DictWriter(file, list(found))
                    writer.writeheader()
                writer.writerow(found)
                file.flush()
                samples.append(found)
                if self._trace and time.monotonic() > asked_s + GROWTH_S:
                    asked_s = time.monotonic()
                    self._note_growth(found["seconds"])
        return samples

    def _note_growth(self, seconds: float) -> None:
        growth = ask(self.url, "/chaos/growth", 60.0)
        with (self.folder / "growth.jsonl").open("a") as file:
            file.write(json.dumps({"seconds": seconds, "growth": growth}) + "\n")

    def drain(self) -> dict[str, Any] | None:
        """Cease to load; return what is still left after a while, None if nothing is."""
        self._load.offer(False)
        deadline_s = time.monotonic() + DRAIN_S
        while True:
            idle = ask(self.url, "/chaos/idle")
            if idle is not None and self._load.settled and not idle["runs"] and not idle["left"]:
                return None
            if time.monotonic() > deadline_s:
                return {"engine": idle, "clients": self._load.left()}
            time.sleep(0.2)

    def close(self) -> int:
        """End the process cleanly; return its exit code."""
        self._load.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    @property
    def counts(self) -> str:
        """Say what became of the clients' requests."""
        counts = self._load.counts
        refused = "; ".join(f"{n} times {what}" for what, n in counts.refused.items())
        return f"{counts.answers} answers, {counts.unknown} unknown, {counts.full} full. {refused}"


def main() -> int:
    """Soak as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Steady load for a long time: what grows?")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0, help="new events a second")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one if not given")
    parser.add_argument("--trace", action="store_true", help="note where memory is allocated")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stepfold-soak-"))
    os.nice(5)
    print(f"soaking for {given.minutes:g} minutes in {folder}", flush=True)
    soak = Soak(folder, given.rate, trace=given.trace)
    try:
        samples = soak.run(given.minutes * 60)
        left = soak.drain()
    finally:
        code = soak.close()
    lines, grew = judge(samples)
    print("\n".join(lines))
    print(soak.counts)
    print(f"samples: {soak.table}")
    if left is not None:
        print(f"NOT DONE: {left}")
    if code != 0:
        print(f"the process ended with code {code}: see {folder / 'output'}")
    if grew:
        print(f"NOT FLAT: {', '.join(grew)}")
    return 1 if grew or code != 0 or left is not None else 0


if __name__ == "__main__":
    sys.exit(main())
