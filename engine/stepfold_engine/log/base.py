"""The ``Log`` port: topics of partitions of records, appended and read by offset.

The contract, which ``tests/contract/test_log.py`` checks for every adapter:

* An append puts its records, in order, at the end of one partition of one topic. When it
  returns, they are durable: they survive the process and the machine.
* Appends under way at the same time are committed together where the adapter can. Two appends
  to one partition by one caller, the second awaited or not, keep the order of their calls.
* Offsets of a partition grow; they may have holes, and other writers' records may lie between.
* A read returns records from an offset on, in order, only durable ones.
* A trim removes records below an offset; a later read below it says where the log starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stepfold_engine.errors import RecordTooLargeError

EVENTS = "events"
INBOX = "inbox"
JOURNAL = "journal"
DEAD_LETTERS = "dead-letters"
TOPICS = (EVENTS, INBOX, JOURNAL, DEAD_LETTERS)

RECORD_BYTES_MAX = 9 * 1024 * 1024
"""The largest record any log takes: a run's result (4 MiB), again in the message that tells its
invoker, and room."""

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append. Headers are readable text, for people and tools that look in."""

    value: bytes
    key: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lies in the log. ``at_ms`` is the time of its append."""

    offset: int
    at_ms: int
    value: bytes
    key: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition's first offset that can still be read, and the offset of the next append."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a read returned.

    Attributes:
        records: in order of offset; empty if there is nothing at or after the offset yet.
        next_offset: where to read on.
        start: the partition's first readable offset. Above the offset asked for: records between
            were trimmed, and ``records`` begins at ``start``.
    """

    records: list[Record]
    next_offset: int
    start: int


def check_sizes(topic: str, partition: int, records: Sequence[NewRecord]) -> None:
    """Refuse records that are larger than any log takes.

    Raises:
        RecordTooLargeError: one of them is; the message names its size and the limit.
    """
    for record in records:
        size = len(record.value) + len(record.key)
        if size > RECORD_BYTES_MAX:
            text = f"{topic}/{partition}: a record of {size} bytes; the limit is"
            raise RecordTooLargeError(f"{text} {RECORD_BYTES_MAX}")


class Log(Protocol):
    """What the engine needs of a log."""

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        ...

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records to a partition; return the offset of the first once all are durable.

        The others lie directly behind it. None means: durable, but the offset is not known, or
        others' records lie between (the caller reads on to find out).

        Raises:
            AppendRefusedError: nothing was written (too large, disk full, closed).
            AppendUnknownError: it may have been written, or may still be.
        """
        ...

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset: at least one if there is one, about ``bytes_max``.

        If there is none, wait up to ``wait_ms`` for the first.

        Raises:
            CorruptLogError: a record at or after the offset is damaged. Records before it have
                been returned by earlier reads: a read stops short of a damaged record, and the
                one that begins there raises.
        """
        ...

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end, both of durable records."""
        ...

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        ...

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset. Trimming to where it is trimmed already does nothing."""
        ...

    async def close(self) -> None:
        """Finish appends under way and let go of everything."""
        ...
