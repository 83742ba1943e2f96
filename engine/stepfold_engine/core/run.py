"""The state of one run, and its head: the same as one entry.

Only ``apply`` changes a ``Run``. A parked run is kept as the bytes of its head: one object for
the collector instead of dozens, and about a third of the memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Cancellation,
    Invoker,
    Operation,
    RetryPolicy,
    RunRestated,
    RunStarted,
)
from stepfold_schemas.ids import STEP_KEY_BYTES, key_of


@dataclass(slots=True)
class Run:
    """An unfinished run.

    Attributes:
        attempt: the attempt of the function's own code, from 1, that is running or comes next.
        retry_at_ms: when that attempt may begin; 0 if it may already.
        begun: something was recorded of its code, so it no longer waits to start.
        parked: everything that its code awaits is in ``operations``.
        stopped: its code diverged; it waits for a person.
        deaths: how often the process died while this run, alone, was going on.
        seqs: the decisions that concern it, in the order in which its code must see them.
        done: keys of steps and operations that have their outcome.
        received: ids of events that it has got.
    """

    id: bytes
    function: str
    version: str
    fingerprint: str
    remembered: bool
    started_ms: int
    due_ms: int
    start_by_ms: int
    finish_by_ms: int
    retry: RetryPolicy
    cancellations: list[Cancellation]
    on_failure: str
    invoker: Invoker | None
    attempt: int = 1
    retry_at_ms: int = 0
    begun: bool = False
    parked: bool = False
    stopped: bool = False
    deaths: int = 0
    state_bytes: int = 0
    seqs: list[int] = field(default_factory=list[int])
    done: set[bytes] = field(default_factory=set[bytes])
    operations: dict[bytes, Operation] = field(default_factory=dict[bytes, Operation])
    received: list[str] = field(default_factory=list[str])

    @property
    def waits_until_ms(self) -> int:
        """When its code may begin, or begin again; 0 if it may already."""
        return self.retry_at_ms if self.begun else self.due_ms

    @property
    def steps(self) -> int:
        """How many steps and operations the run has asked for, as far as is recorded."""
        return len(self.done) + len(self.operations)


def started(entry: RunStarted, at_ms: int) -> Run:
    """Make the state of a run that has just started."""
    return Run(
        id=entry.run,
        function=entry.function,
        version=entry.version,
        fingerprint=entry.fingerprint,
        remembered=entry.remembered,
        started_ms=at_ms,
        due_ms=entry.due_ms,
        start_by_ms=entry.start_by_ms,
        finish_by_ms=entry.finish_by_ms,
        retry=entry.retry,
        cancellations=entry.cancellations,
        on_failure=entry.on_failure,
        invoker=entry.invoker,
        received=list(entry.event_ids),
    )


def head_of(run: Run) -> RunRestated:
    """Return the entry that states where a run stands."""
    return RunRestated(
        run.id,
        run.function,
        run.version,
        run.fingerprint,
        run.remembered,
        run.started_ms,
        run.due_ms,
        run.start_by_ms,
        run.finish_by_ms,
        run.retry,
        run.attempt,
        run.retry_at_ms,
        run.begun,
        run.parked,
        run.stopped,
        run.deaths,
        run.state_bytes,
        list(run.seqs),
        b"".join(sorted(run.done)),
        list(run.operations.values()),
        list(run.received),
        run.cancellations,
        run.on_failure,
        run.invoker,
    )


def from_head(head: RunRestated) -> Run:
    """Return the state that a head states."""
    done = head.done
    return Run(
        head.run,
        head.function,
        head.version,
        head.fingerprint,
        head.remembered,
        head.started_ms,
        head.due_ms,
        head.start_by_ms,
        head.finish_by_ms,
        head.retry,
        head.cancellations,
        head.on_failure,
        head.invoker,
        head.attempt,
        head.retry_at_ms,
        head.begun,
        head.parked,
        head.stopped,
        head.deaths,
        head.state_bytes,
        list(head.seqs),
        {done[i : i + STEP_KEY_BYTES] for i in range(0, len(done), STEP_KEY_BYTES)},
        {operation.step: operation for operation in head.operations},
        list(head.received),
    )


class RunTable:
    """The unfinished runs of a partition by key, parked ones as bytes."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[bytes, Run | bytes] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, key: bytes) -> bool:
        return key in self._runs

    def get(self, key: bytes) -> Run | None:
        """Return a run to read. A parked one is a copy: changing it changes nothing."""
        run = self._runs.get(key)
        return _unpacked(run) if isinstance(run, bytes) else run

    def edit(self, key: bytes) -> Run | None:
        """Return a run to change; it is no longer kept as bytes."""
        run = self._runs.get(key)
        if isinstance(run, bytes):
            run = self._runs[key] = _unpacked(run)
        return run

    def put(self, run: Run) -> None:
        """Add a run, or replace it."""
        key = key_of(run.id)
        if run.parked or run.stopped:
            self._runs[key] = codec.encode(head_of(run))
        else:
            self._runs[key] = run

    def remove(self, key: bytes) -> None:
        """Forget a run."""
        self._runs.pop(key, None)

    def sorted_keys(self) -> list[bytes]:
        """Return the keys of all runs, sorted."""
        return sorted(self._runs)

    def active_keys(self) -> list[bytes]:
        """Return the keys of the runs that are not parked and not stopped, sorted."""
        return sorted(k for k, run in self._runs.items() if isinstance(run, Run))

    def __iter__(self) -> Iterator[Run]:
        for key in self.sorted_keys():
            if (run := self.get(key)) is not None:
                yield run


def _unpacked(data: bytes) -> Run:
    head = codec.decode_entry(data)
    assert isinstance(head, RunRestated), "only heads are kept as bytes"
    return from_head(head)
