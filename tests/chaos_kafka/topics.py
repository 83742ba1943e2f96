"""What the topics of a namespace say: the same as journals of an embedded log, and who wrote it.

The topics are read from their start, void records too, while processes live. Nothing here is
trimmed by the engine: journals are kept for longer than chaos lasts.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

from stepfold_engine.core.fold import Cursor, claim_in, follow
from stepfold_engine.log.base import EVENTS, JOURNAL, Log
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, StepCompleted, StepFailed
from stepfold_schemas.ids import ulid_text
from tests.chaos.journals import Journals


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record of a journal lies."""

    partition: int
    offset: int


class Topics(Journals):
    """Everything that was decided in one namespace, each decision once.

    Attributes:
        claims: where each process's claims lie that counted, by its name.
        recorded: where the outcome of a step lies, by the run and the step's name.
        void: how many records do not count, by what they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.claims: dict[str, list[Place]] = defaultdict(list)
        self.recorded: dict[tuple[str, str], Place] = {}
        self.void: Counter[str] = Counter()
        self._next: Counter[tuple[str, int]] = Counter()
        self._cursors: dict[int, Cursor] = defaultdict(Cursor)
        self._present: dict[int, set[int]] = defaultdict(set)

    async def read_on(self, log: Log) -> None:
        """Take in what was appended since."""
        for number in range(await log.partitions(JOURNAL)):
            await self._read_journal(log, number)
            self._missing(number)
        for number in range(await log.partitions(EVENTS)):
            await self._read_new_events(log, number)

    def unfinished(self) -> list[str]:
        """Name the runs that have no end, and what began them."""
        left = [(name, run) for name, run in self.runs.items() if not run.ends]
        return [f"{run.function} {name}, of {run.event}" for name, run in left]

    async def _read_journal(self, log: Log, number: int) -> None:
        offset, cursor = self._next[JOURNAL, number], self._cursors[number]
        bounds = await log.bounds(JOURNAL, number)
        if bounds.start:
            self.findings.wrong.append(f"the journal of partition {number} was trimmed")
        while offset < bounds.end:
            batch = await log.read(JOURNAL, number, offset)
            for record in batch.records:
                decision = codec.decode_decision(record.value)
                place = Place(number, record.offset)
                if follow(cursor, decision):
                    self._count(decision, place)
                else:
                    self.void[_why_void(cursor, decision)] += 1
            offset = batch.next_offset
        self._next[JOURNAL, number] = offset

    def _count(self, decision: Decision, place: Place) -> None:
        if (claim := claim_in(decision)) is not None:
            self.claims[claim.node].append(place)
            return
        self._present[place.partition].add(decision.seq)
        self._take(place.partition, decision, 0)
        for entry in decision.entries:
            if isinstance(entry, StepCompleted | StepFailed):
                self.recorded[ulid_text(entry.run), entry.name] = place

    def _missing(self, number: int) -> None:
        self.findings.lost += [
            f"decision {seq} of partition {number}: life {life} acted upon it, and it is not in"
            " the journal"
            for (of, seq), life in self._confirmed.items()
            if of == number and seq not in self._present[number]
        ]

    async def _read_new_events(self, log: Log, number: int) -> None:
        offset, end = self._next[EVENTS, number], (await log.bounds(EVENTS, number)).end
        while offset < end:
            batch = await log.read(EVENTS, number, offset)
            self.events |= {codec.decode_event(r.value).id for r in batch.records}
            offset = batch.next_offset
        self._next[EVENTS, number] = offset


def _why_void(cursor: Cursor, decision: Decision) -> str:
    if claim_in(decision) is not None:
        return "claims that lost"
    if decision.epoch < cursor.epoch:
        return "records of former owners"
    return "records behind a hole" if decision.seq > cursor.seq else "copies"
