"""The replay machine: which outcome a run's code gets next, and which of its asks are new.

Pure: facts and asks go in, the next delivery or a divergence comes out. It knows nothing of event
loops, clocks or threads.

Rules:

* Outcomes are given out one at a time, in the order of the journal, to code that asked for them.
* An ask that the journal holds already is not new. A new one is held until all recorded outcomes
  have been given out.
* An outcome of something that the code has cancelled meanwhile is passed over.
* Code that asks for something other than the journal holds has diverged.
* When the function's own code failed and is tried again, it may take another path than before (it
  can see which attempt it is, and may have been repaired): outcomes that it does not ask for are
  then left alone, and what the failed attempt had cancelled gets a new identity when asked again.
* Whether code is on the new side of a change is decided once: it is, unless the journal holds what
  the code has not asked for, which older code did beyond this point.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from stepfold.port import Fact
from stepfold_schemas import strict
from stepfold_schemas.entries import (
    AttemptStarted,
    Entry,
    EventMatched,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    OperationsAbandoned,
    RunAttemptFailed,
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
from stepfold_schemas.ids import step_key

STEP, SLEEP, TIMER, WAIT, SIGNAL, INVOKE = "step", "sleep", "timer", "wait", "signal", "invoke"
ANY = ""
"""The kind of an outcome that may belong to any operation: one that was refused as it began."""

STEP_ID_CHARS_MAX = 255
"""The longest id of a step; it is kept with every fact about the step."""

TIMER_ID = "asyncio.timer"
"""The id under which asyncio's timers are counted; they are shown as ``timer``, ``timer:1``."""

_OUTCOMES: dict[type[Entry], str] = {
    StepCompleted: STEP,
    StepFailed: ANY,
    SleepEnded: SLEEP,
    TimerFired: TIMER,
    EventMatched: WAIT,
    WaitTimedOut: WAIT,
    SignalReceived: SIGNAL,
    SignalWaitEnded: SIGNAL,
    InvokeCompleted: INVOKE,
    InvokeFailed: INVOKE,
}
_BEGINNINGS: dict[type[Entry], str] = {
    SleepBegan: SLEEP,
    TimerSet: TIMER,
    WaitBegan: WAIT,
    SignalWaitBegan: SIGNAL,
    InvokeBegan: INVOKE,
}


def is_outcome(entry: Entry) -> bool:
    """Say whether an entry ends a step or an operation."""
    return type(entry) in _OUTCOMES


class Ask:
    """A step or operation that the run's code asked for. Whoever runs the code derives from it.

    Attributes:
        key: its identity in the journal.
        name: its id as the author wrote it, with ``:1``, ``:2`` for repeats.
        recorded: the journal holds it, though perhaps not yet its outcome.
        cancelled: the code no longer awaits it.
        delivered: its outcome was given out.
        disowned: the journal says that the code no longer awaits it, but so far it does.
    """

    __slots__ = ("cancelled", "delivered", "disowned", "key", "kind", "name", "recorded")

    def __init__(self, kind: str, name: str, key: bytes) -> None:
        self.kind, self.name, self.key = kind, name, key
        self.recorded = self.cancelled = self.delivered = self.disowned = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the journal holds of a step or operation that the code has not asked for."""

    kind: str
    name: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A recorded outcome that was not given out yet."""

    key: bytes
    at_ms: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Divergence:
    """The code and the journal disagree.

    Attributes:
        problem: one sentence that says how.
        expected: what the journal holds next, or None if it is the code that goes too far.
        met: what the code asks for instead.
    """

    problem: str
    expected: Recorded | None
    met: Sequence[Ask]


class DivergedError(Exception):
    """Raised out of ``Replay.ask``: this ask contradicts the journal."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence.problem)
        self.divergence = divergence


class Replay:
    """The journal of one run as its code meets it.

    Attributes:
        run: the run's id.
        asked: what the code asked for and has no outcome yet, by key, in the order of asking.
        failures: the number of the last failed attempt of each step that is to be tried again.
        given: how many outcomes were given out.
        versions: by a change's name, whether the code is on its new side.
        unrecorded: names of changes of which the journal does not say it yet.
        now_ms: when the last outcome that was given out was recorded.
    """

    def __init__(self, run: bytes, started_ms: int, *, attempt: int = 1) -> None:
        self.run, self.now_ms = run, started_ms
        self.asked: dict[bytes, Ask] = {}
        self.failures: dict[bytes, int] = {}
        self.given = 0
        self.versions: dict[str, bool] = {}
        self.unrecorded: set[str] = set()
        self._lenient = attempt > 1
        self._counts: dict[str, int] = {}
        self._used: set[bytes] = set()
        self._new: list[Ask] = []
        self._outcomes: deque[Outcome] = deque()
        self._recorded: dict[bytes, Recorded] = {}
        self._closed: set[bytes] = set()
        self._abandoned: set[bytes] = set()
        self._stale: set[bytes] = set()
        self._disowned = 0
        self._last = (-1, -1)

    # The journal.

    def load(self, history: Iterable[Fact]) -> int:
        """Take a whole history; return how many outcomes it holds."""
        before = len(self._outcomes)
        last = self._last
        for fact in history:
            last = max(last, (fact.seq, fact.place))
            self._take(fact)
        self._last = last
        return len(self._outcomes) - before

    def add(self, fact: Fact) -> bool:
        """Take a new fact; return False if it was seen before."""
        place = (fact.seq, fact.place)
        if place <= self._last:
            return False
        self._last = place
        self._take(fact)
        return True

    def _take(self, fact: Fact) -> None:
        entry = fact.entry
        kind = _OUTCOMES.get(type(entry))
        if kind is not None:
            self._take_outcome(fact, kind)
            return
        kind = _BEGINNINGS.get(type(entry))
        if kind is not None:
            begun = cast("SleepBegan", entry)  # all classes of the table have these attributes
            self._take_beginning(begun.step, kind, begun.name, fact.at_ms)
            return
        match entry:
            case StepAttemptFailed():
                self.failures[entry.step] = entry.attempt
                self._take_beginning(entry.step, STEP, entry.name, fact.at_ms)
            case AttemptStarted() if entry.step:
                self._take_beginning(entry.step, STEP, entry.name, fact.at_ms)
            case OperationsAbandoned():
                for key in entry.steps:
                    self._take_abandoned(key)
            case RunAttemptFailed():
                self._stale |= self._abandoned
                self._lenient = True
            case VersionChosen():
                self.versions.setdefault(entry.name, entry.chosen)
                self.unrecorded.discard(entry.name)
            case _:
                pass

    def _take_outcome(self, fact: Fact, kind: str) -> None:
        entry = fact.entry
        if isinstance(entry, EventMatched):
            for ref in entry.waits:
                if ref.run == self.run:
                    self._queue(ref.step, kind, "", fact)
        elif not (isinstance(entry, SignalWaitEnded) and entry.reason == "replaced"):
            ended = cast("SleepEnded", entry)  # all classes of the table have a step
            self._queue(ended.step, kind, getattr(entry, "name", ""), fact)

    def _queue(self, key: bytes, kind: str, name: str, fact: Fact) -> None:
        if key in self._closed:
            return
        self._closed.add(key)
        self._outcomes.append(Outcome(key, fact.at_ms, fact.entry))
        if key not in self.asked and key not in self._recorded:
            self._recorded[key] = Recorded(kind, name, fact.at_ms)

    def _take_beginning(self, key: bytes, kind: str, name: str, at_ms: int) -> None:
        ask = self.asked.get(key)
        if ask is not None:
            ask.recorded = True
        elif key not in self._closed:
            self._recorded.setdefault(key, Recorded(kind, name, at_ms))

    def _take_abandoned(self, key: bytes) -> None:
        if key in self._closed:
            return
        self._closed.add(key)
        self._abandoned.add(key)
        self._recorded.pop(key, None)
        ask = self.asked.get(key)
        if ask is None:
            return
        if ask.cancelled:
            del self.asked[key]
        else:
            ask.disowned = True
            self._disowned += 1

    @property
    def seen(self) -> int:
        """The seq of the last fact that was taken."""
        return self._last[0]

    # The code.

    def name(self, id: str) -> tuple[str, bytes]:  # noqa: A002 - the author's word
        """Count a use of an id; return the name and the key of this use.

        An id such as ``a:1`` may be what the second use of ``a`` was, or will be, called: a use
        whose name is taken has the next number.

        Raises:
            ValueError: the id is too long, or is not Unicode text.
        """
        count = self._counts.get(id, 0)
        if not count:
            strict.check_text("a step's id", id, STEP_ID_CHARS_MAX)
        key = step_key(id, count)
        while key in self._used:
            count += 1
            key = step_key(id, count)
        self._counts[id] = count + 1
        if self._stale:
            again = 2
            while key in self._stale or key in self._used:
                key = step_key(f"{id}:{count}~{again}")
                again += 1
        self._used.add(key)
        shown = "timer" if id == TIMER_ID else id
        return (f"{shown}:{count}" if count else shown), key

    def choose(self, name: str) -> bool:
        """Decide on which side of a change the code is, which the journal does not say yet.

        What code asks for in one turn, and later, is recorded behind the answer. So a journal with
        something that the code has not asked for, and without an answer, is one of older code that
        went beyond this point. Not so what an attempt that failed had cancelled: the next one asks
        for it under a new identity.
        """
        passed = bool(self._recorded) or not self._abandoned - self._stale <= self._used
        self.answer(name, not passed)
        return not passed

    def answer(self, name: str, chosen: bool) -> None:
        """Keep to a side of a change; the journal will say so."""
        self.versions[name] = chosen
        self.unrecorded.add(name)

    def ask(self, ask: Ask) -> None:
        """Note what the code asks for.

        Raises:
            DivergedError: the journal holds something of another kind in its place.
        """
        recorded = self._recorded.pop(ask.key, None)
        self.asked[ask.key] = ask
        if recorded is not None:
            ask.recorded = True
            if recorded.kind not in (ANY, ask.kind):
                problem = (
                    f"the code asks for a {ask.kind} where the journal holds a {recorded.kind}"
                )
                raise DivergedError(Divergence(problem, recorded, [ask]))
            if recorded.kind == STEP and ask.key not in self._closed:
                self._new.append(ask)
        elif ask.key in self._abandoned:
            ask.disowned = True
            self._disowned += 1
        elif ask.key not in self._closed:
            self._new.append(ask)

    def cancel(self, ask: Ask) -> None:
        """Note that the code no longer awaits this."""
        ask.cancelled = True
        if ask.disowned:
            self._disowned -= 1
            self.asked.pop(ask.key, None)

    def forget(self, ask: Ask) -> None:
        """Drop a cancelled ask of which the journal will never hear."""
        if ask.key not in self._closed:
            self.asked.pop(ask.key, None)

    def is_settled(self, ask: Ask) -> bool:
        """Say whether the journal holds the ask's outcome, or that it was abandoned."""
        return ask.key in self._closed

    # What follows.

    def next(self) -> tuple[Ask, Outcome] | None:
        """Return the next outcome and what asked for it, or None if the code must go on first."""
        outcomes, asked = self._outcomes, self.asked
        while outcomes:
            outcome = outcomes[0]
            ask = asked.pop(outcome.key, None)
            if ask is not None:
                outcomes.popleft()
            elif self._lenient:
                found = self._first_asked()
                if found is None:
                    return None
                ask, outcome = found
            else:
                return None
            self.given += 1
            if not ask.cancelled:
                ask.delivered = True
                self.now_ms = outcome.at_ms
                return ask, outcome
        return None

    def _first_asked(self) -> tuple[Ask, Outcome] | None:
        for index, outcome in enumerate(self._outcomes):
            ask = self.asked.pop(outcome.key, None)
            if ask is not None:
                del self._outcomes[index]
                return ask, outcome
        return None

    def take_new(self) -> list[Ask]:
        """Return what the code asked for that the journal does not hold, in order, once.

        Steps are among them until they have an outcome, which may come after the code asked. To be
        called when ``next`` returned None; while outcomes wait for code under way, nothing is new.
        """
        if not self._new or (self._outcomes and not self._lenient):
            return []
        new, self._new = self._new, []
        return [ask for ask in new if not (ask.cancelled or ask.delivered)]

    @property
    def doubtful(self) -> bool:
        """Whether code that can go no further by itself would have diverged."""
        return bool(self._disowned or ((self._outcomes or self._recorded) and not self._lenient))

    def stuck(self) -> Divergence | None:
        """Judge code that can go no further by itself, when ``next`` returned None."""
        met = [ask for ask in self.asked.values() if not ask.cancelled]
        if not self._lenient and self._outcomes:
            expected = self._recorded[self._outcomes[0].key]
            problem = "the journal goes on with something that the code does not ask for"
            return Divergence(problem, expected, met)
        if not self._lenient and self._recorded:
            expected = next(iter(self._recorded.values()))
            problem = "the journal holds an operation that the code does not ask for"
            return Divergence(problem, expected, met)
        if self._disowned:
            problem = "the code awaits what, by the journal, it has cancelled"
            return Divergence(problem, None, [ask for ask in met if ask.disowned])
        return None

    def ended(self) -> Divergence | None:
        """Judge code that has come to its end."""
        if self._lenient or not self._recorded:
            return None
        problem = "the function ended, but the journal goes on"
        return Divergence(problem, next(iter(self._recorded.values())), [])
