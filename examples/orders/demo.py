"""The demo: a thousand orders, an engine that is killed in the middle, and a check at the end.

Run it with ``make demo``. It keeps its log in ``.demo/``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from stepfold import Client

FOLDER = Path(".demo")
ORDERS = int(os.environ.get("DEMO_ORDERS", "1000"))
POISONED = 7
PORT = int(os.environ.get("DEMO_PORT", "8299"))
URL = f"http://127.0.0.1:{PORT}"
DEADLINE_S = 110
APP = Path(__file__).with_name("app.py")

console = Console()


def write_orders() -> list[dict[str, Any]]:
    """Write the file of orders, one JSON object a line; one of them is poisoned."""
    orders: list[dict[str, Any]] = []
    for number in range(ORDERS):
        amount = -1 if number == POISONED else 10 + number * 37 % 990
        orders.append({"order_id": f"order-{number}", "amount": amount})
    lines = [json.dumps(order) for order in orders]
    (FOLDER / "orders.jsonl").write_text("\n".join(lines) + "\n")
    return orders


def start_engine() -> subprocess.Popen[bytes]:
    """Start ``stepfold dev`` on the example, in a process of its own, and wait until it answers."""
    command = [sys.executable, "-m", "stepfold.command", "dev", str(APP), "--port", str(PORT)]
    command += ["--data", str(FOLDER / "log"), "--no-reload"]
    output = (FOLDER / "engine.log").open("ab")
    engine = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + 30
    while not answers():
        if engine.poll() is not None or time.monotonic() > deadline:
            console.print((FOLDER / "engine.log").read_text()[-3000:])
            raise SystemExit("the engine did not start")
        time.sleep(0.05)
    return engine


def ask(path: str) -> dict[str, Any]:
    """Ask the engine's HTTP API."""
    with urllib.request.urlopen(f"{URL}{path}", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def answers() -> bool:
    """Say whether the engine is up."""
    try:
        return ask("/health")["status"] == 200
    except OSError:
        return False


def all_runs() -> list[dict[str, Any]]:
    """List every run of the function that fulfils orders, page by page."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = ask(f"/stepfold/v1/runs?function=shop-fulfil-order&limit=500&cursor={cursor}")[
            "data"
        ]
        found += page
        if len(page) < 500:
            return found
        cursor = page[-1]["id"]


def send(orders: list[dict[str, Any]]) -> None:
    """Publish an event for every order; its id makes that safe to do twice."""
    client = Client(URL)
    for start in range(0, len(orders), 100):
        client.send(
            [
                {"name": "shop/order.created", "data": o, "id": f"created-{o['order_id']}"}
                for o in orders[start : start + 100]
            ]
        )


def ended() -> int:
    """Count the orders that were shipped or refused, from what the step bodies wrote."""
    try:
        lines = (FOLDER / "bodies.log").read_text().split("\n")
    except FileNotFoundError:
        return 0
    return len({line.split()[0] for line in lines if " ship " in line or "tell-customer" in line})


def watch(progress: Progress, task: TaskID, until: int, deadline: float) -> None:
    """Show progress until so many orders have ended."""
    while (count := ended()) < until:
        progress.update(task, completed=count)
        if time.monotonic() > deadline:
            raise SystemExit(f"only {count} of {until} orders ended in time; see .demo/engine.log")
        time.sleep(0.2)
    progress.update(task, completed=ended())


def check(orders: list[dict[str, Any]]) -> bool:
    """Ask the engine for every run, and compare with the file of orders."""
    deadline = time.monotonic() + 20
    while True:
        runs = all_runs()
        unfinished = [r for r in runs if r["status"] not in ("completed", "failed")]
        if not unfinished or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    statuses = Counter(r["status"] for r in runs)
    completed = [r["id"] for r in runs if r["status"] == "completed"]
    results = Counter(ask(f"/v1/runs/{run}")["data"]["output"]["order_id"] for run in completed)
    wanted = {o["order_id"] for o in orders if o["amount"] > 0}
    once = len(runs) == len(orders) and set(results) == wanted and set(results.values()) == {1}
    console.print(f"\n[bold]{len(runs)}[/] runs for {len(orders)} orders: {dict(statuses)}")
    good = once and statuses["failed"] == 1 and not unfinished
    console.print(
        "[green]every order ended exactly once[/]" if good else "[red]NOT as it should be[/]"
    )
    show_repeats()
    return good


def show_repeats() -> None:
    """Say which step bodies ran more than once, and why."""
    bodies = Counter[tuple[str, str, str]]()
    for line in (FOLDER / "bodies.log").read_text().splitlines():
        order_id, step, attempt, _ = line.split()
        bodies[order_id, step, attempt] += 1
    retried = Counter(step for (_, step, attempt) in bodies if int(attempt) > 1)
    killed = Counter(step for (_, step, _), times in bodies.items() if times > 1)
    console.print(f"{sum(bodies.values())} step bodies ran.")
    for step, count in sorted(retried.items()):
        console.print(f"  {count} × {step}: again, because its first attempt failed (a retry)")
    for step, count in sorted(killed.items()):
        console.print(
            f"  {count} × {step}: again, because the engine was killed after the body began and"
            " before its outcome was in the log"
        )
    if not killed:
        console.print("  none because of the kill: no body was under way at that moment")


def main() -> None:
    """Run the demo."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    deadline = time.monotonic() + DEADLINE_S
    orders = write_orders()
    console.print(f"{len(orders)} orders in {FOLDER}/orders.jsonl; starting the engine …")
    engine = start_engine()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("orders ended", total=len(orders))
            send(orders)
            watch(progress, task, len(orders) * 2 // 5, deadline)
            engine.send_signal(signal.SIGKILL)
            engine.wait()
            console.print(
                f"[red]killed the engine[/] (SIGKILL, pid {engine.pid}); starting it again …"
            )
            engine = start_engine()
            watch(progress, task, len(orders), deadline)
        good = check(orders)
    finally:
        engine.send_signal(signal.SIGTERM)
        engine.wait(timeout=20)
    console.print(
        f"\nLook at what happened there:\n"
        f"  stepfold dev {APP.relative_to(Path.cwd())} --data .demo/log\n"
        "and in another terminal:\n"
        f"  stepfold runs --status failed\n"
        f"  stepfold run RUN_ID        # an id from the list: steps, attempts, durations\n"
        f"  stepfold events"
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
