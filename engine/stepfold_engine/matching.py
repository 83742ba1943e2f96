"""Expressions as the core asks for them (``core.matching.Matching``): CEL, and cron."""

from collections.abc import Mapping

from stepfold_engine.crons import due_after, due_until
from stepfold_engine.errors import InvalidOptionError
from stepfold_engine.expressions import bind, canonical, compile_expression, holds, value_at
from stepfold_schemas.entries import Condition


class CelMatching:
    """Binds and tests conditions. Compiled expressions are cached by their text."""

    def bind(
        self, event: str, expression: str, match: str, trigger: Mapping[str, object]
    ) -> Condition:
        """Make a self-contained condition; raise InvalidOptionError for a bad expression."""
        return bind(event, expression, match, trigger)

    def holds(self, condition: Condition, candidate: Mapping[str, object]) -> bool:
        """Say whether a candidate event meets a condition."""
        return holds(condition, candidate)

    def accepts(self, expression: str, event: Mapping[str, object]) -> bool:
        """Say whether a trigger's expression ("" always) is true of an event."""
        if not expression:
            return True
        try:
            return compile_expression(expression).evaluate(event)
        except InvalidOptionError:
            # It was refused when it was declared; in the matcher it only means no.
            return False

    def key(self, expression: str, event: Mapping[str, object]) -> str:
        """Return the value of a key expression as canonical text.

        Raises:
            InvalidOptionError: it has none for this event.
        """
        found = canonical(compile_expression(expression).value(event))
        if not found:
            raise InvalidOptionError(f"the key {expression!r} is no JSON value for this event")
        return found

    def cron_after(self, cron: str, after_ms: int) -> int:
        """Return the first time after this one at which a cron expression comes due, 0 if never."""
        return due_after(cron, after_ms)

    def cron_until(self, cron: str, first_ms: int, now_ms: int) -> int:
        """Return the last time up to now at which it came due, given one at which it did."""
        return due_until(cron, first_ms, now_ms)

    def term_value(self, event: Mapping[str, object], path: str) -> str:
        """Return the canonical text of the value at a dotted path of an event."""
        return canonical(value_at(event, path))
