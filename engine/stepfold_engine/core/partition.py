"""The state of a partition: what its journal says, folded.

Only ``apply`` changes it. Everyone else reads.
"""

from dataclasses import dataclass, field
from hashlib import sha1

from stepfold_engine.core.patterns import patterns_of
from stepfold_engine.core.places import Places
from stepfold_engine.core.run import RunTable
from stepfold_engine.core.timers import Timers
from stepfold_engine.core.waits import WaitIndex
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    EventDebounced,
    FunctionsDeclared,
    FunctionSpec,
    RequestAnswered,
    RoundPlace,
)

HOUR_MS = 3_600_000
REMEMBERED_MS = 24 * HOUR_MS
"""How long the ids of ended runs, and answered requests, are remembered."""


@dataclass(slots=True)
class Declaration:
    """An app's functions in force, and who waits to hear that all partitions hold them."""

    number: int
    functions: list[FunctionSpec]
    replaced: list[bytes]
    request: bytes = b""
    held_by: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class SignalWaiter:
    """The one waiter for a signal's name."""

    run: bytes
    step: bytes
    due_ms: int


@dataclass(frozen=True, slots=True)
class Cron:
    """A function's cron expression, and when it comes due next."""

    function: str
    cron: str
    due_ms: int


@dataclass(slots=True)
class Trials:
    """Finding the run that kills the process.

    Attributes:
        unclean: claims in a row that followed no clean release.
        suspects: keys of the runs that were going on when the process died, in order.
        running: those of them that were resumed and have not got on yet.
        together: how many were resumed with them.
        width: how many are resumed at once.
    """

    unclean: int = 0
    suspects: dict[bytes, None] = field(default_factory=dict[bytes, None])
    running: dict[bytes, None] = field(default_factory=dict[bytes, None])
    together: int = 0
    width: int = 1


@dataclass(slots=True)
class Partition:
    """Everything that a partition's owner knows.

    Attributes:
        number: which partition this is, of ``count``.
        epoch: the term in force; ``node`` and ``incarnation`` are its owner's.
        seq: the number of the last accepted decision.
        broken: a record of this epoch was missing, so the rest of the epoch is void.
        fold_from: the offset from which the last accepted record says that recovery folds.
        positions: where each input is read next: (topic, partition) to (offset, part).
        ended: keys of ended runs that may not start again, by the hour of their end.
        queued: the number of the last message to each partition; ``unsent`` holds those that
            are not known to lie in its inbox.
        taken: the number of the last message taken from each partition.
        crons: the crons whose home is here, by name (``keyed``).
        debounces: the same of events that are to start runs, the latest one of each key.
        places: where decisions lie.
        round: the number of the last round of restating that began, at ``round_at_ms``
            and with decision ``round_at_seq``;
            ``round_open`` until it ends.
        rounds: the finished rounds before it at whose starts the journal may be cut.
    """

    number: int
    count: int
    epoch: int = 0
    seq: int = 0
    broken: bool = False
    fold_from: int = 0
    node: str = ""
    incarnation: str = ""
    released: bool = True
    positions: dict[tuple[str, int], tuple[int, int]] = field(
        default_factory=dict[tuple[str, int], tuple[int, int]]
    )
    runs: RunTable = field(default_factory=RunTable)
    ended: dict[int, set[bytes]] = field(default_factory=dict[int, set[bytes]])
    timers: Timers = field(default_factory=Timers)
    waits: WaitIndex = field(default_factory=WaitIndex)
    signals: dict[str, SignalWaiter] = field(default_factory=dict[str, SignalWaiter])
    crons: dict[str, Cron] = field(default_factory=dict[str, Cron])
    debounces: dict[str, EventDebounced] = field(default_factory=dict[str, EventDebounced])
    declarations: dict[str, Declaration] = field(default_factory=dict[str, Declaration])
    functions: dict[str, FunctionSpec] = field(default_factory=dict[str, FunctionSpec])
    by_trigger: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    queued: dict[int, int] = field(default_factory=dict[int, int])
    unsent: dict[int, dict[int, bytes]] = field(default_factory=dict[int, dict[int, bytes]])
    taken: dict[int, int] = field(default_factory=dict[int, int])
    requests: dict[bytes, RequestAnswered] = field(default_factory=dict[bytes, RequestAnswered])
    trials: Trials = field(default_factory=Trials)
    places: Places = field(default_factory=Places)
    round: int = 0
    round_open: bool = False
    round_at_ms: int = 0
    round_at_seq: int = 0
    rounds: list[RoundPlace] = field(default_factory=list[RoundPlace])

    @property
    def arriving(self) -> bool:
        """Whether what lived elsewhere is being moved here: the journal begins with an open round.

        A round of an owner follows what it restates, so it is never the first decision.
        """
        return self.round_open and self.round_at_seq == 1

    def knows(self, key: bytes) -> bool:
        """Say whether a run with this key lives, or ended less than a day ago."""
        return key in self.runs or any(key in keys for keys in self.ended.values())

    def triggered_by(self, name: str) -> list[FunctionSpec]:
        """Return the functions that an event of this name may start, by id."""
        ids = {i for p in patterns_of(name) for i in self.by_trigger.get(p, ())}
        return [self.functions[i] for i in sorted(ids)]

    def declare(self, entry: FunctionsDeclared) -> None:
        """Put an app's list of functions in force. Called by ``apply``."""
        self.declarations[entry.app] = Declaration(
            entry.number, entry.functions, list(entry.replaced)
        )
        self.functions = {
            f.id: f for _, d in sorted(self.declarations.items()) for f in d.functions
        }
        self.by_trigger = {}
        for spec in self.functions.values():
            for trigger in spec.triggers:
                self.by_trigger.setdefault(trigger.event, []).append(spec.id)


def keyed(function: str, key: str) -> str:
    """Return what names a cron, or the value of a key, of a function; its hash is its home."""
    return f"{function}\0{key}"


def digest_of(functions: list[FunctionSpec]) -> bytes:
    """Return a digest that is equal for equal lists of functions, in any order."""
    ordered = sorted(functions, key=lambda f: f.id)
    whole = codec.encode(FunctionsDeclared("", 0, ordered, []))
    return sha1(whole, usedforsecurity=False).digest()
