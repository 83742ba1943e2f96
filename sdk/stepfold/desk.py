"""The desk: what a life of a run needs of the worker that it lives in."""

from typing import Protocol

from stepfold.attempts import AttemptRunner
from stepfold.loop import UserLoop
from stepfold.port import EnginePort
from stepfold.threads import ThreadPool
from stepfold_schemas.events import Event


class Resting(Protocol):
    """A life, as far as the desk keeps it in mind when it rests."""

    run: bytes

    def rest(self) -> None:
        """Report that the run is idle, if it is and has not said so."""
        ...


class Desk(Protocol):
    """What a life needs of the worker that it lives in."""

    @property
    def loop(self) -> UserLoop:
        """The loop it runs on."""
        ...

    @property
    def engine(self) -> EnginePort:
        """Where it reports."""
        ...

    @property
    def attempts(self) -> AttemptRunner:
        """What runs the bodies of its steps."""
        ...

    @property
    def threads(self) -> ThreadPool:
        """Where plain functions run."""
        ...

    @property
    def outcome_bytes_max(self) -> int:
        """The largest result."""
        ...

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        ...

    def may_rest(self, life: "Life") -> None:
        """It waits, perhaps for long: ask ``rest`` of it after a while."""
        ...

    def rests(self, life: "Life") -> None:
        """It has reported that it is idle."""
        ...
