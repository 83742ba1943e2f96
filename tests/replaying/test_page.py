"""The page about replaying: every command of its walk, in its order, with a real engine."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.e2e.test_cli import DEADLINE_S, Dev, until
from tests.replaying.test_debugger import PROMPT, Terminal

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replay.md"
ASKS_AN_ENGINE = {"sql", "export", "replay-check", "rerun", "resume"}
FAILED, GOOD = "4K2M9QZ1", "7T3B1WXE"

APP = """
from pathlib import Path

import stepfold

app = stepfold.App("shop")
HERE = Path(__file__).parent


def leave(trace: str) -> dict[str, str]:
    with (HERE / "traces").open("a") as file:
        file.write(trace + "\\n")
    return {"state": "done", "password": "hunter2"}


@app.function("fulfil-order", on="shop/order.created", retries=0)
async def fulfil(ctx: stepfold.Context) -> str:
    amount = ctx.event.data["amount"]
    paid = await ctx.step.run("charge", leave, f"charge {amount}")
    if paid["state"] == "declined":
        return "declined"
    await ctx.step.run("ship", leave, "ship")
    boxes = 100 // amount
    await ctx.step.run("tell", leave, f"tell {boxes}")
    return f"{boxes} boxes"


@app.function("welcome", on="shop/user.joined")
async def welcome(ctx: stepfold.Context) -> str:
    await ctx.step.run("greet", leave, "greet")
    await ctx.step.wait_for_event("bought", event="shop/bought", timeout="1h")
    return "welcome"
"""
FIX = ("100 // amount", "100 // max(amount, 1)")
RENAMED = ('"greet", leave', '"hello", leave')


def commands() -> list[str]:
    """Return the commands of the walk, in order."""
    (walk,) = re.findall(r"^## A run failed(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    blocks: list[str] = re.findall(r"```console\n(.*?)```", walk, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


class Walk:
    """A person in a folder who types what the page says; each command is typed once."""

    def __init__(self, dev: Dev) -> None:
        self.dev, self.folder = dev, dev.folder
        self.left = commands()
        self.runs: dict[str, str] = {}

    def _next(self, begins: str) -> list[str]:
        line = self.left.pop(0)
        assert line.startswith(f"stepfold {begins}"), f"the page goes on with {line!r}"
        for named, run in self.runs.items():
            line = line.replace(named, run[-8:])
        words = shlex.split(line)[1:]
        address = ["--url", self.dev.url] if words[0] in ASKS_AN_ENGINE else []
        return [sys.executable, "-m", "stepfold", *words, *address]

    def types(self, begins: str, *codes: int) -> str:
        done = subprocess.run(
            self._next(begins),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S * 2,
            check=False,
        )
        assert done.returncode in (codes or (0,)), done.stdout + done.stderr
        return done.stdout

    def sits_at(self, begins: str, person: Callable[[Terminal], None]) -> str:
        terminal = Terminal(self._next(begins), self.folder)
        try:
            person(terminal)
            code, said = terminal.end()
            assert code == 0, said
            return said
        finally:
            terminal.close()

    def run_of(self, **data: object) -> str:
        known = {row["id"] for row in self.dev.rows("runs")}
        self.dev.ok("send", "shop/order.created", json.dumps(data))

        def ended() -> list[str]:
            rows = self.dev.rows("runs", "--function", "shop-fulfil-order")
            return [str(r["id"]) for r in rows if r["id"] not in known and r["ended_ms"]]

        return until(ended, "the end of a run")[0]

    def deploy(self) -> None:
        self.dev.process.kill()  # type: ignore[union-attr] # it runs
        self.dev.process.wait(DEADLINE_S)  # type: ignore[union-attr]
        self.dev.start()

    def change(self, change: tuple[str, str]) -> None:
        app = self.folder / "app.py"
        assert change[0] in app.read_text()
        app.write_text(app.read_text().replace(*change))

    def traces(self) -> list[str]:
        return (self.folder / "traces").read_text().splitlines()


@pytest.fixture
def walk(tmp_path: Path) -> Generator[Walk]:
    (tmp_path / "app.py").write_text(APP)
    dev = Dev(tmp_path, options=["--no-reload"])
    dev.start()
    yield Walk(dev)
    if dev.process is not None and dev.process.poll() is None:
        dev.process.kill()
        dev.process.wait(DEADLINE_S)


def test_the_page_is_walked_from_a_failure_to_its_repair(walk: Walk) -> None:
    walk.dev.ok("send", "shop/user.joined", "{}")
    waiting = walk.dev.run_in("waiting", "shop-welcome")
    walk.runs[GOOD] = walk.run_of(amount=20, card="4111")
    walk.runs[FAILED] = run = walk.run_of(amount=0, card="4111")
    another = walk.run_of(amount=0, card="4222")
    until(lambda: another in walk.dev.cli("sql", "SELECT run FROM runs WHERE reason IS NULL"
          " AND status = 'failed'").output, "the tables")  # fmt: skip
    done_before = walk.traces()

    assert run in walk.types("sql")
    walk.types("export")
    assert b"4111" not in (walk.folder / "run.avro").read_bytes()
    assert b"hunter2" not in (walk.folder / "run.avro").read_bytes()
    told = walk.types("replay run.avro app.py")
    assert "raises ZeroDivisionError" in told
    assert "charge" in told

    def looks(t: Terminal) -> None:
        t.until(PROMPT)
        assert t.says("p amount") == "0"
        t.types("c")

    walk.sits_at("replay run.avro app.py --pdb", looks)

    def looks_twice(t: Terminal) -> None:
        looks(t)
        looks(t)

    walk.sits_at("replay run.avro app.py --pdb --step charge", looks_twice)
    assert '"declined"' in walk.types("replay run.avro app.py --set")
    assert "StepError" in walk.types("replay run.avro app.py --fail", 0, 1)
    assert "comes to step 'tell'" in walk.types("replay run.avro app.py --set-event", 0, 1)
    walk.types("export")
    assert "tell" in walk.types("diff good.avro run.avro", 1)

    walk.change(FIX)
    assert "ship" in walk.types("replay run.avro app.py --execute-from ship --dry-run")
    assert walk.traces() == done_before

    def agrees(t: Terminal) -> None:
        for step in ("ship", "tell"):
            t.until(step)
            t.until("?")
            t.types("y")

    walk.sits_at("replay run.avro app.py --execute-from ship", agrees)
    assert walk.traces() == [*done_before, "ship", "tell 100"], "on this machine, for real"
    walk.types("replay-check")
    done_before = walk.traces()

    walk.deploy()

    def confirms(t: Terminal) -> None:
        t.until("2 runs are to be rerun")
        t.until("?")
        t.types("y")

    walk.sits_at("rerun", confirms)
    until(lambda: walk.traces() == [*done_before, "tell 100", "tell 100"], "both reruns")

    walk.change(RENAMED)
    walk.deploy()
    walk.dev.ok("send", "shop/bought", "{}")
    walk.runs[FAILED] = waiting
    until(lambda: walk.dev.rows("run", waiting)[0]["status"] == "stopped", "a run that is stopped")
    walk.change((RENAMED[1], RENAMED[0]))
    walk.deploy()
    walk.types("resume")
    until(lambda: walk.dev.rows("run", waiting)[0]["status"] == "completed", "its end")
    assert walk.left == [], "every command of the walk was typed"
