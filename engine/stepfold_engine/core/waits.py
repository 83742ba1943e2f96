"""Who waits for an event: waits and cancellations by event name and equality terms.

The index only filters; the condition decides. A wait is filed under its first term, or under its
name alone if it has none, so an event costs one look-up per path that waits of that name use.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stepfold_engine.core.patterns import patterns_of
from stepfold_schemas.entries import Condition

Ref = tuple[bytes, bytes]
"""A run's key, and the step that waits; the step is empty for a cancellation."""


@dataclass(slots=True)
class _Named:
    plain: set[Ref] = field(default_factory=set[Ref])
    by_path: dict[str, dict[str, set[Ref]]] = field(default_factory=dict[str, dict[str, set[Ref]]])

    def empty(self) -> bool:
        return not self.plain and not self.by_path


class WaitIndex:
    """Which waits and cancellations may be meant by an event."""

    __slots__ = ("_named",)

    def __init__(self) -> None:
        self._named: dict[str, _Named] = {}

    def add(self, condition: Condition, ref: Ref) -> None:
        """File a wait. Filing it again changes nothing."""
        named = self._named.setdefault(condition.event, _Named())
        if condition.terms:
            term = condition.terms[0]
            named.by_path.setdefault(term.path, {}).setdefault(term.value, set()).add(ref)
        else:
            named.plain.add(ref)

    def remove(self, condition: Condition, ref: Ref) -> None:
        """Take a wait out; one that is not filed is no error."""
        named = self._named.get(condition.event)
        if named is None:
            return
        named.plain.discard(ref)
        if condition.terms:
            term = condition.terms[0]
            values = named.by_path.get(term.path, {})
            refs = values.get(term.value, set())
            refs.discard(ref)
            if not refs:
                values.pop(term.value, None)
            if not values:
                named.by_path.pop(term.path, None)
        if named.empty():
            del self._named[condition.event]

    def wants(self, name: str) -> bool:
        """Say whether anybody may wait for an event of this name."""
        return any(pattern in self._named for pattern in patterns_of(name))

    def candidates(
        self,
        name: str,
        event: Mapping[str, object],
        term_value: Callable[[Mapping[str, object], str], str],
    ) -> list[Ref]:
        """Return, sorted, everyone whose first term this event meets.

        Args:
            name: the event's name.
            event: the event as plain values.
            term_value: gives the canonical value at a dotted path of the event.
        """
        found: set[Ref] = set()
        for pattern in patterns_of(name):
            named = self._named.get(pattern)
            if named is None:
                continue
            found |= named.plain
            for path, values in named.by_path.items():
                found |= values.get(term_value(event, path), set())
        return sorted(found)
