"""Entries: the facts of a journal, one frozen class each, in the past tense.

Rules:

* An entry names every run and key that it changes and carries the values.
* Its effect on one of them depends on that one and on the entry alone, so that restated pieces
  may be folded in any order.
* A released class never changes. A new version is a new class and a new schema file.

Ids: ``run`` is the run's ULID (16 bytes), ``step`` a step's key (20 bytes, ``ids.step_key``),
``name`` the step's id as its author wrote it, with ``:1``, ``:2`` for repeats. Times end in
``_ms`` and are milliseconds since 1970. Payloads are JSON as UTF-8 bytes.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Error:
    """What went wrong: the exception's class name, its text and its traceback ("" if none)."""

    name: str
    message: str
    stack: str = ""
    data: bytes = b"null"


@dataclass(frozen=True, slots=True)
class Position:
    """Where an input is read from next: everything before (offset, part) has been decided."""

    topic: str
    partition: int
    offset: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Term:
    """An equality that a candidate event must meet: the value at ``path`` is ``value``.

    ``path`` is dotted and starts below the event (``data.order_id``); ``value`` is canonical JSON.
    """

    path: str
    value: str


@dataclass(frozen=True, slots=True)
class Condition:
    """Which events are meant, self-contained: nothing else is needed to test a candidate.

    Attributes:
        event: the event's name, or a pattern that ends in ``/*`` or ``.*``.
        expression: CEL over ``event`` (the run's trigger) and ``async`` (the candidate), or "".
        bindings: JSON object with those parts of the trigger that the expression reads.
        terms: equalities that follow from the expression; they filter before CEL is asked.
    """

    event: str
    expression: str = ""
    bindings: bytes = b"{}"
    terms: list[Term] = field(default_factory=list[Term])


@dataclass(frozen=True, slots=True)
class Cancellation:
    """An event that cancels the run, until ``expires_ms``."""

    condition: Condition
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Invoker:
    """The step of another run that waits for this run's result."""

    run: bytes
    step: bytes


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event, or a pattern of events, that starts a function, if ``expression`` holds."""

    event: str
    expression: str = ""


@dataclass(frozen=True, slots=True)
class CancelOn:
    """A function's option: this event cancels its runs."""

    event: str
    expression: str = ""
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late something that failed is tried again.

    The delay before retry n (from 1) is ``delay_ms * factor ** (n - 1)``, at most
    ``delay_ms_max``, plus a share of up to ``jitter`` of it.
    """

    retries: int = 4
    delay_ms: int = 2_000
    factor: float = 4.0
    delay_ms_max: int = 3_600_000
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class Debounce:
    """A function's option: of events in quick succession only the last one starts a run.

    It starts when no event with the same value of ``key`` (CEL over ``event``; "" for one value)
    came for ``period_ms``, and ``timeout_ms`` after the first one at the latest.
    """

    period_ms: int
    key: str = ""
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function as it is declared: what starts and ends its runs.

    ``id`` is ``<app>-<function>``. ``on_failure`` is the id of the function that handles its
    failures, or "". Zero milliseconds mean no limit. ``crons`` are cron expressions.
    """

    id: str
    name: str
    version: str
    fingerprint: str
    triggers: list[Trigger]
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    idempotency: str = ""
    cancel_on: list[CancelOn] = field(default_factory=list[CancelOn])
    start_timeout_ms: int = 0
    finish_timeout_ms: int = 0
    on_failure: str = ""
    crons: list[str] = field(default_factory=list[str])
    debounce: Debounce | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """Something durable that a run asked for and that has no outcome yet.

    Only the fields that its kind needs are set. Kinds: ``step`` (attempt ``attempt`` failed, the
    next one waits for ``due_ms``), ``running`` (attempt ``attempt`` was seen running), ``sleep``,
    ``timer`` (asyncio's), ``wait``, ``signal``, ``invoke``. ``held`` is set while a look-back into
    the log goes on.
    """

    step: bytes
    kind: str
    name: str
    attempt: int = 0
    due_ms: int = 0
    condition: Condition | None = None
    target: str = ""
    since_ms: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class SeqPlace:
    """From ``seq`` on, a record's offset is at least its seq plus ``delta``."""

    seq: int
    delta: int


@dataclass(frozen=True, slots=True)
class RoundPlace:
    """A finished round of restating: the offset at which it starts, and when it began."""

    start: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Counter:
    """A number per partition: the last message queued for it, or the last one taken from it."""

    partition: int
    number: int


@dataclass(frozen=True, slots=True)
class WaitRef:
    """One wait of one run."""

    run: bytes
    step: bytes


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One entry of a run's journal, copied: when it was recorded, and its bytes."""

    at_ms: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class PartitionClaimed:
    """A process begins a term. Accepted only if ``epoch`` is the current one plus 1."""

    epoch: int
    nonce: bytes
    node: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class PartitionReleased:
    """The owner stopped cleanly: nothing was running when it left."""


@dataclass(frozen=True, slots=True)
class PartitionRestated:
    """A round of restating begins; these are the partition's counters at its start."""

    round: int
    positions: list[Position]
    queued: list[Counter]
    taken: list[Counter]
    places: list[SeqPlace]
    rounds: list[RoundPlace]
    node: str
    incarnation: str
    unclean: int
    width: int


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """Everything alive has been restated since the round's ``PartitionRestated``."""

    round: int


@dataclass(frozen=True, slots=True)
class FunctionsDeclared:
    """The complete list of an app's functions, in force from here on.

    ``replaced`` holds digests of lists that were in force before, newest last.
    """

    app: str
    number: int
    functions: list[FunctionSpec]
    replaced: list[bytes]


@dataclass(frozen=True, slots=True)
class FunctionsHeld:
    """These partitions hold declaration ``number`` of the app; ``request`` waits for all."""

    app: str
    number: int
    request: bytes
    partitions: list[int]


@dataclass(frozen=True, slots=True)
class CronScheduled:
    """At the home of a function's cron: it comes due next at ``due_ms``."""

    function: str
    cron: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class CronFired:
    """A function's cron came due, and its time ``fired_ms`` started ``run``.

    It was due from ``due_ms`` on: if that is earlier, nobody owned the partition then, and the
    times between start no run. It comes due next at ``next_ms``; 0 for never again.
    """

    function: str
    cron: str
    due_ms: int
    fired_ms: int
    next_ms: int
    run: bytes


@dataclass(frozen=True, slots=True)
class CronEnded:
    """The function has this cron no more."""

    function: str
    cron: str


@dataclass(frozen=True, slots=True)
class EventDebounced:
    """At the home of a debounce key: of the events in ``group``, this one starts a run.

    It does so at ``due_ms`` if no other one comes. ``superseded`` is the id of the event that it
    took the place of, or that came late and did not take its place; "" for none. ``spec`` is the
    function, if its declaration has not reached the partition.
    """

    function: str
    key: str
    group: bytes
    event: bytes
    event_id: str
    superseded: str
    first_ms: int
    due_ms: int
    spec: FunctionSpec | None = None


@dataclass(frozen=True, slots=True)
class DebounceEnded:
    """The group has come to its end: its event started the run with this key (10 bytes).

    If there was a run with the function's idempotency key, it is that one; b"" if the function was
    removed meanwhile.
    """

    function: str
    key: str
    group: bytes
    event_id: str
    run_key: bytes


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """The answer to a request, remembered for a day. ``status`` follows HTTP."""

    request: bytes
    at_ms: int
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class MessageQueued:
    """Message ``number`` for partition ``destination`` is to be sent."""

    destination: int
    number: int
    message: bytes


@dataclass(frozen=True, slots=True)
class MessagesSent:
    """Messages for ``destination`` up to ``through`` lie in its inbox."""

    destination: int
    through: int


@dataclass(frozen=True, slots=True)
class MessageTaken:
    """Message ``number`` of partition ``source`` was taken. Its effects are in this record."""

    source: int
    number: int


@dataclass(frozen=True, slots=True)
class IdsRemembered:
    """Keys (10 bytes each, joined) of runs that ended in this hour and may not start again.

    Among them those that an event would have, if it was put forward by a debounce instead.
    """

    hour: int
    keys: bytes


@dataclass(frozen=True, slots=True)
class SuspectsResumed:
    """After deaths of the process these runs, and no others, are going on."""

    runs: list[bytes]
    width: int


@dataclass(frozen=True, slots=True)
class SuspectsCleared:
    """These runs got on without a death."""

    runs: list[bytes]


@dataclass(frozen=True, slots=True)
class InputRejected:
    """An input could not be read or handled; its bytes are in the dead letters."""

    topic: str
    partition: int
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class PositionReset:
    """A read position lay below the start of its topic: what lay between is gone."""

    topic: str
    partition: int
    expected: int
    start: int


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run exists. ``events`` (Avro) are what started it; its code begins at ``due_ms``."""

    run: bytes
    function: str
    version: str
    fingerprint: str
    events: list[bytes]
    event_ids: list[str]
    remembered: bool
    due_ms: int
    start_by_ms: int
    finish_by_ms: int
    retry: RetryPolicy
    cancellations: list[Cancellation]
    on_failure: str = ""
    invoker: Invoker | None = None


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """An attempt has been running for a while. The run's own code has the step ""."""

    run: bytes
    step: bytes
    name: str
    attempt: int
    started_ms: int


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step's outcome: ``data`` is what its body returned on attempt ``attempt`` (from 1)."""

    run: bytes
    step: bytes
    name: str
    attempt: int
    started_ms: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StepAttemptFailed:
    """An attempt failed; the step is tried again at ``retry_at_ms``."""

    run: bytes
    step: bytes
    name: str
    attempt: int
    started_ms: int
    error: Error
    retry_at_ms: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step's outcome: it failed for good."""

    run: bytes
    step: bytes
    name: str
    attempt: int
    started_ms: int
    error: Error


@dataclass(frozen=True, slots=True)
class SleepBegan:
    """The run sleeps until ``due_ms``."""

    run: bytes
    step: bytes
    name: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class SleepEnded:
    """A sleep's outcome."""

    run: bytes
    step: bytes


@dataclass(frozen=True, slots=True)
class TimerSet:
    """The run's own code set an asyncio timer."""

    run: bytes
    step: bytes
    name: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """An asyncio timer's outcome."""

    run: bytes
    step: bytes


@dataclass(frozen=True, slots=True)
class WaitBegan:
    """The run waits for an event until ``due_ms``.

    With ``since_ms`` above 0, events appended from that time on count, too; until the log has
    been searched the wait is held.
    """

    run: bytes
    step: bytes
    name: str
    condition: Condition
    due_ms: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class LookbackFinished:
    """The log held no event for this wait; from here on it is live."""

    run: bytes
    step: bytes


@dataclass(frozen=True, slots=True)
class EventMatched:
    """The outcome of waits: they got this event (Avro). It is not given to a run twice."""

    event: bytes
    event_id: str
    waits: list[WaitRef]


@dataclass(frozen=True, slots=True)
class WaitTimedOut:
    """A wait's outcome: no event came in time."""

    run: bytes
    step: bytes


@dataclass(frozen=True, slots=True)
class SignalWaitBegan:
    """The run waits for a signal; its timeout is decided by the signal's home."""

    run: bytes
    step: bytes
    name: str
    signal: str
    due_ms: int
    on_conflict: str


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """A signal wait's outcome."""

    run: bytes
    step: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class SignalWaitEnded:
    """No signal will come to this wait, and why.

    ``timed-out`` and ``refused`` (``holder`` waits for the name) are outcomes; a ``replaced`` wait
    goes on to its timeout.
    """

    run: bytes
    step: bytes
    reason: str
    holder: bytes


@dataclass(frozen=True, slots=True)
class SignalHeld:
    """At the signal's home: this run's step is the one waiter for the name."""

    signal: str
    run: bytes
    step: bytes
    due_ms: int


@dataclass(frozen=True, slots=True)
class SignalFreed:
    """At the signal's home: nobody waits for the name any more."""

    signal: str


@dataclass(frozen=True, slots=True)
class InvokeBegan:
    """The run waits for the result of another function's run, until ``due_ms``."""

    run: bytes
    step: bytes
    name: str
    function: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class InvokeCompleted:
    """An invocation's outcome: the other run's result."""

    run: bytes
    step: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class InvokeFailed:
    """An invocation's outcome: the other run failed, was cancelled, or took too long."""

    run: bytes
    step: bytes
    error: Error


@dataclass(frozen=True, slots=True)
class OperationsAbandoned:
    """The run's code no longer awaits these (it cancelled them)."""

    run: bytes
    steps: list[bytes]


@dataclass(frozen=True, slots=True)
class RunParked:
    """Everything the run awaits is in the journal; it need not be woken until one comes."""

    run: bytes


@dataclass(frozen=True, slots=True)
class RunAttemptFailed:
    """The function's own code raised; it is tried again at ``retry_at_ms``."""

    run: bytes
    attempt: int
    error: Error
    retry_at_ms: int


@dataclass(frozen=True, slots=True)
class RunCompleted:
    """A run's end: what the function returned."""

    run: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A run's end: the function failed for good."""

    run: bytes
    error: Error


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """A run's end: cancelled from outside; ``reason`` says by what."""

    run: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class RunStopped:
    """The run's code diverged, or its journal is damaged; it waits for a person."""

    run: bytes
    report: bytes


@dataclass(frozen=True, slots=True)
class RunResumed:
    """A stopped run goes on; who asked for it, and why."""

    run: bytes
    asked_by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RerunStarted:
    """This run was asked for as a rerun of ``origin``, by whom and why.

    The entries of this run before it in the same decision, behind its ``RunStarted``, are outcomes
    that it shares with ``origin``: what ``origin`` recorded before the step ``from_step``, at
    ``times_ms``. If there are any, ``seed`` is the run whose beginning and random numbers the
    code goes on with; otherwise it is empty.
    """

    run: bytes
    origin: bytes
    from_step: str
    seed: bytes
    times_ms: list[int]
    asked_by: str
    why: str


@dataclass(frozen=True, slots=True)
class VersionChosen:
    """The run's code asked which side of the change ``name`` it is on: ``chosen`` is the new."""

    run: bytes
    name: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class HistoryRestated:
    """The beginning of a run's journal, copied here before the log is trimmed.

    The copy takes the place of ``replaces`` decisions of the run, behind its first ``skips``.
    """

    run: bytes
    skips: int
    replaces: int
    items: list[HistoryItem]


@dataclass(frozen=True, slots=True)
class RunRestated:
    """The head of an unfinished run: where it stands. Its outcomes lie at ``seqs``."""

    run: bytes
    function: str
    version: str
    fingerprint: str
    remembered: bool
    started_ms: int
    due_ms: int
    start_by_ms: int
    finish_by_ms: int
    retry: RetryPolicy
    attempt: int
    retry_at_ms: int
    begun: bool
    parked: bool
    stopped: bool
    deaths: int
    state_bytes: int
    seqs: list[int]
    done: bytes
    operations: list[Operation]
    received: list[str]
    cancellations: list[Cancellation]
    on_failure: str = ""
    invoker: Invoker | None = None


Began = SleepBegan | TimerSet | WaitBegan | SignalWaitBegan | InvokeBegan
"""An entry that begins an operation of one run."""

Ended = (
    StepCompleted
    | StepFailed
    | SleepEnded
    | TimerFired
    | WaitTimedOut
    | SignalReceived
    | InvokeCompleted
    | InvokeFailed
)
"""An entry that ends a step or an operation of one run."""

RunEntry = (
    RunStarted
    | AttemptStarted
    | StepCompleted
    | StepAttemptFailed
    | StepFailed
    | SleepBegan
    | SleepEnded
    | TimerSet
    | TimerFired
    | WaitBegan
    | LookbackFinished
    | WaitTimedOut
    | SignalWaitBegan
    | SignalReceived
    | SignalWaitEnded
    | InvokeBegan
    | InvokeCompleted
    | InvokeFailed
    | OperationsAbandoned
    | RunParked
    | RunAttemptFailed
    | RunCompleted
    | RunFailed
    | RunCancelled
    | RunStopped
    | RunResumed
    | RerunStarted
    | VersionChosen
    | HistoryRestated
    | RunRestated
)
"""An entry that concerns exactly one run, named by its ``run``."""

PartitionEntry = (
    PartitionClaimed
    | PartitionReleased
    | PartitionRestated
    | RoundFinished
    | FunctionsDeclared
    | FunctionsHeld
    | CronScheduled
    | CronFired
    | CronEnded
    | EventDebounced
    | DebounceEnded
    | RequestAnswered
    | MessageQueued
    | MessagesSent
    | MessageTaken
    | IdsRemembered
    | SuspectsResumed
    | SuspectsCleared
    | InputRejected
    | PositionReset
    | SignalHeld
    | SignalFreed
    | EventMatched
)
"""An entry that concerns the partition, a key, or several runs."""

Entry = RunEntry | PartitionEntry
"""Any fact of a journal."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One record of the journal: the entries that follow from one input, together.

    Attributes:
        epoch: the owner's term.
        seq: the number of this decision in its partition, dense over the accepted ones; a claim
            repeats the last one, since it takes no number.
        at_ms: the owner's wall clock when it decided.
        fold_from: the offset of the journal from which recovery folds.
        positions: the inputs that moved since the decision before.
        entries: the facts, in order.
    """

    epoch: int
    seq: int
    at_ms: int
    fold_from: int
    positions: list[Position]
    entries: list[Entry]
