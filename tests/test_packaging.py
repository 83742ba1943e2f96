"""The installed package is whole: the schemas are in it, the SDK is light, the command works."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.process
@pytest.mark.timeout(300)
def test_the_wheel_installs_alone_and_the_command_says_what_is_missing(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("stepfold-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    schemas = [n for n in names if n.endswith(".avsc")]
    source = ROOT / "schemas" / "stepfold_schemas" / "avro"
    assert len(schemas) == len(list(source.glob("*.avsc")))
    assert {n.split("/")[0] for n in names if n.endswith(".py")} == {
        "stepfold",
        "stepfold_engine",
        "stepfold_projections",
        "stepfold_schemas",
    }
    assert [n for n in names if n.endswith("py.typed")]
    (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
    assert b"stepfold.pytest_plugin" in zipfile.ZipFile(wheel).read(entry_points)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    subprocess.run([python, "-m", "pip", "-q", "install", str(wheel)], check=True)
    light = (
        "import stepfold, sys; assert 'fastavro' not in sys.modules; print(stepfold.App('a').id)"
    )
    done = subprocess.run([python, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout == "a\n"
    missing = subprocess.run(
        [str(venv / "bin" / "stepfold"), "--help"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "pip install 'stepfold[engine]'" in missing.stderr
    subprocess.run([python, "-m", "pip", "-q", "install", f"{wheel}[engine]"], check=True)
    helped = subprocess.run(
        [str(venv / "bin" / "stepfold"), "--help"], capture_output=True, text=True, check=True
    )
    assert "dev" in helped.stdout
