"""Runs start: each event starts each function in force exactly once, and nothing else does.

An event starts runs at its home, when the home's read position passes it. What is in force then is
what the home's journal declared before that record.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    CronFired,
    DebounceEnded,
    FunctionsDeclared,
    FunctionSpec,
    InvokeBegan,
    RunFailed,
)
from stepfold_schemas.ids import home_of, time_of, ulid_text
from stepfold_schemas.messages import RunRequested
from tests.simulation.audit.conditions import Answer, holds, names, value_at
from tests.simulation.audit.findings import CAUSE, EVENT_ONCE
from tests.simulation.audit.journal import Kept
from tests.simulation.audit.stories import Story
from tests.simulation.audit.world import EVENTS, Logged, World, values_of

FAILED_EVENT = "stepfold/function.failed"
CRON_EVENT = "stepfold/cron.fired"


class Force:
    """The functions in force in one partition, while its journal is walked."""

    def __init__(self) -> None:
        self._apps: dict[str, FunctionsDeclared] = {}
        self._by_name: dict[str, list[FunctionSpec]] = {}
        self.functions: dict[str, FunctionSpec] = {}

    def walk(self, kept: Kept) -> None:
        """Put in force what a record declares."""
        for entry in kept.decision.entries:
            if isinstance(entry, FunctionsDeclared):
                self._declare(entry)

    def _declare(self, entry: FunctionsDeclared) -> None:
        """Put a list in force; one whose number is not higher changes nothing."""
        current = self._apps.get(entry.app)
        if current is None or entry.number > current.number:
            self._apps[entry.app] = entry
            self.functions = {f.id: f for d in self._apps.values() for f in d.functions}
            self._by_name.clear()

    def triggered_by(self, name: str) -> list[FunctionSpec]:
        """Return the functions that an event of this name may start."""
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = [
                f for f in self.functions.values() if any(names(t.event, name) for t in f.triggers)
            ]
        return found


def check(world: World) -> None:
    """Check all starts of runs."""
    _Starts(world).check()


class _Starts:
    """What is known of starts while the journals are walked.

    Attributes:
        by_event: the runs that an event's id started of a function, in the order of their start.
        by_key: the same by the value of the function's idempotency expression.
        explained: runs whose cause was found.
    """

    def __init__(self, world: World) -> None:
        self._world, self._findings = world, world.findings
        self._stories = sorted(world.stories.values(), key=lambda s: s.start.kept.order)
        # Why there are reruns, ``reruns`` looks at.
        self._own_accord = [s for s in self._stories if s.rerun is None]
        self.by_event: dict[tuple[str, str], list[Story]] = defaultdict(list)
        self.by_key: dict[tuple[str, str], list[Story]] = defaultdict(list)
        self.explained: set[bytes] = set()
        for story in self._own_accord:
            for id_ in story.start.entry.event_ids:
                self.by_event[story.function, id_].append(story)
        # A second run of a key is looked for only after all functions are known.
        self._idempotency: dict[str, str] = {}

    def check(self) -> None:
        for spec in (f for d in self._world.of(FunctionsDeclared) for f in d.entry.functions):
            self._idempotency[spec.id] = spec.idempotency
        self._group_by_key()
        for journal in self._world.journals:
            force = Force()
            for kept in journal.kept:
                for event in consumed(kept, self._world.events):
                    if event.home == journal.number:
                        for spec in force.triggered_by(event.name):
                            self._arrived(kept, event, spec)
                force.walk(kept)
        for same in self.by_key.values():
            self._once(same, "the same idempotency key")
        for story in self._stories:
            self._check_id(story)
            if story.run not in self.explained and story.rerun is None:
                self._explain(story)

    # What an event must start.

    def _arrived(self, kept: Kept, event: Logged, spec: FunctionSpec) -> None:
        if spec.debounce is not None:
            return  # ``debounces``
        is_meant = meant(spec, event)
        runs = self.by_event.get((spec.id, event.id), [])
        here = [s for s in runs if s.start.kept is kept]
        if is_meant is not False:
            self._explained(kept, event, here)
        elif here:
            text = f"{here[0]} starts in {kept} for {event}, which its triggers do not mean"
            self._findings.add(CAUSE, text, here[0].run, kept.order)
        if spec.idempotency:
            if is_meant:
                self._arrived_with_key(kept, event, spec)
            return
        before = [s for s in runs if s.start.kept.order < kept.order]
        if is_meant and not here and not before:
            text = f"{event} was taken in {kept}, but starts no run of {spec.id}, which is in force"
            self._findings.add(EVENT_ONCE, text, order=kept.order)
        if here:
            self._once([*before[-1:], *here], f"{event}")

    def _explained(self, kept: Kept, event: Logged, here: list[Story]) -> None:
        """Note that an event starts these runs, and check that they hold it."""
        for story in here:
            start = story.start.entry
            self.explained.add(story.run)
            if start.events != [event.raw] or start.invoker is not None:
                text = f"{story} starts in {kept} for {event}, but holds another event or invoker"
                self._findings.add(CAUSE, text, story.run, kept.order)

    def _arrived_with_key(self, kept: Kept, event: Logged, spec: FunctionSpec) -> None:
        key = _key(spec.idempotency, event)
        if key is None or not self._world.setup.settled:
            return
        for story in self.by_key.get((spec.id, key), ()):
            if story.start.kept.order >= kept.order or self._known(story, kept):
                return
        text = f"{event} was taken in {kept}, but {spec.id} has no run for its key {key}"
        self._findings.add(EVENT_ONCE, text, order=kept.order)

    def _group_by_key(self) -> None:
        for story in self._own_accord:
            expression = self._idempotency.get(story.function, "")
            start = story.start.entry
            if expression and start.invoker is None and start.events:
                for event in self._world.events_by_raw.get(start.events[0], ())[:1]:
                    key = _key(expression, event)
                    if key is not None:
                        self.by_key[story.function, key].append(story)

    def _once(self, runs: Sequence[Story], cause: str) -> None:
        """Report runs that started although an earlier one for the same cause was known."""
        for first, second in pairwise(runs):
            kept = second.start.kept
            if self._known(first, kept):
                text = f"{cause} starts {first} in {first.start.kept} and {second} in {kept}"
                self._findings.add(EVENT_ONCE, text, second.run, kept.order)

    def _known(self, story: Story, kept: Kept) -> bool:
        """Say whether a run lives at a record, or ended so shortly before that it is known."""
        if story.end is None or story.end.kept.order >= kept.order:
            return True
        setup = self._world.setup
        ended_ms = story.end.kept.decision.at_ms
        # Two clocks: that of who wrote the end, and that of who forgets.
        return kept.decision.at_ms - ended_ms < setup.remember_ms - 2 * setup.clock_skew_ms

    # What must have a cause.

    def _explain(self, story: Story) -> None:
        start, kept = story.start.entry, story.start.kept
        if start.invoker is not None:
            why = self._why_not_invoked(story)
        else:
            why = self._why_not_asked_for(story)
        if why:
            text = f"{story} starts in {kept}: {why}"
            self._findings.add(CAUSE, text, story.run, kept.order)

    def _check_id(self, story: Story) -> None:
        """A run's id says where and when it was started, so that all can find it."""
        kept, run = story.start.kept, story.run
        if (home_of(run), time_of(run)) != (kept.partition, kept.decision.at_ms):
            text = f"{story} starts in {kept} at {kept.decision.at_ms}; its id names partition"
            text += f" {home_of(run)} and the time {time_of(run)}"
            self._findings.add(CAUSE, text, run, kept.order)

    def _why_not_invoked(self, story: Story) -> str:
        start = story.start
        assert start.entry.invoker is not None, "asked for those only"
        run, step = start.entry.invoker.run, start.entry.invoker.step
        invoker = self._world.stories.get(run)
        began = invoker.began.get(step) if invoker is not None else None
        if began is None or not isinstance(began.entry, InvokeBegan):
            return f"its invoker, step {step.hex()} of run {ulid_text(run)}, does not invoke"
        if began.kept.order >= start.kept.order:
            return f"that it is invoked is durable only later, in {began.kept}"
        if began.entry.function != story.function:
            return f"its invoker asked for {began.entry.function}"
        return ""

    def _why_not_asked_for(self, story: Story) -> str:
        start, kept = story.start.entry, story.start.kept
        raw = start.events[0] if start.events else b""
        copies = self._world.events_by_raw.get(raw, [])
        if not copies:
            return self._why_not_a_failure(story, raw)
        if all(event.order > kept.order for event in copies):
            return f"its cause, {copies[0]}, is durable only later"
        if start.event_ids != [copies[0].id]:
            return f"its event is {copies[0]}, but it notes the ids {start.event_ids}"
        if any(
            isinstance(entry, DebounceEnded)
            and (entry.function, entry.event_id) == (story.function, copies[0].id)
            for entry in kept.decision.entries
        ):
            return ""
        message = self._world.taken_in(kept)
        if isinstance(message, RunRequested) and message.function == story.function:
            return "" if message.events[:1] == [raw] else "the request for it has another event"
        return f"{copies[0]} is not taken in this record, or does not start {story.function}"

    def _why_not_a_failure(self, story: Story, raw: bytes) -> str:
        event = codec.decode_event(raw)
        if event.name == CRON_EVENT:
            fired = (e for e in story.start.kept.decision.entries if isinstance(e, CronFired))
            return "" if any(e.run == story.run for e in fired) else "no cron fires in this record"
        if event.name != FAILED_EVENT:
            return f"its cause, event {event.name} (id {event.id}), is not in the log"
        failed = str(values_of(event)["data"].get("run_id"))
        for entry in story.start.kept.decision.entries:
            if isinstance(entry, RunFailed) and ulid_text(entry.run) == failed:
                of = self._world.stories.get(entry.run)
                handler = of.start.entry.on_failure if of is not None else ""
                if handler == story.function:
                    return ""
                return f"the handler of run {failed} is {handler!r}"
        return f"run {failed} does not fail in this record"


def consumed(kept: Kept, events: dict[int, list[Logged]]) -> Iterator[Logged]:
    """Yield the events that were taken between the record before and this one.

    An event that is decided in parts is taken with its first part.
    """
    for position in kept.decision.positions:
        if position.topic != EVENTS:
            continue
        offset, part = kept.before.get((EVENTS, position.partition), (0, 0))
        first = offset + (1 if part else 0)
        after = position.offset + (1 if position.part else 0)
        some = events.get(position.partition, [])
        index = bisect_left(some, first, key=_offset_of)
        while index < len(some) and some[index].offset < after:
            yield some[index]
            index += 1


def _offset_of(event: Logged) -> int:
    return event.offset


def meant(spec: FunctionSpec, event: Logged) -> Answer:
    """Say whether a function's triggers mean an event."""
    unknown = False
    for trigger in spec.triggers:
        if names(trigger.event, event.name):
            if not trigger.expression:
                return True
            answer = holds(trigger.expression, {"event": event.values})
            if answer:
                return True
            unknown = unknown or answer is None
    return None if unknown else False


def _key(expression: str, event: Logged) -> str | None:
    """Return the value of an idempotency expression, if it is a path to one."""
    path = expression.removeprefix("event.")
    if not path.replace(".", "").replace("_", "").isalnum():
        return None
    value = value_at(event.values, path)
    return None if value is None else json.dumps(value, sort_keys=True)
