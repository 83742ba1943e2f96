"""What every test run says at its end: how many tests had real parts, so that no skip can hide."""

import pytest

from tests.parts.broker import kafka

__all__ = ["kafka", "pytest_collection_modifyitems", "pytest_terminal_summary"]

REAL_PARTS = {
    "process": "with real processes, killed with SIGKILL",
    "kafka": "with a real Kafka broker",
    "registry": "with a real schema registry",
    "inngest_sdk": "with an official Inngest SDK",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note each test's marks where reports keep them: their keywords hold folders' names, too."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()} & REAL_PARTS.keys()
        item.user_properties += [("real", mark) for mark in sorted(marks)]


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many of the tests that ran carry each mark, and which were skipped, and why."""
    passed = terminalreporter.getreports("passed")
    terminalreporter.write_sep("-", "real parts")
    for mark, words in REAL_PARTS.items():
        count = sum(1 for r in passed if mark in [m for _, m in r.user_properties])
        terminalreporter.write_line(f"{count} tests {words}")
    skipped = terminalreporter.getreports("skipped")
    terminalreporter.write_line(f"{len(skipped)} tests skipped")
    for report in skipped:
        why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"    {report.nodeid}: {why}")
