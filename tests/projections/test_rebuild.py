"""``stepfold projections rebuild``: it shows how far it is, and may be killed at any moment."""

import contextlib
import os
import pty
import random
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.projections import make_log
from tests.projections.logs import differences, projected, tables_in

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]
RUNS = 2_600
"""More than one part of a rebuild takes in."""

KILLS = 3


def command(folder: Path) -> list[str]:
    given = ["projections", "rebuild", "--data", str(folder)]
    return [sys.executable, "-m", "stepfold.command", *given]


def test_killed_at_any_moment_the_old_tables_stay(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    make_log(folder, RUNS)
    before = projected(folder)
    end, other = pty.openpty()
    with subprocess.Popen(command(folder), stdout=other, stderr=other, stdin=other) as process:
        os.close(other)
        shown, begun_s = b"", time.monotonic()
        while process.poll() is None:
            if select.select([end], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # it has ended
                    shown += os.read(end, 65_536)
        took_s = time.monotonic() - begun_s
    os.close(end)
    assert process.returncode == 0
    assert b"reading the log" in shown
    assert re.search(rb"\d+/\d{5}", shown), "how many records of how many"
    rolled = random.Random(5)
    for _ in range(KILLS):
        process = subprocess.Popen(command(folder), stderr=subprocess.DEVNULL)
        time.sleep(rolled.uniform(0.3, 0.95) * took_s)
        process.kill()
        process.wait()
        assert len(tables_in(folder)["runs"]) == RUNS
    assert subprocess.run(command(folder), check=False).returncode == 0
    assert differences(before, tables_in(folder)) == ""
