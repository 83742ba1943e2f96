"""Comparing two runs of a function: where they part, and in which values."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from stepfold.port import Fact
from stepfold_engine.recordings import facts_in, start_of
from stepfold_engine.replaying.telling import (
    Recorded,
    differences,
    end_of,
    steps_in,
    text_of,
    value_of,
)
from stepfold_schemas import codec
from stepfold_schemas.entries import RunCompleted, RunFailed
from stepfold_schemas.runfile import ExportedRun

ABSENT = "—"


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that differs: where in it, and how it is on each side, as text."""

    path: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Row:
    """A step of one run or of both, or the event, or the end.

    Attributes:
        kind: ``event``, ``end``, or the kind of the step.
        name: the step's; "" for event and end.
        one: what the first run's journal says of it; None if nothing.
        other: the same of the second run's.
        differences: in which values they differ; none for one that only one of them has.
    """

    kind: str
    name: str
    one: Recorded | None = None
    other: Recorded | None = None
    differences: Sequence[Difference] = ()

    @property
    def differs(self) -> bool:
        """Whether the runs differ here in more than time."""
        return bool(self.differences) or (
            self.kind not in ("event", "end") and (self.one is None) != (self.other is None)
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        rows: the event, all steps in the order of their outcomes, the end.
        part: the first row in which they differ; None if in none.
        order: the first place where steps that both did came in another order, in words.
    """

    rows: Sequence[Row]
    part: Row | None
    order: str


def compare(one: ExportedRun, other: ExportedRun) -> Comparison:
    """Compare two runs.

    Raises:
        ValueError: they are runs of two functions.
    """
    if one.function != other.function:
        raise ValueError(f"one is a run of {one.function}, the other of {other.function}")
    first, second = facts_in(one), facts_in(other)
    left, right = _by_name(first, one), _by_name(second, other)
    rows = [_event(first, second)]
    rows += [_row(name, left.get(name), right.get(name)) for name in _merged(left, right)]
    rows.append(_end(one, first, other, second))
    part = next((row for row in rows if row.differs), None)
    return Comparison(rows, part, _order(left, right))


def _by_name(facts: Sequence[Fact], run: ExportedRun) -> dict[str, Recorded]:
    """Return the steps of a run by name, those with an outcome first, in the order of outcomes."""
    steps = [step for step in steps_in(facts, run.run).values() if step.name]
    ended = {step.name: step for step in steps if step.outcome is not None}
    order = {id(fact.entry): place for place, fact in enumerate(facts)}
    names = sorted(ended, key=lambda name: order[id(ended[name].outcome)])
    return {name: ended[name] for name in names} | {s.name: s for s in steps if s.name not in ended}


def _merged(left: dict[str, Recorded], right: dict[str, Recorded]) -> list[str]:
    """Return all names: in the order of the first run; others behind what came before them."""
    names = list(left)
    at = 0
    for name in right:
        if name in left:
            at = names.index(name) + 1
        else:
            names.insert(at, name)
            at += 1
    return names


def _row(name: str, one: Recorded | None, other: Recorded | None) -> Row:
    found = one or other
    assert found is not None, "the name is from one of them"
    if one is None or other is None:
        return Row(found.kind, name, one, other)
    told: list[Difference] = []
    if one.kind != other.kind:
        told.append(Difference("kind", one.kind, other.kind))
    elif (one.outcome is None) != (other.outcome is None):
        told.append(Difference("", _state(one), _state(other)))
    else:
        told += _values(value_of(one.outcome), value_of(other.outcome))
        if type(one.outcome) is not type(other.outcome) and not told:
            told.append(Difference("", _state(one), _state(other)))
    if one.target != other.target:
        told.append(Difference("waits for", one.target, other.target))
    return Row(found.kind, name, one, other, told)


def _state(step: Recorded) -> str:
    return "has no outcome" if step.outcome is None else type(step.outcome).__name__


def _values(one: object, other: object) -> list[Difference]:
    return [
        Difference(path, _text(first), _text(second))
        for path, first, second in differences(one, other)
    ]


def _text(value: object) -> str:
    return ABSENT if value is ... else text_of(value)


def _event(first: Sequence[Fact], second: Sequence[Fact]) -> Row:
    events = [codec.decode_event(start_of(facts).events[0]) for facts in (first, second)]
    plain = [
        {"name": e.name, "data": json.loads(e.data), "user": json.loads(e.user)} for e in events
    ]
    return Row("event", "", differences=_values(*plain))


def _end(
    one: ExportedRun, first: Sequence[Fact], other: ExportedRun, second: Sequence[Fact]
) -> Row:
    ends = [_ended(one, first), _ended(other, second)]
    if isinstance(ends[0], RunCompleted) and isinstance(ends[1], RunCompleted):
        told = _values(value_of(ends[0]), value_of(ends[1]))
    else:
        words = (end_of(one, first), end_of(other, second))
        told = [Difference("", *words)] if words[0] != words[1] else []
    return Row("end", "", differences=told)


def _ended(run: ExportedRun, facts: Sequence[Fact]) -> RunCompleted | RunFailed | None:
    last = facts[-1].entry
    return last if run.ended_ms and isinstance(last, RunCompleted | RunFailed) else None


def _order(left: dict[str, Recorded], right: dict[str, Recorded]) -> str:
    def both(steps: dict[str, Recorded], others: dict[str, Recorded]) -> list[str]:
        return [n for n, s in steps.items() if s.outcome and n in others and others[n].outcome]

    for one, other in zip(both(left, right), both(right, left), strict=True):
        if one != other:
            return f"'{one}' had its outcome where the other run had that of '{other}'"
    return ""
