"""After SIGKILL at any moment the tables are what a rebuild gives."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.projections import make_log
from tests.projections.logs import differences, projected, tables_in

RUNS = 60
KILLS = 5
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.process
@pytest.mark.timeout(600)
def test_after_kills_the_tables_are_what_a_rebuild_gives(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    make_log(folder, RUNS)
    shutil.copytree(folder, tmp_path / "whole")
    rolled = random.Random(7)
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.projections.crashing", str(folder), "20"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            time.sleep(rolled.uniform(0.0, 0.5))
            process.kill()
    projected(folder)
    expected = projected(tmp_path / "whole")
    assert len(expected["runs"]) == RUNS
    assert differences(expected, tables_in(folder)) == ""
