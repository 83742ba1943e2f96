"""The limits of a run, as one value that the shell makes from its settings."""

from dataclasses import dataclass

DAY_MS = 86_400_000

NAME_CHARS_MAX = 255
"""The longest name of a signal or id of a function."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""The most that one run, or somebody outside, says to another: a signal's data, a result."""

CONDITIONS_BYTES_MAX = 2 * 1024 * 1024
"""All conditions of one run's waits: they are part of its head, which is one record."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use, at most.

    Attributes:
        steps: steps and operations of one run.
        outcome_bytes: one step's outcome.
        state_bytes: all outcomes of one run together.
        wait_ms: a sleep, or the timeout of a wait.
        deaths: how often a process may die under a run that goes on alone.
    """

    steps: int = 1_000
    outcome_bytes: int = 4 * 1024 * 1024
    state_bytes: int = 32 * 1024 * 1024
    wait_ms: int = 366 * DAY_MS
    deaths: int = 3
