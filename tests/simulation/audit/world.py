"""Everything that an audit needs of a ledger, read once: journals, stories, events, letters."""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import (
    Entry,
    MessageQueued,
    MessageTaken,
    RerunStarted,
    RunStarted,
)
from stepfold_schemas.events import Event
from stepfold_schemas.ids import parse_ulid, partition_of
from stepfold_schemas.messages import Letter, Message
from tests.simulation.audit.findings import Findings, Setup
from tests.simulation.audit.journal import Journal, Kept, read_journal
from tests.simulation.audit.stories import TELLS, Fact, Story, Teller
from tests.simulation.ledger import Fault, Happening, Ledger, Seen, Told, Trimmed, Written

EVENTS, INBOX, JOURNAL = "events", "inbox", "journal"

E = TypeVar("E")


@dataclass(slots=True)
class Logged:
    """An event that lies, or lay, in the log.

    Attributes:
        id: its sender's id, else the one given at ingestion, else where it lies.
        given: the id is its sender's.
        home: the partition in which it starts runs.
    """

    partition: int
    offset: int
    order: int
    at_ms: int
    raw: bytes
    event: Event
    id: str
    given: bool
    home: int
    _values: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.event.name

    @property
    def values(self) -> Mapping[str, Any]:
        """The event as expressions see it."""
        if self._values is None:
            self._values = values_of(self.event)
        return self._values

    def __str__(self) -> str:
        event = self.event
        where = f"{EVENTS}/{self.partition} offset {self.offset}"
        return f"event {event.name} (id {self.id}, {where}, {event.data.decode(errors='replace')})"


@dataclass(slots=True)
class Posted:
    """A letter in an inbox."""

    inbox: int
    offset: int
    order: int
    letter: Letter

    @property
    def message(self) -> Message:
        return message_of(self.letter.message)

    def __str__(self) -> str:
        letter = self.letter
        return f"letter {letter.number} of partition {letter.source} in inbox/{self.inbox}"


@dataclass(slots=True)
class Topic:
    """Where the records of one partition of a topic lie, and when each was durable."""

    offsets: list[int] = field(default_factory=list[int])
    orders: list[int] = field(default_factory=list[int])

    def end_at(self, order: int) -> int:
        """Return the end of what was durable at this place of the ledger."""
        index = bisect_left(self.orders, order)
        return self.offsets[index - 1] + 1 if index else 0

    @property
    def end(self) -> int:
        return self.offsets[-1] + 1 if self.offsets else 0


class World:
    """A ledger, read.

    Attributes:
        topics: where records lie, by topic and partition.
        events: the events of each partition, in order.
        unreadable: places (topic, partition, offset) of inputs that no reader can read.
        seen: what the code of each run did and saw, in order.
        stories: what is recorded of each run.
        queued: messages by (source, destination, number), as they were queued first.
    """

    def __init__(self, ledger: Ledger, setup: Setup, findings: Findings) -> None:
        self.setup, self.findings = setup, findings
        self.topics: dict[tuple[str, int], Topic] = defaultdict(Topic)
        self.events: dict[int, list[Logged]] = defaultdict(list)
        self.events_by_name: dict[str, list[Logged]] = defaultdict(list)
        self.events_by_id: dict[str, list[Logged]] = defaultdict(list)
        self.events_by_raw: dict[bytes, list[Logged]] = defaultdict(list)
        self.unreadable: set[tuple[str, int, int]] = set()
        self.letters: list[Posted] = []
        self.seen: dict[bytes, list[Seen]] = {}
        self.told: list[Told] = []
        self.trims: list[Trimmed] = []
        self.faults: list[Fault] = []
        self._facts: dict[type, list[Fact[Any]]] = {}
        self._records: dict[int, list[Written]] = defaultdict(list)
        seen: dict[str, list[Seen]] = {}
        for happening in ledger.happenings:
            if isinstance(happening, Seen):
                seen.setdefault(happening.run, []).append(happening)
            else:
                self._take(happening)
        self.seen = {parse_ulid(run): some for run, some in seen.items()}
        self.journals: list[Journal] = [
            read_journal(n, self._records[n], findings) for n in range(setup.partitions)
        ]
        self.stories: dict[bytes, Story] = self._tell()
        self.queued: dict[tuple[int, int, int], Fact[MessageQueued]] = {}
        for fact in self.of(MessageQueued):
            entry = fact.entry
            where = (fact.kept.partition, entry.destination, entry.number)
            self.queued.setdefault(where, fact)

    def of(self, kind: type[E]) -> list[Fact[E]]:
        """Return the entries of a class that count."""
        return self._facts.get(kind, [])

    def home(self, key: str) -> int:
        """Return the partition that is the home of an id, a name or a key."""
        return partition_of(key, self.setup.partitions)

    def taken_in(self, kept: Kept) -> Message | None:
        """Return the message of another partition, or of this one, that a record takes."""
        for entry in kept.decision.entries:
            if isinstance(entry, MessageTaken):
                fact = self.queued.get((entry.source, kept.partition, entry.number))
                return message_of(fact.entry.message) if fact is not None else None
        return None

    def _take(self, happening: Happening) -> None:
        match happening:
            case Written():
                self._written(happening)
            case Told():
                self.told.append(happening)
            case Trimmed():
                self.trims.append(happening)
            case Fault():
                self.faults.append(happening)
            case Seen():
                pass

    def _written(self, w: Written) -> None:
        topic = self.topics[w.topic, w.partition]
        topic.offsets.append(w.offset)
        topic.orders.append(w.order)
        try:
            if w.topic == JOURNAL:
                self._records[w.partition].append(w)
            elif w.topic == EVENTS:
                self._event(w)
            elif w.topic == INBOX:
                letter = codec.decode_letter(w.value)
                self.letters.append(Posted(w.partition, w.offset, w.order, letter))
        except UndecodableError:
            self.unreadable.add((w.topic, w.partition, w.offset))

    def _event(self, w: Written) -> None:
        event, raw = codec.decode_event(w.value), w.value
        if not 0 < event.received_ms <= w.at_ms:
            # Whatever its producer's clock said, it was not taken in after it was appended.
            event = replace(event, received_ms=w.at_ms)
            raw = codec.encode(event)
        id_ = event.id or event.internal or f"{w.topic}-{w.partition}-{w.offset}"
        logged = Logged(
            w.partition,
            w.offset,
            w.order,
            w.at_ms,
            raw,
            event,
            id_,
            bool(event.id),
            self.home(id_),
        )
        self.events[w.partition].append(logged)
        self.events_by_name[event.name].append(logged)
        self.events_by_id[id_].append(logged)
        self.events_by_raw[raw].append(logged)

    def _tell(self) -> dict[bytes, Story]:
        teller = Teller(self.findings)
        facts = self._facts
        for journal in self.journals:
            for kept in journal.kept:
                shared = shared_in(kept.decision.entries)
                for number, entry in enumerate(kept.decision.entries):
                    if number in shared:
                        # It did not happen to this run.
                        teller.share(shared[number], Fact(kept, entry))
                        continue
                    kind = type(entry)
                    facts.setdefault(kind, []).append(Fact(kept, entry))
                    tells = TELLS.get(kind)
                    if tells is not None:
                        tells(teller, kept, entry)
        return teller.stories


def shared_in(entries: Sequence[Entry]) -> dict[int, RerunStarted]:
    """Return which entries of a decision reruns share, by their place in it."""
    found: dict[int, RerunStarted] = {}
    for end, rerun in enumerate(entries):
        if isinstance(rerun, RerunStarted):
            starts = (
                n for n, e in enumerate(entries) if isinstance(e, RunStarted) and e.run == rerun.run
            )
            found |= dict.fromkeys(range(next(starts) + 1, end), rerun)
    return found


def values_of(event: Event) -> dict[str, Any]:
    """Return an event as expressions see it; nothing of one whose data is not JSON."""
    try:
        data, user = json.loads(event.data), json.loads(event.user)
    except ValueError:
        data = user = None
    return {
        "name": event.name,
        "data": data,
        "id": event.id or event.internal,
        "ts": event.ts,
        "user": user,
    }


@lru_cache(maxsize=4096)
def message_of(data: bytes) -> Message:
    """Read a message. What cannot be read is an error of whoever wrote it: let it be raised."""
    return codec.decode_message(data)
