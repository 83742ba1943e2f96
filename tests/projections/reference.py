"""A straightforward fold of a log into rows, one entry after the other, for comparison.

It shares nothing with the projections but the schemas, and which entries say something of a run.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from stepfold_projections.staging import FACTS
from stepfold_schemas import codec
from stepfold_schemas import entries as e
from stepfold_schemas.ids import ulid_text
from tests.simulation.ledger import Happening, Written

Row = dict[str, Any]
Tables = dict[str, list[Row]]


class Run:
    def __init__(self, start: e.RunStarted, at_ms: int, partition: int) -> None:
        event = codec.decode_event(start.events[0])
        self.row: Row = {
            "run": ulid_text(start.run),
            "function": start.function,
            "version": start.version,
            "event_name": event.name,
            "event_id": event.internal or event.id,
            "event_ids": list(start.event_ids),
            "input": event.data.decode(),
            "invoker_run": ulid_text(start.invoker.run) if start.invoker else None,
            "invoker_step": start.invoker.step.hex() if start.invoker else None,
            "started_at": at_ms,
            "due_at": start.due_ms or None,
            "attempts": 1,
            "partition": partition,
            "status": None,
            "stopped": False,
        }
        self.operations: dict[bytes, Row] = {}
        self.failed: list[Row] = []
        self.offsets: list[int] = []


class Fold:
    """All journals of one ledger."""

    def __init__(self) -> None:
        self.runs: dict[bytes, Run] = {}
        self.terms: dict[int, tuple[int, int, bool]] = {}
        self.written: Counter[int] = Counter()
        self.events: list[Row] = []
        self.letters: list[Row] = []

    def take(self, happenings: Iterable[Happening]) -> None:
        for h in happenings:
            if not isinstance(h, Written):
                continue
            if h.topic == "journal":
                self._decision(h.partition, codec.decode_decision(h.value))
                self.written[h.partition] += 1
            elif h.topic == "events":
                event = codec.decode_event(h.value)
                row = {
                    "name": event.name,
                    "data": event.data.decode(),
                    "sender_id": event.id or None,
                }
                self.events.append(row | {"event": event.internal or event.id})
            elif h.topic == "dead-letters":
                self.letters.append({"value": h.value})

    def _decision(self, partition: int, d: e.Decision) -> None:
        epoch, seq, broken = self.terms.get(partition, (0, 0, False))
        if d.entries and isinstance(d.entries[0], e.PartitionClaimed):
            if d.epoch == epoch + 1:
                self.terms[partition] = (d.epoch, seq, False)
            return
        if d.epoch != epoch:
            return
        if broken or d.seq != seq + 1:
            self.terms[partition] = (epoch, seq, broken or d.seq > seq + 1)
            return
        self.terms[partition] = (epoch, d.seq, False)
        for entry in d.entries:
            if isinstance(entry, e.RunStarted):
                self.runs[entry.run] = Run(entry, d.at_ms, partition)
                self._touch(entry.run, partition)
            elif isinstance(entry, e.EventMatched):
                data = codec.decode_event(entry.event).data.decode()
                for ref in entry.waits:
                    self._touch(ref.run, partition)
                    more = {"event_id": entry.event_id, "data": data}
                    self._end(ref.run, ref.step, "matched", d.at_ms, more)
            elif (run := self._open(entry)) is not None:
                if type(entry).__name__ in FACTS:
                    self._touch(entry.run, partition)  # type: ignore[union-attr] # it has one
                self._entry(run, entry, d.at_ms)

    def _touch(self, run: bytes, partition: int) -> None:
        """Note that the record that is being taken concerns a run."""
        found = self.runs.get(run)
        if found is not None and found.row["status"] is None:
            found.offsets.append(self.written[partition])

    def _open(self, entry: e.Entry) -> Run | None:
        run = self.runs.get(getattr(entry, "run", b""))
        return run if run is not None and run.row["status"] is None else None

    def _entry(self, run: Run, entry: e.Entry, at_ms: int) -> None:
        match entry:
            case e.RunCompleted(data=data):
                self._finish(run, "completed", at_ms, {"output": data.decode()})
            case e.RunFailed(error=error):
                self._finish(run, "failed", at_ms, error_of(error))
            case e.RunCancelled(reason=reason):
                self._finish(run, "cancelled", at_ms, {"reason": reason})
            case e.RerunStarted():
                run.row |= {
                    "rerun_of": ulid_text(entry.origin),
                    "rerun_from": entry.from_step or None,
                    "asked_by": entry.asked_by or None,
                    "why": entry.why or None,
                }
            case e.RunStopped():
                run.row["stopped"] = True
            case e.RunResumed():
                run.row["stopped"] = False
            case e.RunAttemptFailed(attempt=attempt):
                run.row["attempts"] = max(run.row["attempts"], attempt + 1)
                row = {"step": "", "attempt": attempt, "started_at": None, "ended_at": at_ms}
                run.failed.append(row | {"retry_at": entry.retry_at_ms} | error_of(entry.error))
            case e.AttemptStarted(step=step) if step:
                self._try(run, entry, failed=False)
            case e.StepAttemptFailed():
                self._try(run, entry, failed=True)
                row = {"step": entry.name, "attempt": entry.attempt, "ended_at": at_ms}
                row |= {"started_at": entry.started_ms, "retry_at": entry.retry_at_ms}
                run.failed.append(row | error_of(entry.error))
            case e.StepCompleted():
                self._try(run, entry, failed=False)
                self._end(entry.run, entry.step, "completed", at_ms, {"data": entry.data.decode()})
            case e.StepFailed():
                self._try(run, entry, failed=False)
                self._end(entry.run, entry.step, "failed", at_ms, error_of(entry.error))
            case _:
                self._operation(run, entry, at_ms)

    def _operation(self, run: Run, entry: e.Entry, at_ms: int) -> None:  # noqa: PLR0912 - a catalogue
        def began(kind: str, **more: object) -> None:
            assert isinstance(
                entry, e.SleepBegan | e.TimerSet | e.WaitBegan | e.SignalWaitBegan | e.InvokeBegan
            )
            row = {"kind": kind, "step": entry.name, "started_at": at_ms, "due_at": entry.due_ms}
            run.operations.setdefault(entry.step, row | {"status": None} | more)

        match entry:
            case e.SleepBegan():
                began("sleep")
            case e.TimerSet():
                began("timer")
            case e.WaitBegan(condition=c):
                began("event", event_name=c.event, expression=c.expression)
            case e.SignalWaitBegan(signal=signal):
                began("signal", signal=signal)
            case e.InvokeBegan(function=function):
                began("invocation", invoked=function)
            case e.SleepEnded(step=step) | e.TimerFired(step=step):
                self._end(entry.run, step, "ended", at_ms)
            case e.WaitTimedOut(step=step):
                self._end(entry.run, step, "timed-out", at_ms)
            case e.SignalReceived(step=step) | e.InvokeCompleted(step=step):
                status = "received" if isinstance(entry, e.SignalReceived) else "completed"
                self._end(entry.run, step, status, at_ms, {"data": entry.data.decode()})
            case e.SignalWaitEnded(step=step, reason=reason) if reason != "replaced":
                self._end(entry.run, step, reason, at_ms)
            case e.InvokeFailed(step=step, error=error):
                self._end(entry.run, step, "failed", at_ms, error_of(error))
            case e.OperationsAbandoned(steps=steps):
                for step in steps:
                    if step in run.operations:
                        self._end(entry.run, step, "abandoned", at_ms)
            case _:
                pass

    def _try(
        self,
        run: Run,
        entry: e.AttemptStarted | e.StepAttemptFailed | e.StepCompleted | e.StepFailed,
        *,
        failed: bool,
    ) -> None:
        new = {"kind": "step", "step": entry.name, "status": None, "attempts": 0}
        row = run.operations.setdefault(entry.step, new)
        if row["status"] is not None:
            return
        row["started_at"] = min(row.get("started_at", entry.started_ms), entry.started_ms)
        row["attempts"] = max(row["attempts"], entry.attempt)
        row["attempt_started_at"], row["retrying"] = entry.started_ms, failed
        if failed:
            row |= error_of(entry.error) if isinstance(entry, e.StepAttemptFailed) else {}

    def _end(
        self, run: bytes, step: bytes, status: str, at_ms: int, more: Row | None = None
    ) -> None:
        found = self.runs.get(run)
        row = found.operations.get(step) if found and found.row["status"] is None else None
        if row is None or row["status"] is not None:
            return
        none = {"error_name": None, "error_message": None, "error_stack": None}
        row |= {"status": status, "ended_at": at_ms} | none | (more or {})

    def _finish(self, run: Run, status: str, at_ms: int, more: Row) -> None:
        for row in run.operations.values():
            if row["status"] is None:
                row |= {"status": "abandoned", "ended_at": at_ms}
        run.row |= {"status": status, "ended_at": at_ms} | more

    def tables(self) -> Tables:
        """Return the rows that the tables should have, where they are decided by the log alone."""
        found: Tables = {name: [] for name in COMPARED}
        found["events"], found["dead_letters"] = self.events, self.letters
        for run in self.runs.values():
            found["runs"].append(run.row)
            common = {"run": run.row["run"], "function": run.row["function"]}
            found["attempts"] += [common | row | {"status": "failed"} for row in run.failed]
            for row in run.operations.values():
                row = common | row  # noqa: PLW2901
                if row["kind"] in ("event", "sleep", "timer"):
                    found["waits"].append(row | {"status": row["status"] or "waiting"})
                elif row["kind"] == "signal":
                    found["signals"].append(row | {"status": row["status"] or "waiting"})
                elif row["kind"] == "invocation":
                    row["output"] = row.get("data")
                    found["invocations"].append(row | {"status": row["status"] or "waiting"})
                else:
                    retrying = row["retrying"] and row["status"] in (None, "abandoned")
                    row["output"] = row.get("data")
                    status = row["status"] or ("retrying" if retrying else "running")
                    found["steps"].append(row | {"status": status})
                    if not retrying:
                        last = row | {
                            "attempt": row["attempts"],
                            "status": row["status"] or "running",
                        }
                        found["attempts"].append(last | {"started_at": row["attempt_started_at"]})
        return found


def error_of(error: e.Error) -> Row:
    return {
        "error_name": error.name,
        "error_message": error.message,
        "error_stack": error.stack,
    }


_ERROR = ["error_name", "error_message", "error_stack"]
COMPARED: dict[str, list[str]] = {
    "events": ["event", "sender_id", "name", "data"],
    "dead_letters": ["value"],
    "runs": [
        "run", "function", "version", "event_name", "event_id", "event_ids", "input", "output",
        *_ERROR, "reason", "invoker_run", "invoker_step", "rerun_of", "rerun_from",
        "asked_by", "why", "started_at", "due_at", "ended_at", "attempts", "partition",
    ],
    "steps": [
        "run", "function", "step", "status", "attempts", "started_at", "attempt_started_at",
        "ended_at", "output", *_ERROR,
    ],
    "attempts": [
        "run", "function", "step", "attempt", "status", "started_at", "ended_at", "retry_at",
        *_ERROR,
    ],
    "waits": [
        "run", "function", "step", "kind", "status", "event_name", "expression", "event_id", "data",
        "started_at", "due_at", "ended_at",
    ],
    "signals": [
        "run", "function", "step", "signal", "status", "data", "started_at", "due_at", "ended_at",
    ],
    "invocations": [
        "run", "function", "step", "invoked", "status", "output", *_ERROR, "started_at", "due_at",
        "ended_at",
    ],
}  # fmt: skip
"""The columns that are compared. A run's status while it is unfinished depends on the clock."""
