"""Messages: what goes through an inbox, from another partition or as a request of a node.

A message of a partition has a number; the receiver takes exactly the next one. A request has an
id instead, and is answered by an entry (``RequestAnswered``) in the journal of the partition.
"""

from dataclasses import dataclass

from stepfold_schemas.entries import Error, FunctionSpec, HistoryItem, Invoker
from stepfold_schemas.ids import RUN_ID_BYTES, RUN_KEY_BYTES, STEP_KEY_BYTES

TIME_MS_MAX = 1 << 47
"""Some thousand years: the times in messages are those of waits and of events."""

FROM_NODE = -1
"""The ``source`` of a request: it comes from a node, not from a partition."""


@dataclass(frozen=True, slots=True)
class RunRequested:
    """Start a run of ``function`` here, under this key; its code begins at ``due_ms``.

    ``cause`` says in words what asks for it. With an ``invoker`` its end is told to that step,
    also when the function is unknown. ``spec`` is the function as the sender knows it: a
    declaration may have reached it before it reaches the receiver.
    """

    function: str
    key: bytes
    cause: str
    events: list[bytes]
    due_ms: int
    invoker: Invoker | None = None
    spec: FunctionSpec | None = None


@dataclass(frozen=True, slots=True)
class DebounceRequested:
    """Take this event into the group of a function's debounce key.

    ``spec`` is the function as the sender knows it, as in ``RunRequested``.
    """

    function: str
    key: str
    event: bytes
    event_id: str
    spec: FunctionSpec


@dataclass(frozen=True, slots=True)
class InvocationEnded:
    """The run that ``run``'s step invoked has ended: with ``error``, or with ``data``."""

    run: bytes
    step: bytes
    data: bytes
    error: Error | None = None


@dataclass(frozen=True, slots=True)
class SignalWaitRequested:
    """A run's step wants to be the one waiter for the signal."""

    run: bytes
    step: bytes
    signal: str
    due_ms: int
    on_conflict: str


@dataclass(frozen=True, slots=True)
class SignalWaitWithdrawn:
    """A run's step no longer waits for the signal."""

    run: bytes
    step: bytes
    signal: str


@dataclass(frozen=True, slots=True)
class SignalDelivered:
    """The signal came: this is its outcome for the waiting step."""

    run: bytes
    step: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class SignalWaitClosed:
    """No signal for the waiting step: ``timed-out``, ``replaced``, or ``refused`` (see holder)."""

    run: bytes
    step: bytes
    reason: str
    holder: bytes


@dataclass(frozen=True, slots=True)
class FunctionsAnnounced:
    """An app's functions, numbered by the app's home, for all partitions.

    The receiver reports back to partition ``home``.
    """

    app: str
    number: int
    functions: list[FunctionSpec]
    replaced: list[bytes]
    home: int


@dataclass(frozen=True, slots=True)
class FunctionsTaken:
    """Partition ``partition`` holds declaration ``number`` of the app."""

    app: str
    number: int
    partition: int


@dataclass(frozen=True, slots=True)
class FunctionsSubmitted:
    """Request: declare an app's functions. ``complete``: what is not listed is removed."""

    app: str
    functions: list[FunctionSpec]
    complete: bool
    forced: bool


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Request: cancel a run."""

    run: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class SignalSent:
    """Request: give this signal to its waiter. Answered 404 when nobody waits."""

    signal: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """Request: let a stopped run go on. Who asks, and why."""

    run: bytes
    asked_by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RerunRequested:
    """Request: start a run of ``function`` that shares what ``run`` recorded.

    ``items`` are the entries of ``run`` that are shared, outcomes before ``from_step`` and how
    what they end began; ``seed`` is the run whose random numbers and beginning go with them.
    """

    run: bytes
    function: str
    events: list[bytes]
    from_step: str
    seed: bytes
    items: list[HistoryItem]
    asked_by: str
    why: str


@dataclass(frozen=True, slots=True)
class MessageUndeliverable:
    """Takes the place, and the number, of a message that could not be sent."""

    reason: str


_ID_BYTES = {"run": RUN_ID_BYTES, "step": STEP_KEY_BYTES, "key": RUN_KEY_BYTES}


def check_message(message: "Message") -> None:
    """Refuse a message that no partition sends.

    Raises:
        ValueError: an id has not the length that such ids have, or a time is out of range.
    """
    named: list[object] = [message, getattr(message, "invoker", None)]
    for one in named:
        for name, size in _ID_BYTES.items():
            found = getattr(one, name, None)
            if isinstance(found, bytes) and len(found) != size:
                what = f"{type(message).__name__}: {name}"
                raise ValueError(f"{what} has {len(found)} bytes, not {size}")
    due_ms = getattr(message, "due_ms", 0)
    if not 0 <= due_ms <= TIME_MS_MAX:
        raise ValueError(f"{type(message).__name__}: due_ms {due_ms} is out of range")
    if isinstance(message, RunRequested | RerunRequested) and not message.events:
        raise ValueError(f"{type(message).__name__}: there is no event")


Message = (
    RunRequested
    | DebounceRequested
    | InvocationEnded
    | SignalWaitRequested
    | SignalWaitWithdrawn
    | SignalDelivered
    | SignalWaitClosed
    | FunctionsAnnounced
    | FunctionsTaken
    | FunctionsSubmitted
    | CancelRequested
    | SignalSent
    | ResumeRequested
    | RerunRequested
    | MessageUndeliverable
)


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of an inbox.

    Attributes:
        source: the sending partition, or ``FROM_NODE``.
        number: the message's number from that source; 0 for a request.
        request: the request's id (16 bytes); empty for a partition's message.
        message: the message, in single-object encoding.
    """

    source: int
    number: int
    request: bytes
    message: bytes
