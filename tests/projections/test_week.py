"""The page about SQL: its questions, asked about the week that the examples make, as it says.

``python -m tests.projections.test_week`` writes the answers into the page again.
"""

import io
import re
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from examples.week.app import make_week
from stepfold_engine.cli.sqltables import WIDE, print_table
from stepfold_engine.sources import FolderSource
from stepfold_projections.asking import opened

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "sql.md"
BLOCKS = re.compile(r"```sql\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
QUESTIONS: list[tuple[str, str]] = BLOCKS.findall(PAGE.read_text())


def answers(folder: Path) -> list[str]:
    """Make the week, and ask everything that the page asks."""
    make_week(folder)
    found: list[str] = []
    with opened(folder, lambda: FolderSource(folder)) as tables:
        for question, _ in QUESTIONS:
            out = io.StringIO()
            print_table(Console(file=out, width=WIDE), tables.ask(question))
            found.append("".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines()))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return answers(tmp_path_factory.mktemp("week"))


def test_there_are_ten() -> None:
    assert len(QUESTIONS) == 10


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_the_page_shows_what_is_answered(found: list[str], number: int) -> None:
    assert found[number] == QUESTIONS[number][1]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        left = iter(answers(Path(place) / "week"))
    text = BLOCKS.sub(
        lambda block: f"```sql\n{block[1]}```\n\n```text\n{next(left)}```", PAGE.read_text()
    )
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
