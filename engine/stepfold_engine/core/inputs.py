"""What an owner may be told: the inputs of ``decide``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepfold_schemas.entries import HistoryItem
from stepfold_schemas.events import Event
from stepfold_schemas.messages import Message
from stepfold_schemas.reports import ReportItem


@dataclass(frozen=True, slots=True)
class EventArrived:
    """An event was read.

    Attributes:
        event: the event; ``raw`` is the same as bytes.
        id: its sender's id, or its internal id, or where it lies.
        remembered: the id was given by the sender, so it may come again.
        at_ms: when it was appended.
        home: this partition is its home, so it may start runs.
        values: the event as plain values, for expressions.
    """

    event: Event
    raw: bytes
    id: str
    remembered: bool
    at_ms: int
    home: bool
    values: Mapping[str, object] = field(hash=False)


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A message of a partition, or a request (``source`` -1, with its ``request`` id)."""

    source: int
    number: int
    request: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class RunReported:
    """A worker reported what a run's code did. ``events`` (bytes) are what started the run."""

    run: bytes
    items: Sequence[ReportItem] = field(hash=False)
    events: Sequence[bytes] = field(default=(), hash=False)


@dataclass(frozen=True, slots=True)
class LookbackEnded:
    """The log was searched for a wait (or, with an empty ``step``, for a cancellation).

    ``event`` is the first one found, as bytes, or None; ``event_id`` its id. ``through`` says up
    to which offset each input (topic, partition) was searched.
    """

    run: bytes
    step: bytes
    event: bytes | None
    event_id: str
    event_name: str
    through: Mapping[tuple[str, int], int] = field(
        default_factory=dict[tuple[str, int], int], hash=False
    )


@dataclass(frozen=True, slots=True)
class HistoryCopied:
    """``replaces`` decisions of a run, behind its first ``skips``, read to be restated."""

    run: bytes
    skips: int
    replaces: int
    items: Sequence[HistoryItem] = field(hash=False)
