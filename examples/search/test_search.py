"""The search index, in virtual time."""

from datetime import timedelta

import pytest

from examples.search import app as search
from stepfold.testing import Environment, MakeEnvironment, crash_everywhere


@pytest.fixture(autouse=True)
def empty() -> None:
    search.documents.clear()
    search.index.clear()


def edit(env: Environment, document: str, text: str) -> None:
    search.documents[document] = text
    env.send("document/edited", {"document": document, "text": text})


def test_a_document_is_indexed_once_when_its_author_pauses(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(search.app)
    for letters in range(1, 9):
        edit(env, "letter", "Dear Ann"[:letters])
        edit(env, "note", f"{letters} letters")
        env.advance("5s")
    assert search.index == {}
    env.advance("30s")
    assert search.index == {"letter": "Dear Ann", "note": "8 letters"}
    assert len(env.runs_of(search.index_document)) == 2


def test_an_author_who_never_pauses_is_indexed_every_ten_minutes(
    stepfold_env: MakeEnvironment,
) -> None:
    env = stepfold_env(search.app)
    for second in range(0, 1_800, 20):
        edit(env, "novel", f"{second} words")
        env.advance("20s")
    runs = env.runs_of(search.index_document)
    assert [run.started_at - runs[0].started_at for run in runs[:2]] == [
        timedelta(0),
        timedelta(minutes=10),
    ]


def test_what_was_missed_is_mended_in_the_night(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(search.app, start="2026-03-28T12:00:00Z")
    search.documents["lost"] = "x"
    env.advance("2d")
    # Half past two does not exist on the 29th in Paris: it comes at three.
    assert [(run.started_at.isoformat(), run.result) for run in env.runs_of(search.check)] == [
        ("2026-03-29T01:00:00+00:00", ["lost"]),
        ("2026-03-30T00:30:00+00:00", []),
    ]
    assert search.index == {"lost": "x"}


def test_no_crash_makes_a_difference() -> None:
    def story(env: Environment) -> None:
        edit(env, "a", "1")
        env.advance("10s")
        edit(env, "a", "2")
        env.advance("1d")
        env.finish()

    def fresh() -> None:
        search.documents.clear()
        search.index.clear()

    crash_everywhere(search.index_document, story, fresh=fresh, observe=lambda: dict(search.index))
