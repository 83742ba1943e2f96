"""W1 (1 and 64 at once), W3 and W5 in about two minutes: JSON lines, then a table.

* W1: a run = 10 trivial steps in sequence; C clients, each starts a run, waits for its end, starts
  the next. Steps per second, and milliseconds a run.
* W3: at low load, milliseconds from publishing an event to the first step's body; and from an
  event to the first step after a wait for it.
* W5: SIGKILL with thousands of unfinished W1 runs; seconds from starting the process again until
  all have completed, and how many steps ran twice.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stepfold
from bench.engine import Bench, load1, now_s, percentile, running

STEPS = 10
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
WARM_S = 2.0
RUNS_W5 = int(os.environ.get("BENCH_RUNS", "4000"))

app = stepfold.App("bench")
marks: dict[str, float] = {}
gate = Path(os.environ.get("BENCH_GATE", "/nonexistent"))
steps_log = (
    os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_APPEND) if "BENCH_LOG" in os.environ else -1
)


async def trivial(i: int) -> dict[str, int]:
    return {"i": i}


@app.function("ten", on="bench/ten")
async def ten(ctx: stepfold.Context) -> int:
    for i in range(STEPS):
        await ctx.step.run("step", trivial, i)
    return STEPS


async def mark(name: str) -> int:
    marks[name] = now_s()
    return 1


@app.function("first", on="bench/first")
async def first(ctx: stepfold.Context) -> None:
    await ctx.step.run("mark", mark, ctx.event.id)


@app.function("waiter", on="bench/wait")
async def waiter(ctx: stepfold.Context) -> None:
    await ctx.step.wait_for_event("go", event="bench/go", match="data.k", timeout="1h")
    await ctx.step.run("mark", mark, ctx.event.id)


async def logged(run: str, i: int) -> dict[str, int]:
    while i == 0 and gate.exists():
        await asyncio.sleep(0.05)
    os.write(steps_log, f"{run} {i}\n".encode())
    return {"i": i}


@app.function("logged", on="bench/logged")
async def logged_ten(ctx: stepfold.Context) -> None:
    for i in range(STEPS):
        await ctx.step.run("step", logged, ctx.event.id, i)


def emit(**figures: Any) -> dict[str, Any]:
    figures["load1"] = load1()
    print(json.dumps(figures), flush=True)
    return figures


async def w1(bench: Bench, clients: int) -> dict[str, Any]:
    took: list[float] = []
    stop = now_s() + WARM_S + SECONDS

    async def client(number: int) -> None:
        count = 0
        while now_s() < stop:
            event_id = f"w1-{clients}-{number}-{count}"
            begun = now_s()
            ended = bench.ended("ten", event_id)
            await bench.send("bench/ten", event_id)
            await ended
            count += 1
            if begun > stop - SECONDS and now_s() <= stop:
                took.append((now_s() - begun) * 1000)

    cpu = time.process_time()
    await asyncio.gather(*(client(n) for n in range(clients)))
    cpu = (time.process_time() - cpu) / (SECONDS + WARM_S)
    return emit(
        work="W1",
        clients=clients,
        steps_per_s=round(len(took) * STEPS / SECONDS),
        run_ms_p50=round(percentile(took, 50), 2),
        run_ms_p99=round(percentile(took, 99), 2),
        cpu=round(cpu, 2),
    )


async def w3(bench: Bench, count: int = 200) -> dict[str, Any]:
    starts: list[float] = []
    wakes: list[float] = []
    for n in range(count):
        event_id = f"w3-{n}"
        ended = bench.ended("first", event_id)
        begun = now_s()
        await bench.send("bench/first", event_id)
        await ended
        starts.append((marks[event_id] - begun) * 1000)
        await asyncio.sleep(0.01)
    for n in range(count):
        event_id = f"w3w-{n}"
        ended = bench.ended("waiter", event_id)
        await bench.send("bench/wait", event_id, json.dumps({"k": n}).encode())
        await asyncio.sleep(0.02)
        begun = now_s()
        await bench.send("bench/go", f"go-{n}", json.dumps({"k": n}).encode())
        await ended
        wakes.append((marks[event_id] - begun) * 1000)
    return emit(
        work="W3",
        start_ms_p50=round(percentile(starts, 50), 2),
        start_ms_p99=round(percentile(starts, 99), 2),
        wake_ms_p50=round(percentile(wakes, 50), 2),
        wake_ms_p99=round(percentile(wakes, 99), 2),
    )


async def w5_start(folder: Path) -> None:
    """The process that is killed: start all runs, then let them go."""
    async with running(app, folder) as bench:
        for start in range(0, RUNS_W5, 500):
            ids = [f"w5-{n}" for n in range(start, min(start + 500, RUNS_W5))]
            await asyncio.gather(*(bench.send("bench/logged", i) for i in ids))
        while sum(len(s.runs) for s in bench.node.states()) < RUNS_W5:
            await asyncio.sleep(0.05)
        gate.unlink()
        print("started", flush=True)
        await asyncio.sleep(600)


async def w5_resume(folder: Path) -> None:
    """The process after it: run until nothing is unfinished."""
    begun = now_s()
    async with running(app, folder) as bench:
        unfinished = sum(len(s.runs) for s in bench.node.states())
        print(
            json.dumps({"open_s": round(now_s() - begun, 2), "unfinished": unfinished}), flush=True
        )
        while any(len(s.runs) for s in bench.node.states()):
            await asyncio.sleep(0.02)
        print(round(now_s() - begun, 2), flush=True)


def w5(folder: Path) -> dict[str, Any]:
    log, closed = folder / "steps", folder / "gate"
    log.touch()
    closed.touch()
    env = os.environ | {"BENCH_LOG": str(log), "BENCH_GATE": str(closed)}
    command = [sys.executable, "-m", "bench.quick"]
    with subprocess.Popen(
        [*command, "w5-start", str(folder / "log")], stdout=subprocess.PIPE, text=True, env=env
    ) as first_one:
        assert first_one.stdout is not None
        assert first_one.stdout.readline() == "started\n"
        time.sleep(float(os.environ.get("BENCH_KILL_AFTER", "1")))
        first_one.send_signal(signal.SIGKILL)
    before = len(log.read_text().splitlines())
    begun = now_s()
    second = subprocess.run(
        [*command, "w5-resume", str(folder / "log")],
        capture_output=True, text=True, env=env, timeout=300, check=True,
    )  # fmt: skip
    total = now_s() - begun
    opened = json.loads(second.stdout.splitlines()[0])
    bodies = Counter(log.read_text().splitlines())
    return emit(
        work="W5",
        unfinished_at_kill=opened["unfinished"],
        open_s=opened["open_s"],
        all_complete_s=round(total, 2),
        steps_lost=RUNS_W5 * STEPS - len(bodies),
        steps_run_twice=sum(times - 1 for times in bodies.values()),
        steps_before_kill=before,
    )


async def in_process(folder: Path) -> list[dict[str, Any]]:
    async with running(app, folder) as bench:
        return [await w1(bench, 1), await w1(bench, 64), await w3(bench)]


def main() -> None:
    """Run what the command line asks for; everything by default."""
    if len(sys.argv) == 3:
        work = {"w5-start": w5_start, "w5-resume": w5_resume}[sys.argv[1]]
        asyncio.run(work(Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory(prefix="stepfold-bench-", dir=Path.cwd()) as name:
        one, many, low = asyncio.run(in_process(Path(name) / "log"))
        after = w5(Path(name))
    rows = [
        ("W1, 1 at once", f"{one['steps_per_s']} steps/s", f"{one['run_ms_p50']} ms a run (p50)"),
        ("W1, 64 at once", f"{many['steps_per_s']} steps/s", f"{many['run_ms_p50']} / {many['run_ms_p99']} ms (p50/p99)"),
        ("W3, event to first step", f"{low['start_ms_p50']} ms", f"{low['start_ms_p99']} ms (p99)"),
        ("W3, event to waiting run", f"{low['wake_ms_p50']} ms", f"{low['wake_ms_p99']} ms (p99)"),
        (f"W5, {after['unfinished_at_kill']} unfinished", f"{after['all_complete_s']} s",
         f"lost {after['steps_lost']}, run twice {after['steps_run_twice']}"),
    ]  # fmt: skip
    width = max(len(row[0]) for row in rows)
    print()
    for name, figure, more in rows:
        print(f"{name:<{width}}  {figure:>14}  {more}")


if __name__ == "__main__":
    main()
