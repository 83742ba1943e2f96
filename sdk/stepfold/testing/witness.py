"""The witness: sees every record that lands in the log, and knows from that how all runs stand.

It folds the journal as a process that recovers does, so it is right whatever process died when.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepfold.port import Fact
from stepfold_engine.core.decide.crons import CRON_EVENT
from stepfold_engine.core.fold import claim_in, fold
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.core.timers import CRON
from stepfold_engine.facts import facts_of
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from stepfold_schemas import codec
from stepfold_schemas.entries import Decision, RequestAnswered, RunStarted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import home_of, key_of


@dataclass(slots=True)
class Story:
    """What the journal says of one run.

    Attributes:
        id: the run's id.
        function: the function's full id.
        number: which run of that function it is, from 1.
        notes: its journal, in order.
    """

    id: bytes
    function: str
    number: int
    notes: list[Fact] = field(default_factory=list[Fact])


class Witness:
    """Knows all runs and events of one environment.

    Attributes:
        stories: what the journal says of each run, by id, in the order of their start.
        events: every event in the log, with the time of its append, in order.
        started: the runs that each event has started, by its internal id.
        by_cron: the runs that a cron has started.
        changes: how many records of the journal counted; it grows whenever something happens.
    """

    def __init__(self, partitions: int) -> None:
        self.states = [Partition(number, partitions) for number in range(partitions)]
        self.stories: dict[bytes, Story] = {}
        self.events: list[tuple[int, Event]] = []
        self.changes = 0
        self.started: dict[str, list[bytes]] = {}
        self.by_cron: set[bytes] = set()
        self._counts: Counter[str] = Counter()
        self._answers: dict[bytes, RequestAnswered] = {}

    def landed(
        self, topic: str, partition: int, offset: int, records: Sequence[NewRecord], at_ms: int
    ) -> None:
        """Take records that were appended from an offset on."""
        if topic == EVENTS:
            self.events += [(at_ms, codec.decode_event(record.value)) for record in records]
        elif topic == JOURNAL:
            state = self.states[partition]
            for place, record in enumerate(records, offset):
                decision = codec.decode_decision(record.value)
                if fold(state, decision, place) and claim_in(decision) is None:
                    self._note(decision)

    def _note(self, decision: Decision) -> None:
        self.changes += 1
        for run, fact in facts_of(decision):
            entry = fact.entry
            if isinstance(entry, RunStarted):
                self._counts[entry.function] += 1
                self.stories[run] = Story(run, entry.function, self._counts[entry.function])
                event = codec.decode_event(entry.events[0])
                self.started.setdefault(event.internal, []).append(run)
                if event.name == CRON_EVENT:
                    self.by_cron.add(run)
            self.stories[run].notes.append(fact)
        for entry in decision.entries:
            if isinstance(entry, RequestAnswered):
                self._answers[entry.request] = entry

    def answer(self, request: bytes) -> RequestAnswered | None:
        """Return the answer to a request, None if there is none yet."""
        return self._answers.get(request)

    def state_of(self, run: bytes) -> Run | None:
        """Return the state of an unfinished run, None if it has ended."""
        return self.states[home_of(run)].runs.get(key_of(run))

    def is_pending(self) -> bool:
        """Say whether a debounce is to start a run."""
        return any(state.debounces for state in self.states)

    def unfinished(self) -> list[Story]:
        """Return the runs that have not ended."""
        return [story for story in self.stories.values() if self.state_of(story.id) is not None]

    def unfinished_states(self) -> list[Run | None]:
        """Return the states of the runs that have not ended."""
        return [self.state_of(story.id) for story in self.unfinished()]

    def next_due_ms(self) -> int | None:
        """Return when the next sleep, wait, retry or timeout is due; None if none is.

        Crons, which always come due, are not what a run waits for.
        """
        timers = [state.timers for state in self.states]
        found = [due for t in timers for due in (*t.free, *t.held) if due[1] != CRON]
        return min((due_ms for due_ms, _, _ in found), default=None)
