"""What ``stepfold sql`` and ``stepfold report`` write: tables, CSV, JSON, Parquet, a page."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet as pq  # pyright: ignore[reportMissingTypeStubs]
import pytest

from bench.projections import make_log

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
RUNS = 12
SQL = "SELECT count(*) AS n, max(attempts) AS attempts, NULL AS none, [1, 2] AS list FROM runs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log"
    make_log(path, RUNS)
    return path


def stepfold(*args: str) -> tuple[int, bytes, str]:
    done = subprocess.run(
        [sys.executable, "-m", "stepfold.command", *args], capture_output=True, check=False
    )
    return done.returncode, done.stdout, done.stderr.decode()


def asked(folder: Path, *more: str) -> bytes:
    status, out, said = stepfold("sql", SQL, "--data", str(folder), *more)
    assert (status, said) == (0, "")
    return out


def test_a_table_csv_json_parquet_and_arrow(folder: Path, tmp_path: Path) -> None:
    names, row = ["n", "attempts", "none", "list"], [RUNS, 1, None, [1, 2]]
    lines = asked(folder).decode().splitlines()
    assert [line.split() for line in lines] == [names, ["12", "1", "[1,", "2]"]]
    assert asked(folder, "-o", "csv").decode().splitlines()[0] == "n,attempts,none,list"
    said = [json.loads(line) for line in asked(folder, "-o", "json").splitlines()]
    assert said == [dict(zip(names, row, strict=True))]
    assert asked(folder, "-o", "parquet", "--out", str(tmp_path / "x.parquet")) == b""
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [dict(zip(names, row, strict=True))]
    stream = pa.ipc.open_stream(asked(folder, "-o", "arrow"))
    assert stream.read_all().to_pylist() == [dict(zip(names, row, strict=True))]


def test_a_report_as_text_and_as_one_page(folder: Path, tmp_path: Path) -> None:
    status, out, _ = stepfold("report", "--data", str(folder))
    assert status == 0
    for title in ("Runs by status", "Failures", "Slowest steps", "Flakiest steps", "Waiting now"):
        assert title in out.decode()
    page = tmp_path / "report.html"
    status, _, _ = stepfold("report", "--data", str(folder), "--html", str(page))
    assert status == 0
    text = page.read_text()
    assert "<script src" not in text
    assert "href=" not in text.partition("<body>")[0]
    assert "Runs by status" in text


def test_what_is_wrong_ends_with_2_and_says_what(folder: Path, tmp_path: Path) -> None:
    for question, word in (("SELECT nonsense FROM runs", "nonsense"), ("DROP VIEW runs", "SELECT")):
        status, out, said = stepfold("sql", question, "--data", str(folder))
        assert (status, out) == (2, b"")
        assert word in said
    status, _, said = stepfold("sql", "SELECT 1", "--data", str(tmp_path))
    assert status == 1
    assert "holds no log" in said
    status, _, said = stepfold("sql", "SELECT 1", "--url", "http://127.0.0.1:9")
    assert status == 3
    assert "no engine answers" in said
    status, _, said = stepfold("projections", "run", "--data", str(tmp_path / "none"))
    assert status == 2
    assert "--kafka" in said
    status, _, said = stepfold("projections", "run", "--kafka", "127.0.0.1:9")
    assert status == 2
    assert "--namespace" in said
