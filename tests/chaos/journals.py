"""What the journals of a log say, gathered while processes die and journals are trimmed.

Decisions come from two sides: from the log's own files, read from a copy while no process runs,
and from witnesses, who wrote down what each process took for confirmed. What was confirmed must lie
in the journal, the same to the byte but for its epoch, for as long as it is not trimmed.
"""

import asyncio
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.log.base import EVENTS, JOURNAL
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    RoundFinished,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SignalReceived,
    SignalWaitEnded,
    SleepEnded,
    StepCompleted,
    StepFailed,
    TimerFired,
    WaitTimedOut,
)
from stepfold_schemas.ids import ulid_text
from tests.chaos.expected import Findings
from tests.chaos.outside import confirmed_in

_ENDS = {RunCompleted: "completed", RunFailed: "failed", RunCancelled: "cancelled"}
_OUTCOMES = (
    StepCompleted,
    StepFailed,
    SleepEnded,
    TimerFired,
    WaitTimedOut,
    SignalReceived,
    SignalWaitEnded,
    InvokeCompleted,
    InvokeFailed,
)


@dataclass(slots=True)
class RunSaid:
    """What the journals say of one run.

    Attributes:
        ends: each end that was recorded, with the result if it completed.
        tokens: what its steps' outcomes are, by name.
        outcomes: how often each of its operations got one, by name or key.
        recorded_in: the life that first confirmed a step's outcome, by the step's name.
    """

    function: str = ""
    event: str = ""
    n: int = -1
    ends: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    tokens: dict[str, tuple[int, Any]] = field(default_factory=dict[str, tuple[int, Any]])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    recorded_in: dict[str, int] = field(default_factory=dict[str, int])


class Journals:
    """Everything that was decided in one log, each decision once."""

    def __init__(self) -> None:
        self.runs: dict[str, RunSaid] = {}
        self.starts: Counter[tuple[str, str]] = Counter()
        self.events: set[str] = set()
        self.findings = Findings()
        self.rounds = 0
        self._seen: dict[tuple[int, int], bytes] = {}
        self._confirmed: dict[tuple[int, int], int] = {}
        self._starts_at: dict[int, int] = {}

    def hear(self, outside: Path, life: int) -> None:
        """Take in what a life's witness wrote down."""
        path = outside / f"confirmed-{life:05}"
        for number, data in confirmed_in(path) if path.exists() else ():
            decision = codec.decode_decision(data)
            if claim_in(decision) is None:
                self._take(number, decision, life)
                self._confirmed[number, decision.seq] = life

    def read(self, folder: Path, life: int) -> None:
        """Take in what the log holds. No process may have it open; this was the last that had."""
        with tempfile.TemporaryDirectory(prefix="stepfold-audit-") as name:
            copy = Path(name) / "log"
            copy.mkdir()
            for part in ("log.db", "log.db-wal"):
                if (folder / part).exists():
                    shutil.copyfile(folder / part, copy / part)
            asyncio.run(self._read(copy, life))

    async def _read(self, folder: Path, life: int) -> None:
        log = EmbeddedLog.open(folder, None, lambda: 0, reserve_bytes=0)
        try:
            for number in range(await log.partitions(JOURNAL)):
                present = await self._read_partition(log, number, life)
                missing = [
                    (seq, life)
                    for (of, seq), life in self._confirmed.items()
                    if of == number and seq not in present and seq >= self._starts_at[number]
                ]
                self.findings.lost += [
                    f"decision {seq} of partition {number}: life {life} acted upon it, and it is"
                    " not in the journal"
                    for seq, life in missing
                ]
            await self._read_events(log)
        finally:
            await log.close()

    async def _read_partition(self, log: EmbeddedLog, number: int, life: int) -> set[int]:
        bounds = await log.bounds(JOURNAL, number)
        # If nothing is left, everything is missing.
        self._starts_at.setdefault(number, 0)
        offset, cursor, present = bounds.start, None, set[int]()
        while offset < bounds.end:
            batch = await log.read(JOURNAL, number, offset)
            for record in batch.records:
                decision = codec.decode_decision(record.value)
                claims = claim_in(decision) is not None
                if cursor is None:
                    cursor = Cursor(decision.epoch - claims, decision.seq - 1 + claims)
                    self._starts_at[number] = decision.seq
                if follow(cursor, decision) and not claims:
                    self._take(number, decision, life)
                    present.add(decision.seq)
            offset = batch.next_offset
        return present

    async def _read_events(self, log: EmbeddedLog) -> None:
        for number in range(await log.partitions(EVENTS)):
            bounds = await log.bounds(EVENTS, number)
            offset = bounds.start
            while offset < bounds.end:
                batch = await log.read(EVENTS, number, offset)
                self.events |= {codec.decode_event(r.value).id for r in batch.records}
                offset = batch.next_offset

    def _take(self, number: int, decision: Decision, life: int) -> None:
        # The epoch under which it was written, and where folding begins, may differ.
        plain = codec.encode(replace(decision, epoch=0, fold_from=0))
        digest = hashlib.sha1(plain, usedforsecurity=False).digest()
        known = self._seen.get((number, decision.seq))
        if known is None:
            self._seen[number, decision.seq] = digest
            for entry in decision.entries:
                self._note(entry, life)
        elif known != digest:
            where = f"decision {decision.seq} of partition {number}"
            self.findings.lost.append(f"{where} is another one now than it was (life {life})")

    def _note(self, entry: Entry, life: int) -> None:
        match entry:
            case RunStarted():
                self._note_start(entry)
            case RunCompleted() | RunFailed() | RunCancelled():
                result = json.loads(entry.data) if isinstance(entry, RunCompleted) else None
                self._run(entry.run).ends.append((_ENDS[type(entry)], result))
            case StepCompleted() | StepFailed():
                run = self._run(entry.run)
                run.outcomes[entry.name] += 1
                if isinstance(entry, StepCompleted):
                    run.tokens[entry.name] = (entry.attempt, json.loads(entry.data))
                run.recorded_in.setdefault(entry.name, life)
            case EventMatched():
                for wait in entry.waits:
                    self._run(wait.run).outcomes[wait.step.hex()] += 1
            case SignalWaitEnded() if entry.reason == "replaced":
                pass
            case _:
                if isinstance(entry, _OUTCOMES):
                    self._run(entry.run).outcomes[entry.step.hex()] += 1
                self.rounds += isinstance(entry, RoundFinished)

    def _note_start(self, entry: RunStarted) -> None:
        event = codec.decode_event(entry.events[0])
        data = json.loads(event.data)
        run = self._run(entry.run)
        run.function, run.event = entry.function, event.id
        run.n = data["n"] if "n" in data else data["event"]["data"]["n"]
        self.starts[entry.function, event.id or ulid_text(entry.run)] += 1

    def _run(self, run: bytes) -> RunSaid:
        return self.runs.setdefault(ulid_text(run), RunSaid())
