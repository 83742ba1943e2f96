"""Measure replaying: a run of 1,000 steps, and a check of 10,000 runs of ten steps.

Run it with ``make bench-replay``.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stepfold.port import Fact
from stepfold_engine.cli.loading import Target, load
from stepfold_engine.recordings import recorded
from stepfold_engine.replaying.machine import Machine, story_of
from stepfold_schemas import codec
from stepfold_schemas.entries import RetryPolicy, RunCompleted, RunStarted, StepCompleted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_id, run_key, step_key
from stepfold_schemas.runfile import ExportedRun, RunFile

SOURCE = """
import stepfold

app = stepfold.App("bench")


async def work(number):
    return {"number": number}


@app.function("steps", on="bench/steps")
async def steps(ctx):
    total = 0
    for number in range(ctx.event.data["steps"]):
        total += (await ctx.step.run("work", work, number))["number"]
    return total
"""
START_MS = 1_750_000_000_000
REPEATS = 9


def run_of(steps: int, number: int, fingerprint: str) -> ExportedRun:
    """Make the history of a run, as an engine records it."""
    run = run_id(START_MS + number, run_key(0, "bench-steps", str(number)))
    event = codec.encode(Event("bench/steps", json.dumps({"steps": steps}).encode()))
    started = RunStarted(
        run, "bench-steps", "1", fingerprint, [event], [""], False, 0, 0, 0, RetryPolicy(), []
    )
    facts = [Fact(1, 0, START_MS, started)]
    for i in range(steps):
        name, at_ms = (f"work:{i}" if i else "work"), START_MS + i
        data = json.dumps({"number": i}).encode()
        entry = StepCompleted(run, step_key("work", i), name, 1, at_ms, data)
        facts.append(Fact(i + 2, 0, at_ms, entry))
    end = RunCompleted(run, str(sum(range(steps))).encode())
    return recorded([*facts, Fact(steps + 2, 0, START_MS + steps, end)])


def write(path: Path, runs: list[ExportedRun]) -> None:
    out = io.BytesIO()
    codec.write_runs(out, RunFile(runs))
    path.write_bytes(out.getvalue())


def main() -> None:
    """Measure, and print what was measured."""
    print(
        f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, Python {sys.version.split()[0]}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(SOURCE)
        app = load(Target(folder / "app.py"))
        fingerprint = app.functions["bench-steps"].spec().fingerprint
        machine = Machine(app.functions)
        story = story_of(run_of(1_000, 0, fingerprint))
        found: list[float] = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            told = machine.replay(story)
            found.append(time.perf_counter() - began)
            assert told.given == 1_000
            assert told.end is not None
        machine.close()
        print(f"replay of 1,000 steps: {statistics.median(found) * 1000:.0f} ms (goal 300 ms)")
        write(folder / "runs.avro", [run_of(10, i, fingerprint) for i in range(10_000)])
        command = [sys.executable, "-m", "stepfold", "replay-check", str(folder / "app.py")]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--runs", str(folder / "runs.avro"), "--processes", "2"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
        assert "same: 10,000" in done.stdout, done.stdout
        print(f"replay-check of 10,000 ten-step runs, whole command: {seconds:.1f} s (goal 20 s)")


if __name__ == "__main__":
    main()
