"""The port to the log: records of a topic's partition, read in order, from outside the engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

EVENTS = "events"
JOURNAL = "journal"
DEAD_LETTERS = "dead-letters"
TOPICS = (EVENTS, JOURNAL, DEAD_LETTERS)

Headers = Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Records:
    """What a read returned, in columns, in order of offset.

    Attributes:
        next_offset: where to read on.
        start: the partition's first readable offset; above the offset asked for if records
            between were trimmed.
        values: the records' bytes. Of events: an event in our Avro, or b"" if it is none.
        headers: of dead letters only; empty for the other topics.
    """

    next_offset: int
    start: int
    offsets: list[int] = field(default_factory=list[int])
    times_ms: list[int] = field(default_factory=list[int])
    values: list[bytes] = field(default_factory=list[bytes])
    headers: list[Headers] = field(default_factory=list[Headers])


class Source(Protocol):
    """A log as a reader sees it. Every method blocks; one thread at a time may call."""

    @property
    def name(self) -> str:
        """Say which log it is, if tables could be mixed up; "" for the one in their folder."""
        ...

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        ...

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return a partition's first readable offset, and that of the next append."""
        ...

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> Records:
        """Read up to ``records_max`` records at or after an offset; none if there is none.

        Raises:
            SourceError: a record is damaged.
            UnreachableError: the log cannot be reached at the moment.
        """
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until something may have been appended, for some seconds at most; say if so."""
        ...

    def close(self) -> None:
        """Let go of the log."""
        ...


class SourceError(Exception):
    """The log cannot be read at this place; the message says where and why."""


class UnreachableError(SourceError):
    """The log cannot be reached at the moment; it may be tried again."""
