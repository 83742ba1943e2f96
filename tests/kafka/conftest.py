"""Every test here has a real broker, unless it says otherwise by living in ``test_properties``."""

from pathlib import Path

import pytest

collect_ignore = ["program.py", "moved.py"]
HERE = Path(__file__).parent
BROKERLESS = {"test_properties.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.parent == HERE and item.path.name not in BROKERLESS:
            item.add_marker("kafka")
