"""What programs did and saw, against the journals: outcomes, bodies of steps, results, replays."""

import json
from collections import defaultdict
from typing import Any

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    OperationsAbandoned,
    RunCompleted,
    RunFailed,
    SignalReceived,
    SignalWaitEnded,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerFired,
    WaitTimedOut,
)
from stepfold_schemas.ids import home_of, ulid_text
from tests.simulation.audit.findings import BODY_ONCE, REPLAY, SEEN_IS_RECORDED, TIMER
from tests.simulation.audit.journal import Kept
from tests.simulation.audit.stories import Fact, Outcome, Story
from tests.simulation.audit.world import World, values_of
from tests.simulation.ledger import Seen

DEATHS = ("crash", "died", "pause", "deploy")
"""How the names of faults begin after which a process does not know what it did."""

MADE_BY_THE_ENGINE = ("ProcessDiedError", "StepLimitError", "StateLimitError")
"""Names of errors that fail a run although its code raised nothing."""

_LATE = "late"
"""What programs say of a time limit that fired; the journal says that its timer did."""

_Body = tuple[str, int]
"""A step's name, and the attempt."""


def check(world: World) -> None:
    """Check all that programs did and saw."""
    deaths = _deaths(world)
    for run, seen in world.seen.items():
        story = world.stories.get(run)
        if story is None:
            text = f"code of run {ulid_text(run)} ran, but no journal knows the run"
            world.findings.add(SEEN_IS_RECORDED, text, run, seen[0].order)
            continue
        _Code(world, story, deaths).check(seen)


def _deaths(world: World) -> dict[str, list[int]]:
    """Return where in the ledger each process died, or stood still."""
    found: dict[str, list[int]] = defaultdict(list)
    for fault in world.faults:
        if fault.what.startswith(DEATHS):
            found[fault.process].append(fault.order)
    return found


class _Code:
    """What the code of one run did and saw."""

    def __init__(self, world: World, story: Story, deaths: dict[str, list[int]]) -> None:
        self._world, self._findings, self._story = world, world.findings, story
        self._deaths = deaths
        self._skew_ms = world.setup.clock_skew_ms
        self._bodies: dict[_Body, list[Seen]] = {}
        self._returns: dict[_Body, list[Seen]] = {}
        self._results: list[Seen] = []
        self._raised: list[Seen] = []
        self._lives: dict[str, tuple[int, list[Seen]]] = {}
        self._all_lives: list[tuple[int, list[Seen]]] = []
        # What an attempt of the function's own code gave up is asked for again by the next one
        # under the same name, but another key.
        self._keys: dict[str, list[bytes]] = {}
        for key, name in story.names.items():
            self._keys.setdefault(name, []).append(key)

    def check(self, seen: list[Seen]) -> None:
        for one in seen:
            match one.what:
                case "outcome" | "error":
                    self._saw(one)
                case "body-began":
                    self._body_began(one)
                case "body-ended":
                    self._returns.setdefault((one.step, one.attempt), []).append(one)
                case "began":
                    self._began(one)
                case "returned":
                    self._results.append(one)
                case "raised":
                    self._raised.append(one)
                case _:
                    pass
        self._compare_lives()
        self._check_recorded()

    def _add(self, promise: str, text: str, one: Seen) -> None:
        story = self._story
        self._findings.add(promise, f"{story}, in {one.process}: {text}", story.run, one.order)

    # The function's own code.

    def _began(self, one: Seen) -> None:
        start = self._story.start
        life = (one.attempt, list[Seen]())
        self._lives[one.process] = life
        self._all_lives.append(life)
        if start.kept.order >= one.order:
            self._add(SEEN_IS_RECORDED, f"its code begins before {start.kept} is durable", one)
        due_ms = start.entry.due_ms
        if one.attempt > 1:
            failed = self._story.attempts[: one.attempt - 1][one.attempt - 2 :]
            if not failed or failed[0].kept.order >= one.order:
                text = f"attempt {one.attempt} begins before the one before is known to have failed"
                self._add(SEEN_IS_RECORDED, text, one)
            else:
                due_ms = max(due_ms, failed[0].entry.retry_at_ms)
        self._not_early(one, due_ms, f"attempt {one.attempt} of its code")

    def _not_early(self, one: Seen, due_ms: int, what: str) -> None:
        if one.at_ms < due_ms - self._skew_ms:
            text = f"{what} begins at {one.at_ms}, {due_ms - one.at_ms} ms before it may"
            self._add(TIMER, text, one)

    # Bodies of steps.

    def _body_began(self, one: Seen) -> None:
        story, what = self._story, f"attempt {one.attempt} of step {one.step!r}"
        cause: Kept | None = story.start.kept
        if one.attempt > 1:
            failed = self._failed_before(one)
            cause = failed.kept if failed is not None else None
            if failed is not None:
                self._not_early(one, failed.entry.retry_at_ms, what)
        if cause is None or cause.order >= one.order:
            needed = f"attempt {one.attempt - 1} failed" if one.attempt > 1 else "the run started"
            text = f"{what} begins before it is durable that {needed}"
            self._add(SEEN_IS_RECORDED, text, one)
            return
        begun = self._bodies.setdefault((one.step, one.attempt), [])
        if begun and not self._may_run_again(begun[-1], one, cause):
            text = (
                f"{what} runs again; it began before in {begun[-1].process} (order"
                f" {begun[-1].order}), which did not die or lose the partition meanwhile"
            )
            self._add(BODY_ONCE, text, one)
        begun.append(one)
        for outcome in self._outcomes(one.step):
            if outcome.kept.order < one.order and self._owns(one):
                text = f"{what} begins although its outcome lies in {outcome.kept}"
                self._add(BODY_ONCE, text, one)

    def _failed_before(self, one: Seen) -> Fact[StepAttemptFailed] | None:
        """Return the failure of the attempt before, if it was durable."""
        found: Fact[StepAttemptFailed] | None = None
        for key in self._keys.get(one.step, ()):
            for failed in self._story.failures.get(key, ())[one.attempt - 2 : one.attempt - 1]:
                if failed.kept.order < one.order:
                    found = failed
        return found

    def _outcomes(self, name: str) -> list[Fact[Outcome]]:
        """Return the outcomes that a step's code may get."""
        outcomes = self._story.outcomes
        facts = [outcomes[key] for key in self._keys.get(name, ()) if key in outcomes]
        return [fact for fact in facts if not isinstance(fact.entry, OperationsAbandoned)]

    def _may_run_again(self, first: Seen, second: Seen, cause: Kept) -> bool:
        died = self._deaths.get(first.process, ())
        again = [fact.kept.order for fact in self._story.attempts]
        if any(first.order < order < second.order for order in (*died, *again)):
            return True
        # An owner that was fenced may act late on what was durable before.
        after = first.order if first.process == second.process else cause.order
        claims = self._world.journals[home_of(self._story.run)].claims
        return any(after < claim.order < second.order for claim in claims)

    def _owns(self, one: Seen) -> bool:
        """Say whether a process is the last that was accepted as the owner of the run."""
        claims = self._world.journals[home_of(self._story.run)].claims
        before = [claim for claim in claims if claim.order < one.order]
        return bool(before) and before[-1].by == one.process

    # Outcomes.

    def _saw(self, one: Seen) -> None:
        if one.process in self._lives:
            self._lives[one.process][1].append(one)
        facts = self._outcomes(one.step)
        durable = [fact for fact in facts if fact.kept.order < one.order]
        if not facts:
            text = f"it saw {one.value} of {one.step!r}, of which no outcome is recorded"
            self._add(SEEN_IS_RECORDED, text, one)
        elif not durable:
            text = f"it saw {one.value} of {one.step!r} before {facts[0].kept} was durable"
            self._add(SEEN_IS_RECORDED, text, one)
        elif not any(self._equal(one, fact) for fact in durable):
            text = (
                f"it saw the {one.what} {one.value} of {one.step!r}; recorded is"
                f" {_shown(durable[-1].entry)} in {durable[-1].kept}"
            )
            self._add(SEEN_IS_RECORDED, text, one)

    def _equal(self, one: Seen, fact: Fact[Outcome]) -> bool:
        entry = fact.entry
        if one.what == "error":
            return _is_error(entry, one.value)
        value = json.loads(one.value)
        match entry:
            case StepCompleted():
                data = json.loads(entry.data)
                return value == data or (isinstance(data, list) and value == len(data))
            case SleepEnded() | WaitTimedOut():
                return value is None
            case TimerFired():
                return value in (None, _LATE)
            case EventMatched():
                return bool(value == self._data_of(entry))
            case SignalReceived():
                return bool(value == json.loads(entry.data))
            case SignalWaitEnded():
                return value is None and entry.reason == "timed-out"
            case InvokeCompleted():
                data = json.loads(entry.data)
                return value == data or (isinstance(data, dict) and value == data.get("total"))
            case _:
                return False

    def _data_of(self, entry: EventMatched) -> Any:
        logged = self._world.events_by_raw.get(entry.event)
        values = logged[0].values if logged else values_of(codec.decode_event(entry.event))
        return values["data"]

    # What is recorded must have been done.

    def _check_recorded(self) -> None:
        story = self._story
        for step, fact in story.outcomes.items():
            if isinstance(fact.entry, StepCompleted) and step not in story.shared:
                self._was_returned(fact.entry, fact.kept)
        end = story.end
        if end is not None and isinstance(end.entry, RunCompleted):
            data = json.loads(end.entry.data)
            results = [r for r in self._results if r.order < end.kept.order]
            if not any(json.loads(r.value) == data for r in results):
                text = f"{story} is recorded to have returned {_short(end.entry.data)} in"
                text += f" {end.kept}; its code returned {[r.value[:200] for r in results]}"
                self._findings.add(SEEN_IS_RECORDED, text, story.run, end.kept.order)
        failed = [fact.kept for fact in story.attempts]
        if end is not None and isinstance(end.entry, RunFailed):
            error = end.entry.error
            failed += [] if error.name in MADE_BY_THE_ENGINE else [end.kept]
        for number, kept in enumerate(failed, 1):
            if not any(r.attempt == number and r.order < kept.order for r in self._raised):
                text = f"attempt {number} of {story} is recorded to have failed in {kept},"
                text += " but its code raised nothing before"
                self._findings.add(SEEN_IS_RECORDED, text, story.run, kept.order)

    def _was_returned(self, entry: StepCompleted, kept: Kept) -> None:
        story = self._story
        if not any((entry.name, n) in self._bodies for n in range(1, entry.attempt + 1)):
            return  # not all steps have a body that programs see: sending is one, too
        returned = self._returns.get((entry.name, entry.attempt), ())
        data = json.loads(entry.data)
        if not any(json.loads(r.value) == data and r.order < kept.order for r in returned):
            text = (
                f"attempt {entry.attempt} of step {entry.name!r} of {story} is recorded to have"
                f" returned {_short(entry.data)} in {kept}; its body returned"
                f" {[r.value[:200] for r in returned if r.order < kept.order]} before"
            )
            self._findings.add(SEEN_IS_RECORDED, text, story.run, kept.order)

    # Replays.

    def _compare_lives(self) -> None:
        """Check that all lives of an attempt's code saw the same, as far as they got."""
        longest: dict[int, list[Seen]] = {}
        for attempt, life in self._all_lives:
            known = longest.get(attempt)
            if known is None:
                longest[attempt] = life
                continue
            for index, (one, other) in enumerate(zip(known, life, strict=False)):
                if (one.what, one.step, one.value) != (other.what, other.step, other.value):
                    text = (
                        f"outcome {index + 1} that it sees is {other.step!r} ({other.value}); in"
                        f" {one.process} (order {one.order}) it was {one.step!r} ({one.value})"
                    )
                    self._add(REPLAY, text, other)
                    break
            if len(life) > len(known):
                longest[attempt] = life


def _is_error(entry: Outcome, text: str) -> bool:
    match entry:
        case StepFailed() | InvokeFailed():
            return entry.error.message in str(json.loads(text))
        case SignalWaitEnded():
            return entry.reason == "refused"
        case _:
            return False


def _shown(entry: Outcome) -> str:
    match entry:
        case StepCompleted() | SignalReceived() | InvokeCompleted():
            return f"{type(entry).__name__} {_short(entry.data)}"
        case StepFailed() | InvokeFailed():
            return f"{type(entry).__name__} {entry.error.name}: {entry.error.message}"
        case EventMatched():
            return f"EventMatched {entry.event_id}"
        case SignalWaitEnded():
            return f"SignalWaitEnded {entry.reason}"
        case _:
            return type(entry).__name__


def _short(data: bytes) -> str:
    return data[:200].decode(errors="replace")
