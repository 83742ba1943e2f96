"""Reports: what a run's code, running in a worker, tells the partition that owns the run.

They are never written down; the owner turns them into entries. A report's items become one
decision, so what a run did in one turn is recorded together or not at all.

Asks (``Ask…``) are new durable operations; each is reported once, in the order the code made
them. Durations are milliseconds; the owner's clock turns them into times.
"""

from dataclasses import dataclass

from stepfold_schemas.entries import Error, RetryPolicy


@dataclass(frozen=True, slots=True)
class AskSleep:
    """Sleep for ``duration_ms``, or until ``until_ms`` if that is above 0."""

    step: bytes
    name: str
    duration_ms: int
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class AskTimer:
    """The run's own code set an asyncio timer."""

    step: bytes
    name: str
    delay_ms: int


@dataclass(frozen=True, slots=True)
class AskWait:
    """Wait for an event.

    Attributes:
        event: its name, or a pattern that ends in ``/*`` or ``.*``.
        match: dotted path that must be equal in trigger and candidate, or "".
        expression: CEL over ``event`` and ``async``, or "".
        trigger: the run's trigger event as plain JSON values
            (``{"name", "data", "id", "ts", "user"}``), which the expression reads as ``event``.
        since_ms: 0 for live only; -1 for since the event that started the run; else a time.
    """

    step: bytes
    name: str
    event: str
    match: str
    expression: str
    trigger: dict[str, object]
    timeout_ms: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class AskSignal:
    """Wait for a signal; ``on_conflict`` is ``fail`` or ``replace``."""

    step: bytes
    name: str
    signal: str
    timeout_ms: int
    on_conflict: str


@dataclass(frozen=True, slots=True)
class AskInvoke:
    """Run another function (by full id) with this data (a JSON object) and wait for its result."""

    step: bytes
    name: str
    function: str
    data: bytes
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class AskAbandon:
    """The code no longer awaits this operation or step."""

    step: bytes


@dataclass(frozen=True, slots=True)
class AttemptSucceeded:
    """An attempt's outcome. ``data`` is JSON."""

    step: bytes
    name: str
    attempt: int
    started_ms: int
    data: bytes


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt's outcome.

    Attributes:
        policy: the step's own, or None for the function's.
        permanent: not to be tried again.
        retry_after_ms: try again after this long, whatever the policy's delay; -1 if not given.
    """

    step: bytes
    name: str
    attempt: int
    started_ms: int
    error: Error
    policy: RetryPolicy | None = None
    permanent: bool = False
    retry_after_ms: int = -1


@dataclass(frozen=True, slots=True)
class AttemptRunning:
    """An attempt has been running for a second."""

    step: bytes
    name: str
    attempt: int
    started_ms: int


@dataclass(frozen=True, slots=True)
class RunIdle:
    """Everything that the run awaits is an operation in the journal (or in this report).

    ``seen`` is the seq of the last fact that the code has got: a later one in the journal means
    that it is on its way and will wake the run.
    """

    seen: int = 0


@dataclass(frozen=True, slots=True)
class RunReturned:
    """The function returned this JSON value."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RunRaised:
    """The function's own code raised on function-level attempt ``attempt`` (from 1)."""

    attempt: int
    error: Error
    permanent: bool = False
    retry_after_ms: int = -1


@dataclass(frozen=True, slots=True)
class VersionAsked:
    """The code asked which side of a change it is on, and was told: ``chosen`` is the new one."""

    name: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class RunDiverged:
    """Replay asked for something other than the journal holds. ``report`` is a JSON object."""

    report: bytes


ReportItem = (
    AskSleep
    | AskTimer
    | AskWait
    | AskSignal
    | AskInvoke
    | AskAbandon
    | AttemptSucceeded
    | AttemptFailed
    | AttemptRunning
    | RunIdle
    | RunReturned
    | RunRaised
    | VersionAsked
    | RunDiverged
)
