"""What happens in a test: events that were sent, and what is to happen at a time."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, Protocol

from stepfold import serde
from stepfold.durations import moment
from stepfold.events import Sendable
from stepfold.testing.errors import NotThereError
from stepfold.testing.runs import Run
from stepfold_schemas import events


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event that the app sent: by ``step.send_event``, or by ``app.send`` in a step's body.

    Attributes:
        name: the event's name.
        data: its data.
        id: its id.
        at: when it was appended to the log, on the virtual clock.
    """

    name: str
    data: dict[str, Any]
    id: str
    at: datetime


def sent_event(at_ms: int, event: events.Event) -> SentEvent:
    """Show an event of the log as one that the app sent."""
    id_ = event.id or event.internal
    return SentEvent(event.name, serde.loads(event.data), id_, moment(at_ms))


class Sent:
    """Events that the test sent, and what they started.

    Attributes:
        ids: the ids they were given when they were taken in.
    """

    def __init__(
        self, ids: Sequence[str], runs: Callable[[], list[Run]], why_none: Callable[[], str]
    ) -> None:
        self.ids = list(ids)
        self._runs, self._why_none = runs, why_none

    @property
    def runs(self) -> list[Run]:
        """The runs that they have started, in the order of their start."""
        return self._runs()

    @property
    def run(self) -> Run:
        """The one run that they have started.

        Raises:
            NotThereError: they have started none, or several.
        """
        runs = self._runs()
        if len(runs) == 1:
            return runs[0]
        if not runs:
            raise NotThereError(f"no run was started: {self._why_none()}")
        functions = ", ".join(run.function for run in runs)
        raise NotThereError(f"{len(runs)} runs were started, of {functions}: use .runs")

    def __repr__(self) -> str:
        return f"<sent; started {self._runs()!r}>"


class World(Protocol):
    """What can be made to happen at a time."""

    def send(
        self,
        event: Sendable | Sequence[Sendable] | str,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the author's word
        ts: datetime | int | None = None,
        user: Mapping[str, Any] | None = None,
    ) -> Sent:
        """Send an event."""
        ...

    def signal(self, name: str, data: object = None) -> Run | None:
        """Send a signal."""
        ...

    def cancel(self, run: Run, reason: str = ...) -> None:
        """Cancel a run."""
        ...

    def crash(self) -> None:
        """Kill the process."""
        ...


class Schedule:
    """What is to happen when."""

    def __init__(self) -> None:
        self._items: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = count()

    def add(self, at_ms: int, what: Callable[[], object]) -> None:
        """Let this happen then, after what was added before for the same time."""
        heapq.heappush(self._items, (at_ms, next(self._numbers), what))

    @property
    def next_ms(self) -> float:
        """When the next thing is to happen; infinity if nothing is."""
        return self._items[0][0] if self._items else float("inf")

    def pop(self) -> Callable[[], object]:
        """Take out the next thing."""
        return heapq.heappop(self._items)[2]


class Later:
    """Makes things happen at a time, while ``advance`` or ``finish`` let time pass.

    What is due at the same instant inside the engine happens first.
    """

    def __init__(self, world: World, schedule: Schedule, at_ms: int) -> None:
        self._world, self._schedule, self._at_ms = world, schedule, at_ms

    def send(
        self,
        event: Sendable | Sequence[Sendable] | str,
        data: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the author's word
        ts: datetime | int | None = None,
        user: Mapping[str, Any] | None = None,
    ) -> None:
        """Send an event then; see ``Environment.send``."""
        self.call(lambda: self._world.send(event, data, id=id, ts=ts, user=user))

    def signal(self, name: str, data: object = None) -> None:
        """Send a signal then; see ``Environment.signal``."""
        self.call(lambda: self._world.signal(name, data))

    def cancel(self, run: Run, reason: str = "cancelled by the test") -> None:
        """Cancel a run then; see ``Environment.cancel``."""
        self.call(lambda: self._world.cancel(run, reason))

    def crash(self) -> None:
        """Kill the process then; see ``Environment.crash``."""
        self.call(self._world.crash)

    def call(self, what: Callable[[], object]) -> None:
        """Call this then, in the test's own thread, between two instants of the engine."""
        self._schedule.add(self._at_ms, what)
