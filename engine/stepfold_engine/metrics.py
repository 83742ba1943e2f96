"""Metrics for Prometheus: what confirmed decisions say, and how the node stands when asked.

Needs the extra ``metrics``. Names follow Prometheus' conventions: base units, ``_total`` for what
only grows. All are of this process; sums over processes are the reader's.
"""

import contextlib
from collections.abc import Mapping, Sequence
from time import perf_counter
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stepfold_engine.core.ending import ENDS
from stepfold_engine.core.run import Run
from stepfold_engine.errors import LogError
from stepfold_engine.log.base import EVENTS, INBOX, Batch, Bounds, Log, NewRecord
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_schemas.entries import (
    Decision,
    Entry,
    EventMatched,
    HistoryRestated,
    InputRejected,
    RunCancelled,
    RunCompleted,
    RunStarted,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    WaitTimedOut,
)
from stepfold_schemas.ids import key_of

CONTENT_TYPE = CONTENT_TYPE_LATEST
_Input = tuple[str, int]
_APPEND_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counts what is confirmed (``effects.Watcher``), and writes it all down when asked."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"stepfold_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"stepfold_{name}", text, labels, registry=registry)

        self._started = counter("runs_started", "Runs that were started.", "function")
        self._ended = counter("runs_ended", "Runs that ended.", "function", "status")
        self._steps = counter("steps", "Steps that have their outcome.", "function", "outcome")
        self._attempts = counter(
            "attempts", "Attempts of steps that have ended.", "function", "outcome"
        )
        self._events = counter(
            "events_read", "Events that were read by the partition that is their home."
        )
        self._events_read: WeakKeyDictionary[Owner, int] = WeakKeyDictionary()
        self._accepted = counter("events_accepted", "Events that this process has appended.")
        self._waits = counter("waits", "Waits for events that ended.", "outcome")
        self._rejected = counter("inputs_rejected", "Inputs that could not be read.", "topic")
        self._decisions = counter("decisions", "Records of the journal.", "partition")
        self._append_s = Histogram(
            "stepfold_append_seconds",
            "How long an append takes until it is durable.",
            ("topic",),
            registry=registry,
            buckets=_APPEND_S,
        )
        self._owned = gauge("partitions_owned", "Partitions that this process owns.")
        self._stopped = gauge("partitions_stopped", "Partitions that cannot go on.")
        self._runs = gauge("runs", "Unfinished runs.", "partition", "state")
        self._timers = gauge("timers", "Times to come that are kept.", "partition")
        self._lag = gauge("input_lag", "Records not read yet.", "partition", "topic", "input")
        self._recovery_s = gauge("recovery_seconds", "The last recovery.", "partition")
        self._unserved = gauge("runs_unserved", "Runs whose function this process has not.")

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a decision (``effects.Watcher``)."""
        self._count_events(owner)
        self._decisions.labels(owner.state.number).inc()
        if any(isinstance(entry, HistoryRestated) for entry in decision.entries):
            return  # a history that is copied is no news
        for entry in decision.entries:
            self._count(owner, entry)

    def _count_events(self, owner: Owner) -> None:
        """Add what was read since the last look: most events lead to no decision."""
        self._events.inc(owner.events_read - self._events_read.get(owner, 0))
        self._events_read[owner] = owner.events_read

    def _count(self, owner: Owner, entry: Entry) -> None:
        match entry:
            case RunStarted():
                self._started.labels(entry.function).inc()
            case StepCompleted():
                self._steps.labels(_function(owner, entry.run), "completed").inc()
                self._attempts.labels(_function(owner, entry.run), "succeeded").inc()
            case StepFailed():
                self._steps.labels(_function(owner, entry.run), "failed").inc()
                self._attempts.labels(_function(owner, entry.run), "failed").inc()
            case StepAttemptFailed():
                self._attempts.labels(_function(owner, entry.run), "failed").inc()
            case EventMatched():
                self._waits.labels("event").inc(len(entry.waits))
            case WaitTimedOut():
                self._waits.labels("timeout").inc()
            case InputRejected():
                self._rejected.labels(entry.topic).inc()
            case _ if isinstance(entry, ENDS):
                self._ended.labels(_function(owner, entry.run), _status(entry)).inc()
            case _:
                pass

    def measured(self, log: Log) -> Log:
        """Return this log, with every append timed."""
        return _MeasuredLog(log, self._append_s, self._accepted)

    async def text(self, node: Node) -> bytes:
        """Return everything in Prometheus' text format."""
        self._owned.set(len(node.owners))
        self._stopped.set(len(node.stopped_partitions))
        self._unserved.set(len(node.native.unserved))
        for labelled in (self._runs, self._timers, self._lag, self._recovery_s):
            labelled.clear()  # another process may own what this one did
        ends = await _ends(node.log, node.inputs)  # asked once for all partitions that read them
        for number, owner in sorted(node.owners.items()):
            self._look_at(number, owner)
            self._look_at_inputs(number, owner, ends | await _ends(node.log, [(INBOX, number)]))
        return generate_latest(self._registry)

    def _look_at(self, number: int, owner: Owner) -> None:
        self._count_events(owner)
        state = owner.state
        active = len(state.runs.active_keys())
        self._runs.labels(number, "active").set(active)
        self._runs.labels(number, "parked").set(len(state.runs) - active)
        self._timers.labels(number).set(len(state.timers))
        self._recovery_s.labels(number).set(owner.recovery_s)

    def _look_at_inputs(self, number: int, owner: Owner, ends: Mapping[_Input, int]) -> None:
        for (topic, partition), end in ends.items():
            lag = max(0, end - owner.position(topic, partition))
            self._lag.labels(number, topic, partition).set(lag)


async def _ends(log: Log, inputs: Sequence[_Input]) -> dict[_Input, int]:
    """Return where inputs end, without those that cannot be asked: a gap in a chart says that."""
    found: dict[_Input, int] = {}
    for topic, partition in inputs:
        with contextlib.suppress(LogError):
            found[topic, partition] = (await log.bounds(topic, partition)).end
    return found


def _function(owner: Owner, run: bytes) -> str:
    known: Run | None = owner.ended.get(run) or owner.state.runs.get(key_of(run))
    return known.function if known is not None else ""


def _status(entry: Entry) -> str:
    if isinstance(entry, RunCompleted):
        return "completed"
    return "cancelled" if isinstance(entry, RunCancelled) else "failed"


class _MeasuredLog:
    """A log whose appends are timed."""

    def __init__(self, log: Log, seconds: Histogram, events: Counter) -> None:
        self._log, self._seconds, self._events = log, seconds, events
        # What is not measured is the log's own.
        self.partitions = log.partitions
        self.offset_at = log.offset_at
        self.trim = log.trim
        self.close = log.close

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append; see ``Log``."""
        begun_s = perf_counter()
        base = await self._log.append(topic, partition, records)
        self._seconds.labels(topic).observe(perf_counter() - begun_s)
        if topic == EVENTS:
            self._events.inc(len(records))
        return base

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read; see ``Log``."""
        return await self._log.read(topic, partition, offset, bytes_max=bytes_max, wait_ms=wait_ms)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's bounds; see ``Log``."""
        return await self._log.bounds(topic, partition)
