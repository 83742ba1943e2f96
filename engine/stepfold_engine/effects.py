"""Effects: what a confirmed decision makes happen, for all partitions of this process."""

import logging
from collections.abc import Callable
from typing import Protocol

from stepfold.port import Fact
from stepfold_engine.answers import Answers
from stepfold_engine.core.decide.timers import Retry
from stepfold_engine.core.ending import ENDS
from stepfold_engine.core.inputs import LookbackEnded
from stepfold_engine.facts import facts_of
from stepfold_engine.native import Native
from stepfold_engine.owner import Owner
from stepfold_engine.senders import Sender
from stepfold_schemas.entries import (
    Decision,
    Entry,
    HistoryRestated,
    MessageQueued,
    RequestAnswered,
    RunAttemptFailed,
    RunResumed,
    RunStarted,
    RunStopped,
    SuspectsCleared,
    SuspectsResumed,
    WaitBegan,
)
from stepfold_schemas.ids import key_of

_log = logging.getLogger("stepfold")


class Lookbacks(Protocol):
    """Searches of the log that waits and cancellations ask for."""

    def for_wait(self, owner: Owner, entry: WaitBegan) -> None:
        """Search the log for an event that this wait may have missed."""
        ...

    def search_on(self, owner: Owner, ended: LookbackEnded) -> None:
        """Go on with a search up to what was read meanwhile."""
        ...


class Watcher(Protocol):
    """Somebody who wants to know of every confirmed decision (the dev log, the history index)."""

    def confirmed(self, owner: Owner, decision: Decision) -> None:
        """See a decision."""
        ...


class ProcessEffects:
    """Performs what owners' decisions ask for (``owner.Effects``)."""

    def __init__(self, native: Native, lookbacks: Lookbacks, answers: Answers) -> None:
        self.native, self._lookbacks, self._answers = native, lookbacks, answers
        self.senders: dict[tuple[int, int], Sender] = {}
        self.watchers: list[Watcher] = []
        self.trial_ended: Callable[[Owner], None] = lambda _: None

    def leave(self, partition: int) -> None:
        """Send nothing more of a partition that was lost."""
        for which in [which for which in self.senders if which[0] == partition]:
            del self.senders[which]

    def search_on(self, owner: Owner, ended: LookbackEnded) -> None:
        """Search the log from where a look-back ended up to what was read meanwhile."""
        self._lookbacks.search_on(owner, ended)

    def is_live(self, run: bytes) -> bool:
        """Say whether a run's code was given to the worker."""
        return self.native.is_live(run)

    def retry(self, owner: Owner, retry: Retry) -> None:
        """Let the next attempt of a step, or of a run's own code, begin."""
        if retry.step:
            self.native.retry(owner, retry.run, retry.step, retry.attempt)
        else:
            self.native.wake(owner, retry.run)

    def decided(self, owner: Owner, decision: Decision) -> None:
        """Act on a confirmed decision."""
        for watcher in self.watchers:
            watcher.confirmed(owner, decision)
        # A copied history is no news: its run has it, or reads it when it is woken.
        copied = {entry.run for entry in decision.entries if isinstance(entry, HistoryRestated)}
        facts: dict[bytes, list[Fact]] = {}
        for run, fact in facts_of(decision):
            if run not in copied:
                facts.setdefault(run, []).append(fact)
        for entry in decision.entries:
            self._of_partition(owner, entry)
        for run, some in facts.items():
            self._of_run(owner, run, some)

    def _of_partition(self, owner: Owner, entry: Entry) -> None:
        match entry:
            case MessageQueued(destination=destination, number=number):
                sender = self.senders.get((owner.state.number, destination))
                if sender is not None:
                    sender.confirm(number)
            case RequestAnswered():
                self._answers.arrived(entry)
            case WaitBegan(since_ms=since_ms) if since_ms:
                self._lookbacks.for_wait(owner, entry)
            case SuspectsResumed(runs=runs):
                for run in runs:
                    self.native.wake(owner, run)
            case SuspectsCleared():
                self.trial_ended(owner)
            case _:
                pass

    def _of_run(self, owner: Owner, run: bytes, facts: list[Fact]) -> None:
        last = facts[-1].entry
        first = facts[0].entry
        if any(isinstance(fact.entry, ENDS) for fact in facts):
            self.native.stop(run)
        elif isinstance(first, RunStarted):
            self._start(owner, first, facts)
        elif isinstance(last, RunStopped):
            self.native.stop(run)
        elif isinstance(last, RunAttemptFailed):
            # Its code has ended; the next attempt begins with a timer, which may have fired before
            # this was confirmed.
            self.native.forget(run)
            self.native.wake(owner, run)
        elif isinstance(last, RunResumed):
            self.native.wake(owner, run)
        else:
            self.native.deliver(owner, run, facts)
        if owner.trial_open and key_of(run) not in owner.state.trials.suspects:
            self.trial_ended(owner)

    def _start(self, owner: Owner, entry: RunStarted, facts: list[Fact]) -> None:
        run = owner.state.runs.get(key_of(entry.run))
        if run is None or entry.due_ms:
            return
        self.native.start(owner, run, facts)


def pending(owner: Owner) -> list[bytes]:
    """Return the runs that go on by themselves after a recovery: not parked, not waiting."""
    now_ms = owner.now_ms()
    found: list[bytes] = []
    for key in owner.state.runs.active_keys():
        run = owner.state.runs.get(key)
        if run is not None and run.waits_until_ms <= now_ms:
            found.append(run.id)
    return found
