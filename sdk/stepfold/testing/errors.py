"""Errors of the testing kit.

::

    AssertionError
    └── NotAsExpectedError        the app did something else than the test says
        ├── RunNotCompletedError  the result of a run was asked for that has none
        ├── StuckError            runs wait for something that never comes
        ├── CrashFoundError       a crash changes what comes out
        ├── UnstableStoryError    a story comes out differently when it is played again
        └── NotDeterministicError code outside steps changes what comes out
    LookupError
    └── NotThereError             no such run, step, event or function; says which there are
    UserWarning
    └── NotTriedWarning           a check could not be made, and why
"""

from collections.abc import Sequence
from typing import Any


class NotAsExpectedError(AssertionError):
    """The app did something else than the test says."""


class RunNotCompletedError(NotAsExpectedError):
    """The result of a run was asked for that has none: it failed, was cancelled, or goes on."""


class StuckError(NotAsExpectedError):
    """Runs wait for something that never comes, however much time passes."""


class CrashFoundError(NotAsExpectedError):
    """A crash changes what comes out.

    Attributes:
        report: which crashes, and how; a ``CrashReport``.
    """

    def __init__(self, report: Any) -> None:
        super().__init__(str(report))
        self.report = report


class UnstableStoryError(NotAsExpectedError):
    """A story comes out differently when it is played again."""


class NotDeterministicError(NotAsExpectedError):
    """Code outside steps does something else when it is run again.

    Attributes:
        findings: what differs; ``Finding`` objects.
    """

    def __init__(self, text: str, findings: Sequence[Any]) -> None:
        super().__init__(text)
        self.findings = findings


class NotThereError(LookupError):
    """There is no such run, step, event or function; the message says which there are."""


class NotTriedWarning(UserWarning):
    """A check could not be made; the message says why, and how it can be."""
