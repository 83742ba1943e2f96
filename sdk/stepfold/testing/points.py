"""Points: the places at which a process may die, as far as its journal or the world can tell.

A process reaches points one after the other and asks at each whether to die there.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AppendPoint:
    """At an append to the log.

    Attributes:
        number: which append of the process it is, from 1.
        landed: how many of its records were written when the process died.
    """

    number: int
    landed: int


@dataclass(frozen=True, slots=True)
class BodyPoint:
    """At the body of a step.

    Attributes:
        function: the function's full id.
        run: which run of that function it is, from 1.
        step: the step's name, with ``:1``, ``:2`` for repeats.
        attempt: the attempt, from 1.
        where: 0 before the body, -1 after it and before its outcome is recorded, n at its n-th
            ``await``.
    """

    function: str
    run: int
    step: str
    attempt: int
    where: int


Point = AppendPoint | BodyPoint


class Points(Protocol):
    """Who says where a process dies."""

    def reach(self, point: Point, shown: str) -> bool:
        """Say whether to die here. ``shown`` says in words what happens here. Thread-safe."""
        ...


class Nowhere:
    """The process does not die."""

    def reach(self, point: Point, shown: str) -> bool:  # noqa: ARG002 - the port's
        """Say that it lives on."""
        return False
