"""Where no history is kept, every question about runs is refused, and told where to look."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.history import NoHistory

QUESTIONS: dict[str, Callable[..., Awaitable[Any]]] = dict(
    inspect.getmembers(NoHistory(), inspect.iscoroutinefunction)
)


def test_there_are_as_many_questions_as_the_api_asks() -> None:
    asked = {"named", "outcome", "run", "runs", "runs_of_event", "timeline"}
    assert QUESTIONS.keys() == asked
    assert not NoHistory().complete


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_a_question_is_refused(name: str) -> None:
    async def ask() -> None:
        await QUESTIONS[name]("what")

    with pytest.raises(RequestRefusedError, match="stepfold log copy") as refused:
        asyncio.run(ask())
    assert refused.value.status == 501
