"""The projector beside a real engine: fresh, apart, started again when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from stepfold_projections.asking import Engine
from stepfold_projections.queries import QueryError

ROOT = Path(__file__).resolve().parent.parent.parent
APP = """
import stepfold

app = stepfold.App("shop")


def work() -> int:
    return 7


@app.function("f", on="go")
async def f(ctx: stepfold.Context) -> int:
    return await ctx.step.run("work", work)
"""
PATIENCE_S = 100.0

pytestmark = [pytest.mark.process, pytest.mark.timeout(400), pytest.mark.xdist_group("beside")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[str, int, Path]]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "-m", "stepfold.command", "dev", "app.py", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-reload", "--data", "data"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "STEPFOLD_PROJECTIONS": "1"},
    )
    assert process.stdout is not None
    line = ""
    while "http://" not in line:
        line = process.stdout.readline()
        assert line, "the engine did not start"
    yield "http" + line.split("http")[1].strip(), process.pid, folder / "data"
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    process.stdout.close()


def send(url: str) -> None:
    body = json.dumps({"name": "go", "data": {}}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/e/key", body)) as answer:
        assert answer.status == 200


def rows_when(url: str, sql: str, count: int) -> list[dict[str, Any]]:
    """Ask until there are as many rows as expected."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            rows = Engine(url).ask(sql).rows()
        except QueryError as error:
            assert error.status == 503, error  # noqa: PT017 - it is waited for
            rows = []
        if len(rows) >= count or time.monotonic() > until:
            return rows
        time.sleep(0.1)


def projector_of(engine: int) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process(engine).children()
        if "stepfold_engine.projecting.process" in child.cmdline()
    ]
    return found


def test_a_finished_run_can_be_asked_for_and_a_killed_projector_comes_back(
    engine: tuple[str, int, Path],
) -> None:
    url, pid, _ = engine
    finished = "SELECT run, output FROM runs WHERE status = 'completed'"
    send(url)
    (row,) = rows_when(url, finished, 1)
    assert row["output"] == "7"
    projector_of(pid).kill()
    send(url)
    assert len(rows_when(url, finished, 2)) == 2


def test_questions_over_http_are_checked(engine: tuple[str, int, Path]) -> None:
    url, _, _ = engine
    rows_when(url, "SELECT 1 AS one", 1)
    for sql in ("SELECT * FROM read_text('/etc/passwd')", "DROP VIEW runs", "SELEKT"):
        with pytest.raises(QueryError) as refused:
            Engine(url).ask(sql)
        assert refused.value.status == 400
    body = json.dumps({"sql": "SELECT 1 AS one, 'x' AS two"}).encode()
    with urllib.request.urlopen(f"{url}/v1/sql", body) as answer:
        said = json.load(answer)
    assert (said["columns"], said["data"]) == (["one", "two"], [[1, "x"]])


def test_a_copy_can_be_fetched_and_opened(engine: tuple[str, int, Path], tmp_path: Path) -> None:
    url, _, _ = engine
    send(url)
    rows_when(url, "SELECT * FROM runs WHERE status = 'completed'", 1)
    Engine(url).publish(tmp_path / "copy.duckdb")
    with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as copy:
        row = copy.execute("SELECT count(*) > 0 FROM runs").fetchall()
    assert row == [(True,)]
