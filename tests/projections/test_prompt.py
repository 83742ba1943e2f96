"""The prompt of ``stepfold sql``, typed into through a pseudo-terminal."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from pathlib import Path

import pyte
import pytest

from bench.projections import make_log

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
PATIENCE_S = 60.0
RUNS = 12
UP, TAB, CTRL_C, CTRL_D, ENTER = "\x1b[A", "\t", "\x03", "\x04", "\r"


class Screen(pyte.Screen):
    """A screen that answers what programs ask the terminal, such as where the cursor is."""

    def __init__(self, end: int) -> None:
        super().__init__(120, 60)
        self._end = end

    def write_process_input(self, data: str) -> None:
        os.write(self._end, data.encode())


class Terminal:
    """A terminal that a person types into, 120 columns wide."""

    def __init__(self, folder: Path, home: Path, *more: str) -> None:
        self.end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 120, 0, 0))
        command = [sys.executable, "-m", "stepfold.command", "sql", "--data", str(folder), *more]
        environment = os.environ | {"HOME": str(home), "TERM": "xterm"}
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=environment, close_fds=True
        )
        os.close(other)
        self._screen = Screen(self.end)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """What is on the screen, as far as the line where the cursor is, and a menu below it."""
        return [line.rstrip() for line in self._screen.display]

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def shows(self, pattern: str) -> None:
        """Wait until some lines of the screen are as a pattern says, from its first line on."""
        until_s = time.monotonic() + PATIENCE_S
        while not re.search(pattern, "\n".join(self.lines), re.MULTILINE):
            assert time.monotonic() < until_s, "\n".join([pattern, *self.lines])
            self._read()

    def _read(self) -> None:
        if select.select([self.end], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # it has ended
                self._stream.feed(os.read(self.end, 65_536))

    def ended(self) -> int:
        until_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < until_s, "it goes on"
            self._read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.end)


@pytest.fixture
def terminal(tmp_path: Path) -> Generator[Terminal]:
    make_log(tmp_path / "log", RUNS)
    opened = Terminal(tmp_path / "log", tmp_path)
    yield opened
    opened.close()


def test_questions_descriptions_completion_and_history(terminal: Terminal, tmp_path: Path) -> None:
    t = terminal
    t.shows("^sql >$")
    t.type("SELECT count(*) AS n FROM runs;" + ENTER)
    t.shows(rf"^ n\n{RUNS}\n\(1 row\)\nsql >$")
    t.type("\\d" + ENTER)
    t.shows(r"^waiting_now\s+something that an unfinished run waits for\nsql >$")
    t.type("\\d flaky_steps" + ENTER)
    t.shows(r"^  retried_share\s+DOUBLE")
    t.type("\\d nothing" + ENTER)
    t.shows("^there is no table nothing\nsql >$")
    # A table's name is completed, and so is a column of that table.
    t.type("SELECT count(*) AS flaky FROM flaky_st")
    t.shows(r"^\s+flaky_steps\s+table")
    t.type(TAB)
    t.shows("^sql > SELECT .* FROM flaky_steps$")
    t.type(" WHERE retried_sh")
    t.shows(r"^\s+retried_share\s+column")
    t.type(TAB)
    t.shows("^sql > SELECT .* WHERE retried_share$")
    t.type(" > 2;" + ENTER)
    t.shows(r"^flaky\n +0\n\(1 row\)")
    # A question may have several lines; Ctrl-C forgets it.
    t.type("SELECT 40 +" + ENTER)
    t.shows("^     >$")
    t.type(" 2 AS answer;" + ENTER)
    t.shows(r"^answer\n +42\n\(1 row\)\nsql >$")
    t.type("SELECT 'forgotten'" + ENTER)
    t.shows("'forgotten'\n     >$")
    t.type(CTRL_C)
    t.shows("'forgotten'\n     >\nsql >$")
    # What is wrong is said, and the prompt goes on.
    t.type("SELECT nonsense FROM runs;" + ENTER)
    t.shows('Referenced column "nonsense" not found')
    t.type("DROP VIEW runs;" + ENTER)
    t.shows("only SELECT can be asked; this is DROP\nsql >$")
    t.type(UP + UP)
    t.shows("DROP\nsql > SELECT nonsense FROM runs;")
    t.type(CTRL_C)
    t.shows("FROM runs;\nsql >$")
    t.type(CTRL_D)
    assert t.ended() == 0
    # The next time, what was asked is still known.
    again = Terminal(tmp_path / "log", tmp_path)
    again.shows("^sql >$")
    again.type(UP + UP)
    again.shows("^sql > SELECT nonsense FROM runs;$")
    again.type(CTRL_C + "\\q" + ENTER)
    assert again.ended() == 0
    again.close()


def test_as_of_holds_for_every_question(tmp_path: Path) -> None:
    make_log(tmp_path / "log", RUNS)
    t = Terminal(tmp_path / "log", tmp_path, "--as-of", "2020-01-01T00:00")
    t.shows("^sql >$")
    t.type("SELECT count(*) + 7000 AS n FROM runs;" + ENTER)
    t.shows(r"^ *7000$")
    t.type("exit" + ENTER)
    assert t.ended() == 0
    t.close()
