"""Debounce: every event is taken into a group once, and the last of a group starts one run."""

from dataclasses import dataclass, field

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    DebounceEnded,
    EventDebounced,
    FunctionsDeclared,
    FunctionSpec,
)
from stepfold_schemas.ids import key_of
from tests.simulation.audit.findings import DEBOUNCE
from tests.simulation.audit.journal import Journal, Kept
from tests.simulation.audit.starts import Force, consumed, meant
from tests.simulation.audit.stories import Story
from tests.simulation.audit.world import World

_Name = tuple[str, str]
"""A function, and the value of its key."""


def check(world: World) -> None:
    """Check all groups, and that every event that a debounced function is started by was taken."""
    checking = _Debounces(world)
    for journal in world.journals:
        checking.walk(journal)
    if world.setup.settled:
        for journal in world.journals:
            checking.look_for_lost(journal)


@dataclass
class _Debounces:
    """What is known while the journals are walked.

    Attributes:
        taken: how often each event (by its id) was taken for each function.
        ended: the groups that have come to their end.
    """

    world: World
    taken: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    ended: set[bytes] = field(default_factory=set[bytes])
    specs: dict[str, FunctionSpec] = field(default_factory=dict[str, FunctionSpec])
    by_key: dict[bytes, list[Story]] = field(default_factory=dict[bytes, list[Story]])

    def __post_init__(self) -> None:
        for declared in self.world.of(FunctionsDeclared):
            self.specs |= {f.id: f for f in declared.entry.functions}
        for story in self.world.stories.values():
            self.by_key.setdefault(key_of(story.run), []).append(story)

    def walk(self, journal: Journal) -> None:
        held: dict[_Name, EventDebounced] = {}
        force = Force()
        for kept in journal.kept:
            force.walk(kept)
            for entry in kept.decision.entries:
                if not isinstance(entry, EventDebounced | DebounceEnded):
                    continue
                name = (entry.function, entry.key)
                holder = held.get(name)
                if isinstance(entry, EventDebounced):
                    why = self._why_not_taken(kept, entry, holder)
                    held[name] = entry
                else:
                    why = self._why_not_ended(kept, entry, holder, force)
                    held.pop(name, None)
                if why:
                    text = f"{type(entry).__name__} of {entry.function}, {entry.key!r}, in {kept}"
                    self.world.findings.add(DEBOUNCE, f"{text}: {why}", order=kept.order)
        if self.world.setup.settled:
            for name, holder in held.items():
                text = f"{name}: event {holder.event_id} was due at {holder.due_ms}: no run started"
                self.world.findings.add(DEBOUNCE, text)

    def _why_not_taken(
        self, kept: Kept, entry: EventDebounced, holder: EventDebounced | None
    ) -> str:
        if holder is not None and entry.group != holder.group:
            return f"the group {holder.group.hex()} has not ended"
        if holder is not None and not entry.superseded:
            same = (entry.event, entry.event_id, entry.first_ms, entry.due_ms)
            was = (holder.event, holder.event_id, holder.first_ms, holder.due_ms)
            return "" if same == was else "what is restated differs from what is held"
        if entry.group in self.ended:
            return "its group has ended"
        newcomer = entry.event_id
        if holder is not None:
            if entry.event_id == holder.event_id and entry.event == holder.event:
                newcomer = entry.superseded
                copies = self.world.events_by_id.get(newcomer, [])
                if not any(_time(e.raw) < _time(holder.event) for e in copies):
                    return f"event {newcomer} is not older than {holder.event_id}"
            elif entry.superseded != holder.event_id:
                return f"{holder.event_id} held the group, not {entry.superseded}"
            elif _time(entry.event) < _time(holder.event):
                return f"event {newcomer} is older than {holder.event_id}"
        once = (entry.function, newcomer)
        if once in self.taken:
            return f"event {newcomer} is taken a second time"
        self.taken.add(once)
        return self._why_not_then(kept, entry, holder)

    def _why_not_then(
        self, kept: Kept, entry: EventDebounced, holder: EventDebounced | None
    ) -> str:
        option, at_ms = self.specs[entry.function].debounce, kept.decision.at_ms
        assert option is not None, "only one function is debounced, and always"
        first_ms = at_ms if holder is None else holder.first_ms
        due_ms = at_ms + option.period_ms
        if option.timeout_ms:
            due_ms = min(due_ms, first_ms + option.timeout_ms)
        if (entry.first_ms, entry.due_ms) == (first_ms, due_ms):
            return ""
        return f"first {entry.first_ms}, due {entry.due_ms}; it should be {first_ms}, {due_ms}"

    def _why_not_ended(
        self, kept: Kept, entry: DebounceEnded, holder: EventDebounced | None, force: Force
    ) -> str:
        if entry.group in self.ended:
            return "its group has ended before"
        self.ended.add(entry.group)
        if holder is None or (holder.group, holder.event_id) != (entry.group, entry.event_id):
            return f"{entry.event_id} did not hold the group"
        if kept.decision.at_ms < holder.due_ms:
            return f"it comes {holder.due_ms - kept.decision.at_ms} ms early"
        if not entry.run_key:
            return "no run starts" if entry.function in force.functions else ""
        runs = self.by_key.get(entry.run_key, [])
        if not runs and self.world.setup.settled:
            return f"there is no run with the key {entry.run_key.hex()}"
        if self.specs[entry.function].idempotency:
            return ""
        if len(runs) != 1 or runs[0].start.kept is not kept:
            return "its run starts elsewhere, or more than once"
        return "" if runs[0].start.entry.events == [holder.event] else "its run has another event"

    def look_for_lost(self, journal: Journal) -> None:
        force = Force()
        for kept in journal.kept:
            for event in consumed(kept, self.world.events):
                if event.home == journal.number:
                    for spec in force.triggered_by(event.name):
                        lost = (spec.id, event.id) not in self.taken
                        if spec.debounce is not None and lost and meant(spec, event):
                            text = f"{event} was read in {kept}, but not taken for {spec.id}"
                            self.world.findings.add(DEBOUNCE, text, order=kept.order)
            force.walk(kept)


def _time(raw: bytes) -> int:
    event = codec.decode_event(raw)
    return event.ts or event.received_ms
