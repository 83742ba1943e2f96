"""The command line, with real processes: started, killed, restarted, reloaded, asked."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner, Result

from stepfold_engine.cli.program import program
from stepfold_engine.log.base import NewRecord
from stepfold_engine.log.embedded import EmbeddedLog

pytestmark = pytest.mark.process

DEADLINE_S = 30.0
MAIN = "from stepfold.command import main; main()"
T = TypeVar("T")

APP = """
import os
from pathlib import Path

import stepfold

app = stepfold.App("shop")
TRACES = Path(__file__).parent / "traces"


def leave(trace: str) -> None:
    with TRACES.open("a") as file:
        file.write(trace + "\\n")


@app.function("fulfil", on="shop/order.paid")
async def fulfil(ctx: stepfold.Context) -> str:
    order = ctx.event.data["order"]

    async def charge() -> str:
        leave(f"charge {order}")
        return f"receipt {order}"

    receipt = await ctx.step.run("charge", charge)
    await ctx.step.wait_for_event("packed", event="shop/packed", timeout="1h")
    return receipt


@app.function("approve", on="shop/asked")
async def approve(ctx: stepfold.Context) -> object:
    said = await ctx.step.wait_for_signal("approval", signal="approval", timeout="1h")
    return None if said is None else said.data


@app.function("break", on="shop/broken", retries=0)
async def broken(ctx: stepfold.Context) -> None:
    async def explode() -> None:
        raise ValueError("it broke")

    await ctx.step.run("explode", explode)
"""


def until(look: Callable[[], T], what: str = "it") -> T:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.02)
    return found


@dataclass
class Dev:
    """A ``stepfold dev`` in a folder, and the commands that ask it."""

    folder: Path
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    options: list[str] = field(default_factory=list[str])

    @property
    def output(self) -> str:
        return (self.folder / f"output-{self.starts}").read_text()

    def start(self) -> None:
        self.starts += 1
        with (self.folder / f"output-{self.starts}").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "dev", "app.py", "--port", "0", *self.options],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.says("unfinished run")
        self.url = next(word for word in self.output.split() if word.startswith("http://"))

    def stop(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def says(self, words: str) -> None:
        process = self.process
        assert process is not None

        def look() -> bool:
            if words in self.output:
                return True
            assert process.poll() is None, self.output
            return False

        until(look, f"{words!r} in {self.output}")

    def cli(self, *args: str, stdin: str = "") -> Result:
        return CliRunner().invoke(program, [*args, "--url", self.url], input=stdin)

    def ok(self, *args: str, stdin: str = "") -> str:
        result = self.cli(*args, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.output.strip()

    def rows(self, *args: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ok(*args, "--json").splitlines()]

    def run_in(self, status: str, function: str) -> str:
        def look() -> list[dict[str, Any]]:
            return self.rows("runs", "--status", status, "--function", function)

        return str(until(look, f"a run of {function} that is {status}")[0]["id"])


@pytest.fixture
def dev(tmp_path: Path) -> Generator[Dev]:
    (tmp_path / "app.py").write_text(APP)
    found = Dev(tmp_path)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.process.kill()
        found.process.wait(DEADLINE_S)


def refused(folder: Path, *args: str) -> tuple[int, str]:
    """Run a command that ends by itself; return its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_killed_engine_goes_on_where_it_was(dev: Dev) -> None:
    dev.start()
    event = dev.ok("send", "shop/order.paid", '{"order": 7}', "--id", "order-7")
    run = dev.run_in("waiting", "shop-fulfil")
    dev.stop(signal.SIGKILL)
    dev.start()
    assert "1 unfinished run" in dev.output
    dev.ok("send", "shop/packed")
    assert dev.run_in("completed", "shop-fulfil") == run
    # Sent again with the same id, an event starts nothing.
    dev.ok("send", "shop/order.paid", '{"order": 7}', "--id", "order-7")
    shown = dev.ok("run", run)
    assert "receipt 7" in shown
    assert event in shown
    assert (dev.folder / "traces").read_text() == "charge 7\n"
    assert len(dev.rows("runs")) == 1
    dev.stop(signal.SIGKILL)
    dev.start()
    assert dev.rows("run", run[-8:])[0]["outcome"] == {"data": "receipt 7"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(dev: Dev, number: signal.Signals) -> None:
    dev.start()
    dev.ok("send", "shop/order.paid", '{"order": 1}')
    dev.run_in("waiting", "shop-fulfil")
    began = time.monotonic()
    assert dev.stop(number) == 0, dev.output
    assert time.monotonic() - began < 10
    assert "Traceback" not in dev.output
    dev.start()
    assert "the process died" not in dev.output


SLOW = """
import asyncio
from pathlib import Path

import stepfold

app = stepfold.App("shop")
TRACES = Path(__file__).parent / "traces"


async def take_long() -> str:
    with TRACES.open("a") as file:
        file.write("begun\\n")
    await asyncio.sleep(1.5)
    return "done"


@app.function("slow", on="shop/slow")
async def slow(ctx: stepfold.Context) -> str:
    first = await ctx.step.run("long", take_long)
    await ctx.step.wait_for_event("go", event="shop/go", timeout="1h")
    return first
"""


def test_an_attempt_that_is_running_ends_before_it_stops(dev: Dev) -> None:
    (dev.folder / "app.py").write_text(SLOW)
    dev.start()
    dev.ok("send", "shop/slow")
    until((dev.folder / "traces").exists, "the step's body")
    assert dev.stop(signal.SIGTERM) == 0, dev.output
    dev.start()
    run = dev.run_in("waiting", "shop-slow")
    dev.ok("send", "shop/go")
    assert dev.run_in("completed", "shop-slow") == run
    assert dev.rows("run", run)[0]["outcome"] == {"data": "done"}
    assert (dev.folder / "traces").read_text() == "begun\n"


def test_runs_are_asked_for_cancelled_and_signalled(dev: Dev) -> None:
    dev.start()
    dev.ok("send", "shop/asked")
    run = dev.run_in("waiting", "shop-approve")
    assert dev.cli("signal", "nobody").exit_code == 1
    assert dev.ok("signal", "approval", "-", stdin='{"by": "me"}') == run
    assert dev.run_in("completed", "shop-approve") == run
    dev.ok("send", "shop/order.paid", '{"order": 2}')
    waiting = dev.run_in("waiting", "shop-fulfil")
    assert "event shop/packed" in dev.ok("runs", "--status", "waiting", "--since", "1h")
    assert dev.ok("cancel", waiting[-8:]) == f"cancelled {waiting}"
    assert dev.cli("cancel", waiting).exit_code == 1
    assert dev.cli("resume", run).exit_code == 1
    assert dev.rows("run", waiting)[0]["status"] == "cancelled"
    dev.ok("send", "shop/broken")
    failed = dev.run_in("failed", "shop-break")
    assert "ValueError: it broke" in dev.ok("run", failed)
    names = [row["name"] for row in dev.rows("events", "--limit", "2")]
    assert names == ["shop/broken", "shop/order.paid"]
    for args, code in (
        (["run", "0" * 26], 1),
        (["run", "no-run"], 2),
        (["runs", "--status", "odd"], 2),
        (["runs", "--since", "soon"], 2),
        (["send", "a", "{"], 2),
        (["send", "inngest/x"], 2),
    ):
        assert dev.cli(*args).exit_code == code, args


def test_the_live_log_tells_what_happens(dev: Dev) -> None:
    dev.start()
    seen = dev.folder / "seen"
    with seen.open("wb") as output:
        watching = subprocess.Popen(
            [sys.executable, "-c", MAIN, "runs", "--watch", "--url", dev.url], stdout=output
        )
    try:

        def told() -> bool:
            # Sent until it is seen: the watcher may not be there yet.
            dev.ok("send", "shop/broken")
            dev.says("step explode failed for good: ValueError: it broke")
            return "started by shop/broken" in seen.read_text()

        until(told)
    finally:
        watching.kill()
        watching.wait(DEADLINE_S)
    assert "\x1b" not in dev.output


def test_changed_code_is_loaded_and_broken_code_is_not(dev: Dev) -> None:
    dev.start()
    dev.ok("send", "shop/order.paid", '{"order": 3}')
    run = dev.run_in("waiting", "shop-fulfil")
    app = dev.folder / "app.py"
    app.write_text(APP + "\n\ndef oops(:\n")
    dev.says("the code was not loaded")
    app.write_text(APP.replace("return receipt", 'return receipt + " (new)"'))
    dev.says("loaded again")
    dev.ok("send", "shop/packed")
    assert dev.run_in("completed", "shop-fulfil") == run
    assert dev.rows("run", run)[0]["outcome"] == {"data": "receipt 3 (new)"}


def test_an_app_that_left_the_file_starts_nothing_and_its_runs_wait_for_their_code(
    dev: Dev,
) -> None:
    dev.start()
    dev.ok("send", "shop/order.paid", '{"order": 4}')
    run = dev.run_in("waiting", "shop-fulfil")
    assert dev.stop(signal.SIGTERM) == 0
    (dev.folder / "app.py").write_text(APP.replace('App("shop")', 'App("store")'))
    dev.start()
    dev.says("app shop is not in the file")
    dev.ok("send", "shop/order.paid", '{"order": 5}')
    dev.run_in("waiting", "store-fulfil")
    dev.ok("send", "shop/packed")
    dev.run_in("completed", "store-fulfil")
    assert dev.run_in("waiting-for-code", "shop-fulfil") == run
    assert len(dev.rows("runs")) == 2


@pytest.mark.parametrize(
    ("source", "says"),
    [
        pytest.param("x = 1\n", "has no app", id="no-app"),
        pytest.param(
            "import stepfold\na = stepfold.App('a')\nb = stepfold.App('b')\n", "2 apps", id="two"
        ),
        pytest.param("import stepfold\n\ndef f(:\n", "line 3", id="syntax"),
        pytest.param("raise RuntimeError('not today')\n", "not today", id="raises"),
        pytest.param(APP + APP[APP.index("@app") :], "two functions have the id", id="twice"),
        pytest.param(
            APP.replace('on="shop/asked"', 'on="shop/asked", if_="event.data.x =="'),
            "trigger shop/asked",
            id="expression",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "app.py").write_text(source)
    code, output = refused(tmp_path, "dev", "app.py", "--port", "0")
    assert code == 1
    assert says in output


def test_wrong_usage_is_explained(dev: Dev) -> None:
    assert refused(dev.folder, "dev", "other.py")[0] == 2
    code, output = refused(dev.folder, "dev", "app.py", "--host", "0.0.0.0")
    assert (code, "--event-key" in output) == (2, True)
    code, output = refused(dev.folder, "runs", "--url", "http://127.0.0.1:9")
    assert (code, "start one with: stepfold dev app.py" in output) == (3, True)
    dev.start()
    port = dev.url.rpartition(":")[2]
    code, output = refused(dev.folder, "dev", "app.py", "--port", port, "--data", "elsewhere")
    assert (code, "is taken" in output) == (1, True)
    code, output = refused(dev.folder, "dev", "app.py", "--port", "0")
    assert code == 1, output
    code, output = refused(dev.folder, "dev", "--help")
    assert (code, "stepfold dev app.py" in output) == (0, True)


def test_event_keys_are_checked(dev: Dev) -> None:
    dev.options = ["--event-key", "secret"]
    dev.start()
    assert dev.cli("send", "shop/asked").exit_code == 1
    dev.ok("send", "shop/asked", "--key", "secret")


def test_without_the_engine_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['stepfold_engine'] = None; " + MAIN
    done = subprocess.run(
        [sys.executable, "-c", code, "dev", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, "pip install 'stepfold[engine]'" in done.stderr) == (2, True)


def test_dead_letters_are_listed_shown_and_sent_again(dev: Dev, tmp_path: Path) -> None:
    async def write() -> None:
        log = EmbeddedLog.open(dev.folder / ".stepfold", 1, lambda: 1_800_000_000_000)
        try:
            broken = NewRecord(b'{"name": "shop/asked"', b"\xff", (("trace", b"7"),))
            await log.append("events", 0, [broken])
        finally:
            await log.close()

    asyncio.run(write())
    dev.start()
    (row,) = until(lambda: dev.rows("dead-letters", "list"))
    assert row["source"] == "events-0-0"
    assert "nor JSON" in row["error"]
    assert row["id"] in dev.ok("dead-letters", "list")
    shown = dev.ok("dead-letters", "show", row["id"])
    assert '{"name": "shop/asked"' in shown
    assert "trace: 7" in shown
    assert "ff" in shown
    mended = tmp_path / "mended.json"
    mended.write_text(dev.ok("dead-letters", "show", row["id"], "--raw") + "}")
    said = dev.ok("dead-letters", "redrive", row["id"], "--value", str(mended))
    assert said == "0-0 is sent again as events-0-1"
    assert dev.run_in("waiting", "shop-approve")
    assert dev.rows("events")[0]["id"] == "events-0-0"
    assert "events-0-0" in dev.ok("events")
    assert dev.cli("dead-letters", "redrive", "5-5").exit_code == 1


def test_prometheus_can_scrape_it(dev: Dev) -> None:
    dev.start()
    dev.ok("send", "shop/order.paid", '{"order": 3}')
    dev.run_in("waiting", "shop-fulfil")
    dev.ok("send", "shop/broken")
    dev.run_in("failed", "shop-break")

    def scraped() -> str:
        with urllib.request.urlopen(f"{dev.url}/metrics") as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            return answer.read().decode()

    until(lambda: 'stepfold_input_lag{input="0",partition="0",topic="events"} 0.0' in scraped())
    lines = set(scraped().splitlines())
    kinds = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    listed = page.partition("## Metrics")[2].partition("\n## ")[0]
    assert {kind for kind in kinds if not kind.endswith("_created")} == set(
        re.findall(r"stepfold_[a-z_]+", listed)
    )
    assert {
        "stepfold_events_accepted_total 2.0",
        "stepfold_events_read_total 2.0",
        'stepfold_runs_started_total{function="shop-fulfil"} 1.0',
        'stepfold_runs_ended_total{function="shop-break",status="failed"} 1.0',
        'stepfold_steps_total{function="shop-break",outcome="failed"} 1.0',
        "stepfold_partitions_owned 1.0",
    } <= lines
    assert any(line.startswith('stepfold_append_seconds_count{topic="journal"}') for line in lines)
