"""``stepfold replay --pdb`` with a person at a terminal, in the frames of the author's code."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.replaying.program import Program, make

pytestmark = pytest.mark.process

DEADLINE_S = 60.0
PROMPT = "(Pdb) "


class Terminal:
    """A program on a pseudo-terminal, and the person at it."""

    def __init__(self, args: list[str], folder: Path) -> None:
        self._own, other = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            args, stdin=other, stdout=other, stderr=other, cwd=folder, env=environment
        )
        os.close(other)
        self.output = ""

    def until(self, words: str) -> str:
        """Read until something is said; return what was said before it."""
        deadline = time.monotonic() + DEADLINE_S
        while words not in self.output:
            assert time.monotonic() < deadline, f"{words!r} is not in {self.output!r}"
            ready, _, _ = select.select([self._own], [], [], 0.2)
            if ready:
                try:
                    self.output += os.read(self._own, 65_536).decode(errors="replace")
                except OSError:
                    assert words in self.output, f"it ended: {self.output!r}"
        said, _, self.output = self.output.partition(words)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said).replace("\r\n", "\n")

    def says(self, line: str) -> str:
        """Type a line at the debugger's prompt; return the answer, without the echo."""
        os.write(self._own, f"{line}\n".encode())
        return self.until(PROMPT).partition("\n")[2].strip()

    def types(self, line: str) -> None:
        os.write(self._own, f"{line}\n".encode())

    def end(self) -> tuple[int, str]:
        """Read to the end; return the exit code and what was said."""
        rest = self.output
        while True:
            try:
                data = os.read(self._own, 65_536)
            except OSError:
                break
            if not data:
                break
            rest += data.decode(errors="replace")
        return self.process.wait(DEADLINE_S), rest

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@contextmanager
def debugging(folder: Path, *args: str) -> Iterator[Terminal]:
    terminal = Terminal([sys.executable, "-m", "stepfold", "replay", *args], folder)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def shop(tmp_path: Path) -> Program:
    return make(tmp_path)


@pytest.mark.parametrize("event", ["order", "plain"])
def test_a_person_stops_before_a_step_looks_steps_and_goes_on(shop: Program, event: str) -> None:
    """The same for an ``async def``, and for a plain ``def`` that runs in a thread."""
    run = shop.run(event, 9)
    with debugging(shop.folder, run, "app.py", "--pdb", "--step", "reserve") as t:
        said = t.until(PROMPT)
        assert "stopped: before step 'reserve'" in said
        assert f"{shop.file}(" in said
        assert 'ctx.step.run("reserve", reserve)' in said.splitlines()[-1]
        assert t.says("p order") == "9"
        assert t.says("p payment['amount']") == "12"
        assert "NameError" in t.says("p shelf")
        stepped = t.says("n")
        assert 'payment["amount"]' in stepped.splitlines()[-1]
        assert t.says("p shelf") == "7"
        where = t.says("w")
        assert "stepfold/driver.py" not in where
        t.types("c")
        code, rest = t.end()
    assert code == 0
    assert "as it did then" in rest


def test_a_person_looks_at_where_the_function_raised(shop: Program) -> None:
    run = shop.run("order", 7)
    with debugging(shop.folder, run, "app.py", "--pdb") as t:
        said = t.until(PROMPT)
        assert "stopped: the function raised ZeroDivisionError" in said
        assert 'payment["amount"] // (shelf - order)' in said.splitlines()[-1]
        assert t.says("p shelf, order") == "(7, 7)"
        assert t.says("p payment") == "{'payment': 'pay-7', 'amount': 12}"
        t.types("c")
        code, rest = t.end()
    assert code == 0
    assert "raises ZeroDivisionError" in rest


def test_stepping_stays_in_the_authors_code_through_awaits(shop: Program) -> None:
    run = shop.run("order", 9)
    with debugging(shop.folder, run, "app.py", "--pdb", "--step", "charge") as t:
        t.until(PROMPT)
        lines: list[str] = []
        while not lines or "send_event" not in lines[-1]:
            assert len(lines) < 30
            lines.append(t.says("s").splitlines()[-1])
        # Python stops at a line with an ``await`` when it is left, and when it is come back to.
        seen = list(dict.fromkeys(line.removeprefix("-> ").split("(")[0] for line in lines))
        assert seen == [
            "payment = await ctx.step.run",
            "ctx.logger.warning",
            "await ctx.step.sleep",
            "shelf = await ctx.step.run",
            'share = payment["amount"] // ',
            "await ctx.step.send_event",
        ]
        t.types("c")
        assert t.end()[0] == 0


def test_breakpoint_in_the_code_stops_there(shop: Program) -> None:
    run = shop.run("order", 9)
    shop.change("    share = payment", "    breakpoint()\n    share = payment")
    with debugging(shop.folder, run, "app.py") as t:
        t.until(PROMPT)
        assert t.says("p shelf") == "7"
        t.types("c")
        code, rest = t.end()
    assert code == 0
    assert "as it did then" in rest


def test_leaving_the_debugger_ends_the_replay(shop: Program) -> None:
    run = shop.run("order", 9)
    with debugging(shop.folder, run, "app.py", "--pdb", "--step", "reserve") as t:
        t.until(PROMPT)
        t.types("q")
        code, rest = t.end()
    assert code == 0
    assert "Traceback" not in rest
    assert "returns" not in rest


def test_a_person_is_asked_before_a_step_runs_live(shop: Program) -> None:
    run = shop.run("order", 9)
    with debugging(shop.folder, run, "app.py", "--execute-from", "charge") as t:
        assert "run step 'charge' with (9)?" in t.until("[n]: ")
        t.types("y")
        assert "run step 'reserve' with ()?" in t.until("[n]: ")
        t.types("n")
        code, rest = t.end()
    assert code == 1
    assert "stopped: the step was not run" in rest
