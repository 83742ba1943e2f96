"""The pytest plugin: the fixture ``stepfold_env``. Loaded by pytest wherever stepfold is installed.

It imports the engine only when the fixture is used.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stepfold.testing import Environment, MakeEnvironment


@pytest.fixture
def stepfold_env() -> "Iterator[MakeEnvironment]":
    """Give what makes test environments, each of which ends with the test.

    In a test, ``env = stepfold_env(app)`` runs an app. It takes what
    ``stepfold.testing.Environment`` takes.
    """
    from stepfold.testing import Environment  # noqa: PLC0415 - the engine is an extra, and not small

    with ExitStack() as stack:

        def make(*args: Any, **options: Any) -> "Environment":
            return stack.enter_context(Environment(*args, **options))

        yield make


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say of a run's status that is not as expected how the run stands, and why."""
    for status in (left, right):
        if type(status).__module__ == "stepfold.testing.runs":
            explain: Callable[[], str] | None = getattr(status, "explain", None)
            if explain is not None:
                return [f"{left!r} {op} {right!r}", *explain().splitlines()]
    return None
