"""The port to expressions: what the core needs to know of them. The shell brings the real one.

Conditions and keys are CEL; the times at which functions start are cron expressions.
"""

from collections.abc import Mapping
from typing import Protocol

from stepfold_schemas.entries import Condition


class Matching(Protocol):
    """Expressions, compiled and evaluated. Every method is pure."""

    def bind(
        self, event: str, expression: str, match: str, trigger: Mapping[str, object]
    ) -> Condition:
        """Make a self-contained condition; raise InvalidOptionError for a bad expression."""
        ...

    def holds(self, condition: Condition, candidate: Mapping[str, object]) -> bool:
        """Say whether a candidate event meets a condition."""
        ...

    def accepts(self, expression: str, event: Mapping[str, object]) -> bool:
        """Say whether a trigger's expression ("" always) is true of an event."""
        ...

    def key(self, expression: str, event: Mapping[str, object]) -> str:
        """Return the value of a key expression as canonical text."""
        ...

    def cron_after(self, cron: str, after_ms: int) -> int:
        """Return the first time after this one at which a cron expression comes due, 0 if never.

        Raises:
            InvalidOptionError: it is no cron expression.
        """
        ...

    def cron_until(self, cron: str, first_ms: int, now_ms: int) -> int:
        """Return the last time up to now at which it came due, given one at which it did."""
        ...

    def term_value(self, event: Mapping[str, object], path: str) -> str:
        """Return the canonical text of the value at a dotted path of an event."""
        ...
