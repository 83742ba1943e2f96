"""A projector beside a real engine under load: what it costs, and how fresh its tables are."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import psutil

from bench import quick
from bench.engine import Bench, load1, now_s, percentile, running
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.projecting import Projecting

PAIRS = int(os.environ.get("BENCH_PAIRS", "3"))
CLIENTS = 64
PACED_RUNS_PER_S = 100
POLL_S = 0.05
SETTLE_S = 60.0
COUNT = "SELECT count(*) FROM runs WHERE ended_at IS NOT NULL"

Work = Callable[[Bench], Coroutine[object, object, float]]


class Freshness:
    """Asks all the time how many ended runs the tables know, and notes how late that is."""

    def __init__(self, bench: Bench, tables: Projecting) -> None:
        self._bench, self._tables = bench, tables
        self._ended_s: list[float] = []
        self.late_s: list[float] = []
        self.memory_mb = 0.0

    async def known(self) -> int:
        try:
            _, body = await self._tables.ask({"sql": COUNT})
        except RequestRefusedError:
            return 0  # it is being started
        text = body.decode()
        return int(text.split("[[", 1)[1].split("]", 1)[0])

    def note_ends(self) -> None:
        """Note when runs ended, to some milliseconds."""
        self._ended_s += [now_s()] * (self._bench.ends.count - len(self._ended_s))

    async def ends(self) -> None:
        while True:
            self.note_ends()
            await asyncio.sleep(0.005)

    async def poll(self) -> None:
        while True:
            before = len(self.late_s)
            count = await self.known()
            at_s = now_s()
            self.note_ends()
            self.late_s += [at_s - ended for ended in self._ended_s[before:count]]
            await asyncio.sleep(POLL_S)

    async def watch_memory(self) -> None:
        me = psutil.Process()
        while True:
            for child in me.children():
                try:
                    self.memory_mb = max(self.memory_mb, child.memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue
            await asyncio.sleep(0.1)


async def saturated(bench: Bench) -> float:
    figures = await quick.w1(bench, CLIENTS)
    return float(figures["steps_per_s"])


async def paced(bench: Bench) -> float:
    """Start so many runs a second, whatever becomes of them; return steps a second."""
    begun = now_s()
    total = int(PACED_RUNS_PER_S * quick.SECONDS)
    for number in range(total):
        await bench.send("bench/ten", f"paced-{number}")
        await asyncio.sleep(max(0.0, begun + number / PACED_RUNS_PER_S - now_s()))
    return total * quick.STEPS / (now_s() - begun)


async def window(work: Work, *, projector: bool) -> tuple[float, Freshness | None]:
    """Run some work on a new log; return its speed, and how fresh tables were, if there were any."""
    with tempfile.TemporaryDirectory(prefix="stepfold-bench-") as place:
        folder = Path(place)
        tables = Projecting(folder) if projector else None
        keeping = tables.running() if tables is not None else nullcontext()
        async with running(quick.app, folder) as bench, keeping:
            if tables is None:
                speed, fresh = await work(bench), None
            else:
                speed, fresh = await watched(work, bench, tables)
        return speed, fresh


async def watched(work: Work, bench: Bench, tables: Projecting) -> tuple[float, Freshness]:
    fresh = Freshness(bench, tables)
    while not await first_answer(tables):
        await asyncio.sleep(0.1)
    looking = (fresh.ends(), fresh.poll(), fresh.watch_memory())
    watching = [asyncio.create_task(look) for look in looking]
    speed = await work(bench)
    until = now_s() + SETTLE_S
    while len(fresh.late_s) < bench.ends.count and now_s() < until:
        await asyncio.sleep(0.1)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return speed, fresh


async def first_answer(tables: Projecting) -> bool:
    try:
        await tables.ask({"sql": "SELECT 1"})
    except RequestRefusedError:
        return False
    return True


def told(fresh: Freshness) -> str:
    late = [s * 1000 for s in fresh.late_s]
    return (
        f"{len(late):,} runs: queryable {percentile(late, 50):,.0f} / {percentile(late, 99):,.0f} ms"
        f" (p50 / p99) after their end; projector {fresh.memory_mb:,.0f} MB at most"
    )


async def measure() -> None:
    speeds: dict[bool, list[float]] = {False: [], True: []}
    last: Freshness | None = None
    for _ in range(PAIRS):
        for projector in (False, True):
            speed, fresh = await window(saturated, projector=projector)
            speeds[projector].append(speed)
            last = fresh or last
    without, beside = median(speeds[False]), median(speeds[True])
    print(f"live: W1 at {CLIENTS}: {without:,.0f} steps/s without, {beside:,.0f} with a projector")
    print(f"  it takes {100 * (1 - beside / without):.1f} % of the throughput; load {load1()}")
    assert last is not None
    print(f"  saturated, {told(last)}")
    speed, fresh = await window(paced, projector=True)
    assert fresh is not None
    print(f"  paced at {speed:,.0f} steps/s, {told(fresh)}")


def measure_live() -> None:
    asyncio.run(measure())
