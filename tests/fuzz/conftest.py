"""How long a fuzz test may take: in a deep pass longer than other tests, but never for ever."""

import pytest

from tests.fuzz.effort import EXAMPLES

SECONDS_BASE = 120
SECONDS_PER_EXAMPLE = 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here a limit that only what hangs will meet."""
    limit = pytest.mark.timeout(SECONDS_BASE + SECONDS_PER_EXAMPLE * EXAMPLES)
    for item in items:
        if item.path.parent.name == "fuzz":
            item.add_marker(limit)
