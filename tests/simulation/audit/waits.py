"""Waits for events cannot miss, and cancellations by events neither.

Whatever this partition reads after a wait began, and before it ended, counts as after. So the read
positions in two records, that with the wait's beginning and that with its end, say which events
the wait must have got; and an event that was appended before the timeout was due must be read
before the timeout is decided.
"""

from collections.abc import Iterator

from stepfold_schemas.entries import (
    EventMatched,
    RunCancelled,
    WaitBegan,
    WaitTimedOut,
)
from tests.simulation.audit.conditions import meets, names
from tests.simulation.audit.findings import TIMER, WAIT
from tests.simulation.audit.journal import Kept
from tests.simulation.audit.stories import Fact, Story
from tests.simulation.audit.world import EVENTS, Logged, World


def check(world: World) -> None:
    """Check all waits and cancellations."""
    checker = _Waits(world)
    for story in world.stories.values():
        for step, fact in story.began.items():
            if isinstance(fact.entry, WaitBegan):
                checker.wait(story, step, fact.kept, fact.entry)
        if story.start.entry.cancellations:
            checker.cancellations(story)


class _Waits:
    def __init__(self, world: World) -> None:
        self._world, self._findings = world, world.findings
        self._skew_ms = world.setup.clock_skew_ms
        self._last = [journal.kept[-1] if journal.kept else None for journal in world.journals]
        self._by_pattern: dict[str, list[Logged]] = {}
        self._trimmed = [t for t in world.trims if t.topic == EVENTS]

    def wait(self, story: Story, step: bytes, began: Kept, entry: WaitBegan) -> None:
        """Check one wait, from its beginning to its end."""
        outcome = story.outcomes.get(step)
        if outcome is not None and isinstance(outcome.entry, EventMatched):
            self._matched(story, began, entry, outcome)
        if outcome is not None and isinstance(outcome.entry, WaitTimedOut):
            self._timed_out(story, entry, outcome.kept)
        end = outcome or story.end
        last = end.kept if end is not None else self._last[began.partition]
        assert last is not None, "a journal with a wait is not empty"
        due_ms = entry.due_ms if isinstance(outcome and outcome.entry, WaitTimedOut) else 0
        since = began
        if entry.since_ms:
            found = story.lookbacks.get(step)
            if found is None:
                if due_ms:
                    text = f"wait {entry.name!r} of {story} timed out in {last} while it was held"
                    self._findings.add(WAIT, text, story.run, last.order)
                return  # it got an event, or is still held, or its code gave it up
            self._looked_back(story, entry, began, found)
            since = found
        for event in self._named(entry.condition.event):
            offset = event.offset
            if offset < since.position(EVENTS, event.partition):
                continue
            read = offset < last.position(EVENTS, event.partition)
            if not read and event.at_ms + self._skew_ms >= due_ms:
                continue
            if not meets(entry.condition, event.values):
                continue
            if read and self._is_the_end(event, end, last):
                continue
            if not self._received_before(story, event, last):
                self._missed(story, step, entry, began, event, last)

    def _missed(
        self, story: Story, step: bytes, entry: WaitBegan, began: Kept, event: Logged, last: Kept
    ) -> None:
        ended = story.outcomes.get(step) or story.end
        how = f"ended ({type(ended.entry).__name__}) in {last}" if ended else "is still open"
        text = (
            f"wait {entry.name!r} of {story} for {_meant(entry)} began in {began}, {how}, and"
            f" missed {event}, which lay in its time"
        )
        self._findings.add(WAIT, text, story.run, last.order)

    def _is_the_end(self, event: Logged, end: Fact[object] | None, last: Kept) -> bool:
        """Say whether this very event ended the wait, or the run."""
        if end is None:
            return False
        if isinstance(end.entry, EventMatched):
            return end.entry.event_id == event.id
        taken = self._taken_last(event, last)
        return isinstance(end.entry, RunCancelled) and event.name in end.entry.reason and taken

    def _taken_last(self, event: Logged, kept: Kept) -> bool:
        before = kept.before.get((EVENTS, event.partition), (0, 0))[0]
        return before <= event.offset < kept.position(EVENTS, event.partition)

    def _received_before(self, story: Story, event: Logged, last: Kept) -> bool:
        """Say whether the run had this event, or a copy of it, when this one was read."""
        received = story.received.get(event.id)
        if received is None or received > last.index:
            return False
        read = self._world.journals[last.partition].passing(EVENTS, event.partition, event.offset)
        # Waits that an event finds together get it together, so it is no excuse that another
        # one got it from this very reading.
        return read is None or received < read.index

    # The outcomes.

    def _matched(self, story: Story, began: Kept, entry: WaitBegan, outcome: Fact[object]) -> None:
        matched, kept = outcome.entry, outcome.kept
        assert isinstance(matched, EventMatched), "asked for those only"
        what = f"wait {entry.name!r} of {story} got event {matched.event_id} in {kept}"
        copies = [
            e for e in self._world.events_by_raw.get(matched.event, ()) if e.order < kept.order
        ]
        if not copies or copies[0].id != matched.event_id:
            self._findings.add(WAIT, f"{what}, which is not in the log", story.run, kept.order)
            return
        event = copies[0]
        if not names(entry.condition.event, event.name) or (
            meets(entry.condition, event.values) is False
        ):
            text = f"{what}; it waits for {_meant(entry)}, which {event} is not"
            self._findings.add(WAIT, text, story.run, kept.order)
        after = any(e.offset >= began.position(EVENTS, e.partition) for e in copies)
        if not after and not (entry.since_ms and any(e.at_ms >= entry.since_ms for e in copies)):
            text = f"{what}; {event} had been read before the wait began in {began}"
            self._findings.add(WAIT, text, story.run, kept.order)
        if all(e.offset >= kept.position(EVENTS, e.partition) + _part(kept, e) for e in copies):
            text = f"{what}; {event} is read only later"
            self._findings.add(WAIT, text, story.run, kept.order)
        if story.received.get(event.id, kept.index) < kept.index:
            text = f"{what}, which the run had got before"
            self._findings.add(WAIT, text, story.run, kept.order)

    def _timed_out(self, story: Story, entry: WaitBegan, kept: Kept) -> None:
        if kept.decision.at_ms < entry.due_ms:
            text = (
                f"wait {entry.name!r} of {story} timed out in {kept} at {kept.decision.at_ms},"
                f" {entry.due_ms - kept.decision.at_ms} ms before it was due"
            )
            self._findings.add(TIMER, text, story.run, kept.order)

    def _looked_back(self, story: Story, entry: WaitBegan, began: Kept, found: Kept) -> None:
        """Check that a search which found nothing had nothing to find."""
        for event in self._named(entry.condition.event):
            if event.at_ms < entry.since_ms or self._gone(event, found):
                continue
            if event.offset >= found.position(EVENTS, event.partition):
                continue
            if story.received.get(event.id, found.index + 1) <= found.index:
                continue
            if meets(entry.condition, event.values):
                text = (
                    f"wait {entry.name!r} of {story} for {_meant(entry)} since {entry.since_ms},"
                    f" which began in {began}, found nothing ({found}) and missed {event} of"
                    f" {event.at_ms}"
                )
                self._findings.add(WAIT, text, story.run, found.order)

    def _gone(self, event: Logged, kept: Kept) -> bool:
        """Say whether an event was trimmed before a record."""
        return any(
            t.partition == event.partition and t.before > event.offset and t.order < kept.order
            for t in self._trimmed
        )

    # Cancellations.

    def cancellations(self, story: Story) -> None:
        """Check that a run which went on was not to be cancelled by an event."""
        start, end = story.start, story.end
        last = end.kept if end is not None else self._last[start.kept.partition]
        assert last is not None, "a journal with a run is not empty"
        for cancellation in start.entry.cancellations:
            condition = cancellation.condition
            for event in self._named(condition.event):
                if not self._is_due(story, event, last) or event.at_ms >= cancellation.expires_ms:
                    continue
                cancelled = end is not None and isinstance(end.entry, RunCancelled)
                if cancelled and self._taken_last(event, last):
                    continue
                if meets(condition, event.values) and not self._received_before(story, event, last):
                    text = f"{story}, started in {start.kept}, is not cancelled by {event}"
                    self._findings.add(WAIT, text, story.run, last.order)

    def _is_due(self, story: Story, event: Logged, last: Kept) -> bool:
        """Say whether an event lay in a run's time, by what was read when, or in its look-back."""
        if event.offset >= last.position(EVENTS, event.partition):
            return False
        if event.offset >= story.start.kept.position(EVENTS, event.partition):
            return True
        # What came before the run is looked for before its code begins.
        if not any(seen.what == "began" for seen in self._world.seen.get(story.run, ())):
            return False
        trigger = self._world.events_by_raw.get(story.start.entry.events[0])
        # Of the trigger's own partition the order is the log's.
        return (
            trigger is not None
            and event.partition != trigger[0].partition
            and event.at_ms > trigger[0].at_ms + self._skew_ms
            and not self._gone(event, story.start.kept)
        )

    def _named(self, pattern: str) -> list[Logged]:
        """Return the events of a name or a pattern."""
        found = self._by_pattern.get(pattern)
        if found is None:
            by_name = self._world.events_by_name
            found = self._by_pattern[pattern] = list(_matching(pattern, by_name))
        return found


def _matching(pattern: str, by_name: dict[str, list[Logged]]) -> Iterator[Logged]:
    for name, events in by_name.items():
        if names(pattern, name):
            yield from events


def _part(kept: Kept, event: Logged) -> int:
    """Count the event that is being taken in parts as read."""
    return 1 if kept.positions.get((EVENTS, event.partition), (0, 0))[1] else 0


def _meant(entry: WaitBegan) -> str:
    condition = entry.condition
    terms = [f"{t.path} == {t.value}" for t in condition.terms]
    return " and ".join([condition.event, *terms, *filter(None, [condition.expression])])
