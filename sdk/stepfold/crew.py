"""A crew: the lives of runs on one user loop, and which of them stay in memory.

Rules:

* Everything happens on the crew's loop.
* A life that has reported that it is idle stays in memory while there is room, the one used last
  the longest. Any other life stays until it ends.
* A run that has reported its end is remembered until the engine stops or starts it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from stepfold.attempts import AttemptRunner, BodyOf, Shared, own_body
from stepfold.driver import Life
from stepfold.function import Function
from stepfold.loop import UserLoop
from stepfold.port import EnginePort, Fact, RunBrief
from stepfold.serde import OUTCOME_BYTES_MAX
from stepfold.threads import ThreadPool
from stepfold_schemas.entries import AttemptStarted, StepAttemptFailed, StepCompleted, StepFailed
from stepfold_schemas.events import Event
from stepfold_schemas.ids import ulid_text

_log = logging.getLogger("stepfold")

RETIRED_LOOK_S = 0.25
"""How often a crew whose loop was blocked looks whether it has anything left to do."""

REST_S = 1.0
"""How long a run waits before it reports by itself that it is idle."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What may be set of a worker.

    Attributes:
        idle_max: idle runs that stay in memory.
        idle_threads_max: idle runs of plain functions that stay in memory, each with a thread.
        threads_max: threads for the bodies of steps that are plain functions.
        runs_in_threads_max: runs of plain functions that are under way at the same time.
        outcome_bytes_max: the largest result of a step or a function, as JSON.
        always_replay: replay a run whenever something happens to it; for tests.
        blocked_s: a user loop that does not turn for so long is given up; 0 for never.
        body_of: says what an attempt of a step runs; for tests.
    """

    idle_max: int = 1_000
    idle_threads_max: int = 64
    threads_max: int = 64
    runs_in_threads_max: int = 1_000
    outcome_bytes_max: int = OUTCOME_BYTES_MAX
    always_replay: bool = False
    blocked_s: float = 1.0
    body_of: BodyOf = own_body


@dataclass(frozen=True, slots=True)
class Equipment:
    """What all crews of a worker share.

    Attributes:
        attempts: what runners of attempts share.
        threads: where plain functions run.
        decode_event: reads an event as entries hold it.
    """

    engine: EnginePort
    settings: WorkerSettings
    attempts: Shared
    threads: ThreadPool
    decode_event: Callable[[bytes], Event]


class Crew:
    """The lives on one loop."""

    def __init__(
        self, loop: UserLoop, equipment: Equipment, functions: Mapping[str, Function[Any]]
    ) -> None:
        self.loop, self._equipment = loop, equipment
        self.functions = functions
        self.engine = equipment.engine
        self.threads = equipment.threads
        self.outcome_bytes_max = equipment.settings.outcome_bytes_max
        self.attempts = AttemptRunner(equipment.attempts, loop, equipment.settings.body_of)
        self._settings = equipment.settings
        self._lives: dict[bytes, Life] = {}
        self._over: set[bytes] = set()
        self._resting: dict[bytes, Life] = {}
        self._resting_threads: dict[bytes, Life] = {}
        self._makes_room = False
        self._waiting: dict[Life, float] = {}
        self._histories: dict[bytes, list[Fact]] = {}
        self._again: dict[bytes, Life] = {}

    # What the engine asks.

    def start(self, brief: RunBrief, history: Sequence[Fact]) -> None:
        """Begin a run's code, replaying its history first."""
        self.drop(brief.run)
        self._over.discard(brief.run)
        self._settle(brief.run, history)
        self.attempts.offer_again(brief.run)
        if self._settings.always_replay:
            self._histories[brief.run] = list(history)
        self._begin(brief, history, None)

    def deliver(self, run: bytes, facts: Sequence[Fact]) -> None:
        """Give a run new facts."""
        self._settle(run, facts)
        life = self._lives.get(run)
        if life is None:
            if run not in self._over:
                self.engine.missing(run)
            return
        self._resting.pop(run, None)
        self._resting_threads.pop(run, None)
        if not self._settings.always_replay:
            life.receive(facts)
            if life.idle and not life.mute:
                self.rests(life)
            return
        history = self._histories[run]
        last = max(((f.seq, f.place) for f in history), default=(-1, -1))
        new = [fact for fact in facts if (fact.seq, fact.place) > last]
        history += new
        if run in self._again or not new:
            return
        if all(isinstance(fact.entry, AttemptStarted) for fact in new):
            # The code does not see these; a cautious life waits for them to begin an attempt.
            life.receive(new)
        elif life.can_be_dropped():
            self._again[run] = life
            life.close(lambda: self._begin_again(life))
        else:
            life.receive(new)

    def retry(self, run: bytes, step: bytes, attempt: int) -> None:
        """Let the next attempt of a step begin."""
        life = self._lives.get(run)
        if life is None or not step:
            # Without a step it is the run's own code: a new life is needed.
            self.drop(run)
            self._over.discard(run)
            self.engine.missing(run)
        else:
            life.retry(step, attempt)

    def stop(self, run: bytes) -> None:
        """Drop a run and cancel its attempts."""
        self.drop(run)
        self._over.discard(run)
        self.attempts.stop(run)

    def _settle(self, run: bytes, facts: Sequence[Fact]) -> None:
        """Forget attempts whose outcomes have come back."""
        for fact in facts:
            entry = fact.entry
            if isinstance(entry, StepCompleted | StepFailed | StepAttemptFailed):
                self.attempts.settled(run, entry.step, entry.attempt)

    def _begin(
        self,
        brief: RunBrief,
        history: Sequence[Fact],
        repeated: int | None,
        answers: Sequence[tuple[str, bool]] = (),
    ) -> None:
        function = self.functions.get(brief.function)
        if function is None:
            run = ulid_text(brief.run)
            _log.error("run %s waits: this process has no function %s", run, brief.function)
            return
        life = Life(self, function, brief, self._ended)
        self._lives[brief.run] = life
        life.start(history, repeated=repeated, answers=answers)

    def _begin_again(self, old: Life) -> None:
        """Replay a run that was dropped only for that."""
        run = old.run
        if self._again.get(run) is not old:
            return
        del self._again[run]
        brief = replace(old.brief, retries_due=old.due)
        answers = [(name, old.replay.versions[name]) for name in sorted(old.replay.unrecorded)]
        self._begin(brief, self._histories[run], old.replay.given, answers)

    def drop(self, run: bytes) -> None:
        """Drop a run's code. Its attempts go on."""
        self._again.pop(run, None)
        self._histories.pop(run, None)
        self._resting.pop(run, None)
        self._resting_threads.pop(run, None)
        life = self._lives.pop(run, None)
        if life is not None:
            self._waiting.pop(life, None)
            life.close()

    # What lives say.

    def decode_event(self, data: bytes) -> Event:
        """Read an event as entries hold it."""
        return self._equipment.decode_event(data)

    def _ended(self, life: Life) -> None:
        if self._lives.get(life.run) is life:
            del self._lives[life.run]
            self._over.add(life.run)
            self._waiting.pop(life, None)
            self._histories.pop(life.run, None)

    def may_rest(self, life: Life) -> None:
        """Ask a life after a while whether it is idle."""
        if life not in self._waiting:
            self._waiting[life] = self.loop.real_time() + REST_S
            if len(self._waiting) == 1:
                self.loop.call_later(REST_S, self._look_around)

    def _look_around(self) -> None:
        """See which lives are idle. One timer serves them all."""
        now_s = self.loop.real_time()
        while self._waiting:
            life, due_s = next(iter(self._waiting.items()))
            if due_s > now_s:
                self.loop.call_later(due_s - now_s, self._look_around)
                return
            del self._waiting[life]
            life.rest()

    def rests(self, life: Life) -> None:
        """Keep an idle life while there is room."""
        if life.has_thread:
            resting, limit = self._resting_threads, self._settings.idle_threads_max
        else:
            resting, limit = self._resting, self._settings.idle_max
        resting[life.run] = life
        if len(resting) > limit and not self._makes_room:
            # Not within the turn of the life that may be the one to go.
            self._makes_room = True
            self.loop.call_soon(self._make_room)

    def _make_room(self) -> None:
        """Drop the lives that have rested longest; once a turn, in which thousands may come."""
        self._makes_room = False
        self._shorten(self._resting, self._settings.idle_max)
        self._shorten(self._resting_threads, self._settings.idle_threads_max)

    def _shorten(self, resting: dict[bytes, Life], limit: int) -> None:
        for run, life in list(islice(resting.items(), max(0, len(resting) - limit))):
            # What it just asked for comes back as facts, which would only wake it again.
            if life.is_recorded() and life.can_be_dropped():
                self.drop(run)

    # All together.

    def drop_all(self) -> list[bytes]:
        """Drop all lives; return whose they were. Attempts go on."""
        runs = list(self._lives)
        for run in runs:
            self.drop(run)
        return runs

    # When user code blocks the loop.

    def hush(self, kept: bytes) -> list[bytes]:
        """Let no life but that of the run ``kept`` do anything any more; return whose they were.

        Called from another thread, while the loop is blocked.
        """
        hushed = [life for run, life in list(self._lives.items()) if run != kept]
        for life in hushed:
            life.mute = True
        return [life.run for life in hushed]

    def retire(self, kept: bytes) -> None:
        """Drop all lives but one, and stop the loop when nothing is left to do on it."""
        for run in list(self._lives):
            if run != kept:
                self.drop(run)
        # What was cancelled has its turn first.
        self.loop.call_later(RETIRED_LOOK_S, self._leave_when_done)

    def _leave_when_done(self) -> None:
        if self._lives or any(attempt.loop is self.loop for attempt in self.attempts.running()):
            self.loop.call_later(RETIRED_LOOK_S, self._leave_when_done)
        else:
            self.loop.stop()
