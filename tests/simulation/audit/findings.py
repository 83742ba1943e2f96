"""What an audit reports: violations, each of one promise, in words for a person."""

from dataclasses import dataclass, field

from stepfold_schemas.ids import ulid_text

EVENT_ONCE = "an event starts each function exactly once"
CAUSE = "a run starts, and is cancelled, only for a cause"
OUTCOME_ONCE = "a step's outcome is recorded exactly once"
END_ONCE = "a run's end is recorded once, and nothing after it"
SEEN_IS_RECORDED = "code sees what is durable, and nothing else"
REPLAY = "replayed code sees what it saw before"
BODY_ONCE = "a step's body runs twice only after a death or a loss of the partition"
WAIT = "a wait cannot miss"
TIMER = "a timer fires at or after its time, once"
TOLD_ONCE = "who waits for a run's end hears of it once"
SIGNAL = "a signal reaches its one waiter once"
ANSWER = "what a caller is told is so"
MESSAGE = "a message is taken exactly once, in order"
POSITION = "a read position only moves on, over what is there"
TRIM = "only what nobody needs is trimmed"
ROUND = "a round restates everything that is alive"
OWNER = "one owner at a time, and only its own records count"
CRON = "each time of a cron starts one run"
DEBOUNCE = "of debounced events the last one starts a run, once"
LIVENESS = "everything that can go on goes on"
RESULT = "a run's result follows from its outcomes"
RERUN = "a rerun is asked for, once, and shares the beginning of its origin"
VERSION = "a run chooses its side of a change once"
CLOCK = "clocks differ by no more than the set-up says"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise was broken: which one, and how; ``order`` says where in the ledger to look."""

    promise: str
    text: str
    run: str = ""
    order: int = 0


@dataclass(frozen=True)
class Setup:
    """What an auditor must know of a simulation besides its ledger.

    Attributes:
        partitions: of the journal and the inbox.
        clock_skew_ms: the largest difference of any process's clock from the true one, ever.
        settled: the end was awaited without faults, so nothing may be left undone.
        remember_ms: for how long the id of an ended run's event is remembered.
    """

    partitions: int
    clock_skew_ms: int = 0
    settled: bool = True
    remember_ms: int = 86_400_000


@dataclass(slots=True)
class Findings:
    """Gathers violations while the checks run."""

    found: list[Violation] = field(default_factory=list[Violation])

    def add(self, promise: str, text: str, run: bytes = b"", order: int = 0) -> None:
        """Add a violation."""
        self.found.append(Violation(promise, text, ulid_text(run) if run else "", order))
