"""What the journals say of each run, entry by entry, and whether that can be.

A run starts, goes on and ends, each once; every step and operation of it has one outcome.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from stepfold_schemas.entries import (
    AttemptStarted,
    Entry,
    EventMatched,
    HistoryRestated,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    LookbackFinished,
    OperationsAbandoned,
    RerunStarted,
    RunAttemptFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
    RunRestated,
    RunResumed,
    RunStarted,
    RunStopped,
    SignalReceived,
    SignalWaitBegan,
    SignalWaitEnded,
    SleepBegan,
    SleepEnded,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    TimerFired,
    TimerSet,
    VersionChosen,
    WaitBegan,
    WaitTimedOut,
)
from stepfold_schemas.ids import ulid_text
from tests.simulation.audit.findings import END_ONCE, OUTCOME_ONCE, Findings
from tests.simulation.audit.journal import Kept

E_co = TypeVar("E_co", covariant=True)

End = RunCompleted | RunFailed | RunCancelled
Began = SleepBegan | TimerSet | WaitBegan | SignalWaitBegan | InvokeBegan
Outcome = (
    StepCompleted
    | StepFailed
    | SleepEnded
    | TimerFired
    | WaitTimedOut
    | EventMatched
    | SignalReceived
    | SignalWaitEnded
    | InvokeCompleted
    | InvokeFailed
    | OperationsAbandoned
)

_BEGINNING_OF: dict[type[Entry], type[Entry]] = {
    SleepEnded: SleepBegan,
    TimerFired: TimerSet,
    WaitTimedOut: WaitBegan,
    EventMatched: WaitBegan,
    SignalReceived: SignalWaitBegan,
    SignalWaitEnded: SignalWaitBegan,
    InvokeCompleted: InvokeBegan,
    InvokeFailed: InvokeBegan,
}
"""What can only come of something that began."""


@dataclass(frozen=True, slots=True)
class Fact(Generic[E_co]):
    """An entry that counts, and the record that holds it."""

    kept: Kept
    entry: E_co


@dataclass(slots=True)
class Story:
    """What is recorded of one run.

    Attributes:
        run: its id.
        start: the entry with which it begins.
        end: how it ended, or None.
        began: its operations by their step's key.
        outcomes: what came of its steps and operations, by key.
        failures: the failed attempts of its steps, by key.
        attempts: the failed attempts of its own code.
        lookbacks: its waits for which the log was searched, by key.
        received: the events it got, by id, each with the record's index.
        stopped: where it was stopped, or None if it was not, or was let go on.
        names: the names of its steps, by key.
        history: what was recorded of it, as its code sees it, record by record.
        rerun: the entry that makes it a rerun of another run, or None.
        shared: by step's key, in which run an outcome came to be that it shares.
    """

    run: bytes
    start: Fact[RunStarted]
    end: Fact[End] | None = None
    began: dict[bytes, Fact[Began]] = field(default_factory=dict[bytes, Fact[Began]])
    outcomes: dict[bytes, Fact[Outcome]] = field(default_factory=dict[bytes, Fact[Outcome]])
    failures: dict[bytes, list[Fact[StepAttemptFailed]]] = field(
        default_factory=dict[bytes, list[Fact[StepAttemptFailed]]]
    )
    attempts: list[Fact[RunAttemptFailed]] = field(default_factory=list[Fact[RunAttemptFailed]])
    lookbacks: dict[bytes, Kept] = field(default_factory=dict[bytes, Kept])
    received: dict[str, int] = field(default_factory=dict[str, int])
    stopped: Kept | None = None
    names: dict[bytes, str] = field(default_factory=dict[bytes, str])
    history: list[tuple[Kept, list[Entry]]] = field(default_factory=list[tuple[Kept, list[Entry]]])
    rerun: Fact[RerunStarted] | None = None
    shared: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])

    @property
    def function(self) -> str:
        return self.start.entry.function

    def dated(self) -> list[tuple[Kept, list[tuple[int, Entry]]]]:
        """Return the history, each entry with the time at which it was recorded first."""
        found = [(k, [(k.decision.at_ms, e) for e in some]) for k, some in self.history]
        if self.rerun is not None:
            first = found[0][1]
            # The first entry is the run's start, and the last says that it is a rerun.
            for number, at_ms in enumerate(self.rerun.entry.times_ms[: len(first) - 2], 1):
                first[number] = (at_ms, first[number][1])
        return found

    def name(self, step: bytes) -> str:
        """Return what people call a step."""
        return repr(self.names.get(step) or step.hex())

    def __str__(self) -> str:
        return f"run {ulid_text(self.run)} of {self.function}"


class Teller:
    """Makes the stories, entry by entry in the order of each journal."""

    def __init__(self, findings: Findings) -> None:
        self.stories: dict[bytes, Story] = {}
        self.findings = findings

    def started(self, fact: Fact[RunStarted]) -> None:
        """Begin a run's story."""
        entry = fact.entry
        if entry.run in self.stories:
            first = self.stories[entry.run].start.kept
            text = f"run {ulid_text(entry.run)} starts in {first} and again in {fact.kept}"
            self.findings.add(END_ONCE, text, entry.run, fact.kept.order)
            return
        story = self.stories[entry.run] = Story(entry.run, fact)
        story.received = dict.fromkeys(entry.event_ids, fact.kept.index)
        story.history.append((fact.kept, [entry]))

    def of(self, run: bytes, fact: Fact[Entry]) -> Story | None:
        """Return the run's story if something may still happen to it."""
        kind, kept = type(fact.entry).__name__, fact.kept
        story = self.stories.get(run)
        if story is None:
            text = f"{kind} in {kept} for run {ulid_text(run)}, which was never started"
            self.findings.add(END_ONCE, text, run, kept.order)
        elif story.end is not None:
            end, at = type(story.end.entry).__name__, story.end.kept
            text = f"{kind} in {kept} for {story}, which had ended ({end}) in {at}"
            self.findings.add(END_ONCE, text, run, kept.order)
            return None
        return story

    def note(self, story: Story, kept: Kept, entry: Entry) -> None:
        """Add an entry to what the run's code sees; one that wakes two waits of it is one entry."""
        if story.history[-1][0] is not kept:
            story.history.append((kept, [entry]))
        elif story.history[-1][1][-1] is not entry:
            story.history[-1][1].append(entry)

    def outcome(self, story: Story, step: bytes, fact: Fact[Outcome]) -> None:
        """Give a step its outcome."""
        entry, kept = fact.entry, fact.kept
        kind = type(entry).__name__
        old = story.outcomes.get(step)
        if old is not None:
            text = (
                f"step {story.name(step)} of {story} has the outcome {type(old.entry).__name__}"
                f" in {old.kept} and another, {kind}, in {kept}"
            )
            self.findings.add(OUTCOME_ONCE, text, story.run, kept.order)
            return
        needed = _BEGINNING_OF.get(type(entry))
        began = story.began.get(step)
        if needed is not None and (began is None or type(began.entry) is not needed):
            text = f"{kind} in {kept} for step {story.name(step)} of {story}: no {needed.__name__}"
            self.findings.add(OUTCOME_ONCE, text, story.run, kept.order)
        story.outcomes[step] = fact

    def attempt(self, story: Story, entry: StepCompleted | StepFailed, kept: Kept) -> None:
        """Check that an outcome is that of the attempt that was under way."""
        due = len(story.failures.get(entry.step, ())) + 1
        if entry.attempt != due:
            text = (
                f"step {entry.name!r} of {story} has the outcome of attempt {entry.attempt} in"
                f" {kept}; attempt {due} was under way"
            )
            self.findings.add(OUTCOME_ONCE, text, story.run, kept.order)

    def failed(self, story: Story, fact: Fact[StepAttemptFailed]) -> None:
        """Add a failed attempt of a step."""
        entry, kept = fact.entry, fact.kept
        story.names[entry.step] = entry.name
        failures = story.failures.setdefault(entry.step, [])
        if entry.step in story.outcomes or entry.attempt != len(failures) + 1:
            done = "it has its outcome" if entry.step in story.outcomes else "it is not the next"
            text = f"attempt {entry.attempt} of step {entry.name!r} of {story} fails in {kept}"
            self.findings.add(OUTCOME_ONCE, f"{text}, but {done}", story.run, kept.order)
            return
        failures.append(fact)

    def share(self, rerun: RerunStarted, fact: Fact[Entry]) -> None:
        """Add an entry that a rerun shares with its origin."""
        story = self.of(rerun.run, fact)
        entry, kept = fact.entry, fact.kept
        if story is None or (isinstance(entry, SignalWaitEnded) and entry.reason == "replaced"):
            return
        if (name := getattr(entry, "name", "")) and (step := getattr(entry, "step", b"")):
            story.names[step] = name
        for step in _outcomes_in(entry, rerun.run):
            story.outcomes[step] = Fact(kept, cast("Outcome", entry))
            origin = self.stories.get(rerun.origin)
            known = origin.shared.get(step) if origin is not None else None
            story.shared[step] = known or rerun.origin
        if isinstance(entry, EventMatched):
            story.received.setdefault(entry.event_id, kept.index)
        self.note(story, kept, entry)

    def began(self, story: Story, fact: Fact[Began]) -> None:
        """Add an operation that the run asked for."""
        entry, kept = fact.entry, fact.kept
        story.names[entry.step] = entry.name
        if entry.step in story.began or entry.step in story.outcomes:
            text = (
                f"{type(entry).__name__} in {kept} for step {entry.name!r} of {story}, which was"
                " asked for before"
            )
            self.findings.add(OUTCOME_ONCE, text, story.run, kept.order)
            return
        story.began[entry.step] = fact


def _outcomes_in(entry: Entry, run: bytes) -> list[bytes]:
    """Return the steps that an entry of a run is the outcome of."""
    if isinstance(entry, EventMatched):
        return [ref.step for ref in entry.waits if ref.run == run]
    if isinstance(entry, OperationsAbandoned):
        return entry.steps
    return [entry.step] if isinstance(entry, Outcome) else []


def _started(teller: Teller, kept: Kept, entry: RunStarted) -> None:
    teller.started(Fact(kept, entry))


def _matched(teller: Teller, kept: Kept, entry: EventMatched) -> None:
    fact = Fact(kept, entry)
    for ref in entry.waits:
        story = teller.of(ref.run, fact)
        if story is not None:
            teller.outcome(story, ref.step, fact)
            teller.note(story, kept, entry)
            story.received.setdefault(entry.event_id, kept.index)


def _began(teller: Teller, kept: Kept, entry: Began) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        teller.began(story, fact)
        teller.note(story, kept, entry)


def _attempted(teller: Teller, kept: Kept, entry: StepCompleted | StepFailed) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        story.names[entry.step] = entry.name
        teller.attempt(story, entry, kept)
        teller.outcome(story, entry.step, fact)
        teller.note(story, kept, entry)


def _ended_operation(
    teller: Teller,
    kept: Kept,
    entry: SleepEnded
    | TimerFired
    | WaitTimedOut
    | SignalReceived
    | SignalWaitEnded
    | InvokeCompleted
    | InvokeFailed,
) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is None or (isinstance(entry, SignalWaitEnded) and entry.reason == "replaced"):
        # A wait that another one replaced goes on to its timeout, and its code sees nothing.
        return
    teller.outcome(story, entry.step, fact)
    teller.note(story, kept, entry)


def _abandoned(teller: Teller, kept: Kept, entry: OperationsAbandoned) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        for step in entry.steps:
            teller.outcome(story, step, fact)
        teller.note(story, kept, entry)


def _failed(teller: Teller, kept: Kept, entry: StepAttemptFailed) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        teller.failed(story, fact)
        teller.note(story, kept, entry)


def _attempt_failed(teller: Teller, kept: Kept, entry: RunAttemptFailed) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        story.attempts.append(fact)
        teller.note(story, kept, entry)
        if entry.attempt != len(story.attempts):
            text = f"attempt {entry.attempt} of {story} fails in {kept}, but it is not the next"
            teller.findings.add(OUTCOME_ONCE, text, story.run, kept.order)


def _ended(teller: Teller, kept: Kept, entry: End) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        story.end = fact


def _stopped(teller: Teller, kept: Kept, entry: RunStopped | RunResumed) -> None:
    story = teller.of(entry.run, Fact(kept, entry))
    if story is not None:
        story.stopped = kept if isinstance(entry, RunStopped) else None
        teller.note(story, kept, entry)


def _noted(teller: Teller, kept: Kept, entry: AttemptStarted | VersionChosen) -> None:
    story = teller.of(entry.run, Fact(kept, entry))
    if story is not None:
        teller.note(story, kept, entry)


def _looked_back(teller: Teller, kept: Kept, entry: LookbackFinished) -> None:
    story = teller.of(entry.run, Fact(kept, entry))
    if story is not None:
        story.lookbacks[entry.step] = kept


def _passed(teller: Teller, kept: Kept, entry: RunParked | RunRestated | HistoryRestated) -> None:
    teller.of(entry.run, Fact(kept, entry))


def _rerun(teller: Teller, kept: Kept, entry: RerunStarted) -> None:
    fact = Fact(kept, entry)
    story = teller.of(entry.run, fact)
    if story is not None:
        story.rerun = fact
        teller.note(story, kept, entry)


TELLS: dict[type[Entry], Callable[[Teller, Kept, Any], None]] = {
    RunStarted: _started,
    EventMatched: _matched,
    SleepBegan: _began,
    TimerSet: _began,
    WaitBegan: _began,
    SignalWaitBegan: _began,
    InvokeBegan: _began,
    StepCompleted: _attempted,
    StepFailed: _attempted,
    SleepEnded: _ended_operation,
    TimerFired: _ended_operation,
    WaitTimedOut: _ended_operation,
    SignalReceived: _ended_operation,
    SignalWaitEnded: _ended_operation,
    InvokeCompleted: _ended_operation,
    InvokeFailed: _ended_operation,
    OperationsAbandoned: _abandoned,
    StepAttemptFailed: _failed,
    RunAttemptFailed: _attempt_failed,
    RunCompleted: _ended,
    RunFailed: _ended,
    RunCancelled: _ended,
    RunStopped: _stopped,
    RunResumed: _stopped,
    AttemptStarted: _noted,
    LookbackFinished: _looked_back,
    RunParked: _passed,
    RunRestated: _passed,
    HistoryRestated: _passed,
    RerunStarted: _rerun,
    VersionChosen: _noted,
}
"""How an entry is added to the story of the run, or the runs, that it names."""
