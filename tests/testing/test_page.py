"""docs/testing.md is true: its tests pass, its output is real, and every public name is there."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import stepfold.testing
from stepfold.testing import MakeEnvironment, NotTriedWarning

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "python"])
def test_the_tests_on_the_page_pass(block: str, stepfold_env: MakeEnvironment) -> None:
    names: dict[str, Any] = {"__name__": "documented"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotTriedWarning)
        exec(compile(block, str(PAGE), "exec"), names)
        for name, test in list(names.items()):
            if name.startswith("test_"):
                test(stepfold_env)


def test_the_crash_report_on_the_page_is_what_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "python" and "CrashFoundError" in text]
    (shown,) = [text for kind, text in BLOCKS if kind == "text" and "crash points" in text]
    exec(compile(block, str(PAGE), "exec"), {"__name__": "documented"})
    assert capsys.readouterr().out.startswith(shown.rstrip())


def test_every_public_name_is_on_the_page() -> None:
    text = PAGE.read_text()
    missing = [n for n in stepfold.testing.__all__ if not re.search(rf"\b{n}\b", text)]
    assert not missing


def test_public_names_are_exactly_all_sorted() -> None:
    names = list(stepfold.testing.__all__)
    assert names == sorted(names)
    for name in names:
        assert hasattr(stepfold.testing, name)
