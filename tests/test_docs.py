"""README and docs are true: their Python runs, and every public name is documented."""

import re
from pathlib import Path
from typing import Any

import pytest

import stepfold
from tests.behaviour.scenario import Variant, scenario

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def blocks() -> list[Any]:
    return [
        pytest.param(page, block, id=f"{page.name}-{index}")
        for page in PAGES
        for index, block in enumerate(BLOCK.findall(page.read_text()))
    ]


@pytest.mark.parametrize(("page", "block"), blocks())
def test_every_python_block_runs(page: Path, block: str) -> None:
    code = compile(block, str(page), "exec")
    exec(code, {"__name__": "documented"})


def test_the_readme_example_does_what_it_says(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "documented"}
    exec(BLOCK.findall((ROOT / "README.md").read_text())[0], names)
    with scenario(Variant("embedded", False, 1), names["app"], tmp_path) as s:
        run = s.start_run("shop/order.created", {"order_id": 7})
        s.advance(3600)
        s.send("shop/order.approved", {"order_id": 8})
        s.send("shop/order.approved", {"order_id": 7})
        assert s.ended(run).result == {"state": "shipped", "payment": "pay-7", "shelf": 7}
        silent = s.run("shop/order.created", {"order_id": 9})
        assert silent.result == {"state": "not approved"}


def test_every_public_name_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    missing = [n for n in stepfold.__all__ if not re.search(rf"\b{re.escape(n)}\b", text)]
    assert not missing


def test_public_names_are_exactly_all_sorted() -> None:
    assert list(stepfold.__all__) == sorted(stepfold.__all__)
    for name in stepfold.__all__:
        assert hasattr(stepfold, name)
