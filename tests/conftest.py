"""What every test run says at its end: how many tests had real parts, so that no skip can hide."""

import pytest

REAL_PARTS = {
    "process": "with real processes, killed with SIGKILL",
    "kafka": "with a real Kafka broker",
    "inngest_sdk": "with an official Inngest SDK",
}


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many of the tests that ran carry each mark, and how many were skipped."""
    passed = terminalreporter.getreports("passed")
    terminalreporter.write_sep("-", "real parts")
    for mark, words in REAL_PARTS.items():
        count = sum(1 for report in passed if mark in report.keywords)
        terminalreporter.write_line(f"{count} tests {words}")
    terminalreporter.write_line(f"{len(terminalreporter.getreports('skipped'))} tests skipped")
