"""Makes random plans of a seed. Pure: the same arguments give the same plan everywhere.

Rules:

* Functions only start functions with a higher index (by invoking them, or by an event), so that
  no plan goes on for ever.
* Everything that waits has a timeout, everything that repeats a bound.
* Nothing depends on the order of a set, or on a hash.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from tests.simulation.changes import with_versions
from tests.simulation.rerunning import with_reruns
from tests.simulation.statements import (
    Body,
    Choose,
    Draw,
    Failure,
    Finally,
    FunctionPlan,
    Invoke,
    Locked,
    OnRetry,
    Parallel,
    Pause,
    Plan,
    Race,
    Raise,
    Repeat,
    SendEvent,
    SendSignal,
    Sleep,
    SleepUntil,
    Statement,
    Step,
    Try,
    WaitEvent,
    WaitSignal,
    While,
    Within,
    walk,
)
from tests.simulation.stimuli import SHARED_SIGNAL, WAITED, stimuli_for
from tests.simulation.timing import with_timing

T = TypeVar("T")

OPERATIONS_MAX = 7
DEPTH_MAX = 3
POISON = 99
"""A body that kills its process so often is meant to be found by the engine."""


def plan_of(seed: int, *, size: int = 3) -> Plan:
    """Make the plan of a seed: up to ``size`` functions, and about three triggers for each."""
    chance = random.Random(f"plan/{seed}/{size}")
    duration_s = float(chance.choice((30, 60, 90, 120)))
    count = max(1, chance.choice((size, size, size - 1, 1)))
    functions = _functions(chance, count)
    stimuli = stimuli_for(chance, functions, size, duration_s)
    plan = Plan(seed, functions, stimuli, duration_s)
    plan = with_timing(random.Random(f"timing/{seed}/{size}"), plan)
    plan = with_versions(random.Random(f"versions/{seed}/{size}"), plan)
    return with_reruns(random.Random(f"reruns/{seed}/{size}"), plan)


def _functions(chance: random.Random, count: int) -> tuple[FunctionPlan, ...]:
    triggers = [_triggers(chance, index, count) for index in range(count)]
    made: list[FunctionPlan] = []
    for index in range(count):
        writer = _Writer(chance, index, count, _sendable(triggers, index))
        made.append(_with_options(chance, writer, triggers[index]))
    invoked = {s.function for f in made for s in walk(f.body) if isinstance(s, Invoke)}
    # What nobody invokes is started by an event after all.
    return tuple(f if f.on or f.id in invoked else replace(f, on=(f"go/{f.id}",)) for f in made)


def _triggers(chance: random.Random, index: int, count: int) -> tuple[str, ...]:
    names = [f"go/f{index}"]
    if chance.random() < 0.15:
        names.append(f"go/f{max(0, index - 1)}")
    if chance.random() < 0.12:
        names.append(chance.choice(WAITED))
    if index == count - 1 and count > 1:
        if chance.random() < 0.2:
            # It is only invoked.
            return ()
        if chance.random() < 0.15:
            names.append("go/*")
    return tuple(dict.fromkeys(names))


def _sendable(triggers: Sequence[tuple[str, ...]], index: int) -> list[str]:
    """Return the events that a function may send: those that start none up to itself."""
    names = [*WAITED, *(f"go/f{other}" for other in range(index + 1, len(triggers)))]

    def starts(name: str, on: tuple[str, ...]) -> bool:
        return name in on or (name.startswith("go/") and "go/*" in on)

    return [n for n in names if not any(starts(n, on) for on in triggers[: index + 1])]


def _with_options(
    chance: random.Random, writer: "_Writer", triggers: tuple[str, ...]
) -> FunctionPlan:
    one_in = _dice(chance)
    body = writer.body(chance.randint(2, OPERATIONS_MAX))
    if one_in(0.06):
        body = (*body, Raise(99, "final" if one_in(0.5) else "error"))
    elif one_in(0.12):
        at = chance.randint(0, len(body))
        raises = Raise(chance.randint(1, 2), "later" if one_in(0.3) else "error")
        body = (*body[:at], raises, *body[at:])
        if one_in(0.4):
            body = (*body, OnRetry((writer.step(),)))
    plan = FunctionPlan(
        f"f{writer.index}",
        body,
        on=triggers,
        retries=chance.choice((0, 1, 2, 2)),
        delay_s=chance.choice((0.2, 1.0, 3.0)),
    )
    if triggers and one_in(0.12):
        plan = replace(plan, if_=chance.choice(("event.data.n > 2", "event.data.k != 1")))
    if one_in(0.15):
        timeout_s = chance.choice((0.0, 0.0, 20.0))
        plan = replace(
            plan, cancel_on="stop/x", cancel_match=one_in(0.7), cancel_timeout_s=timeout_s
        )
    if triggers and one_in(0.12):
        plan = replace(plan, idempotency=chance.choice(("data.k", "event.data.n")))
    if one_in(0.08):
        plan = replace(plan, start_timeout_s=chance.choice((2.0, 10.0)))
    if one_in(0.12):
        plan = replace(plan, finish_timeout_s=chance.choice((1.5, 8.0, 25.0)))
    if one_in(0.1):
        plan = replace(plan, version=f"v{chance.randint(1, 3)}")
    if one_in(0.3):
        plan = replace(plan, failure=tuple(writer.step() for _ in range(chance.randint(1, 2))))
    return plan


def _dice(chance: random.Random) -> Callable[[float], bool]:
    return lambda probability: chance.random() < probability


@dataclass
class _Writer:
    """Writes the program of one function.

    Attributes:
        chance: the source of all choices.
        index: the function's.
        count: how many functions there are.
        sendable: events that it may send.
        ids: those used so far.
        kills: how often a body kills its process.
        locked: what is written now lies under the lock, which nobody can take twice.
    """

    chance: random.Random
    index: int
    count: int
    sendable: list[str]
    ids: list[str] = field(default_factory=list[str])
    kills: int = 0
    locked: bool = False

    def body(self, operations: int, depth: int = 0, *, tame: bool = False) -> Body:
        """Write about so many operations.

        Args:
            operations: how many.
            depth: how deep the body lies.
            tame: nothing in it may fail by plan.
        """
        found: list[Statement] = []
        while operations > 0:
            compound = depth < DEPTH_MAX and operations >= 2 and self.chance.random() < 0.38
            share = self.chance.randint(2, max(2, operations)) if compound else 1
            make = self._compound if compound else self._plain
            found.append(make(share, depth, tame=tame))
            operations -= share
        return tuple(found)

    # One operation.

    def _plain(self, share: int, depth: int, *, tame: bool) -> Statement:
        kinds: list[tuple[Callable[[], Statement], int]] = [
            (self.step if not tame else self.good_step, 40),
            (self._sleep, 14),
            (self._sleep_until, 5),
            (lambda: Pause(self._seconds(0.05, 12)), 6),
            (self._wait_event, 16),
            (self._wait_signal if not tame else self._wait_own_signal, 9),
            (self._send_event, 9 if self.sendable else 0),
            (self._send_signal, 5),
            (self._invoke, 9 if self.index + 1 < self.count and not tame else 0),
            (Draw, 4),
        ]
        return self._one_of(kinds)()

    def step(self) -> Step:
        """Write a step, which may fail."""
        chance, step = self.chance, self.good_step()
        dice = chance.random()
        if dice < 0.2:
            how: Failure = chance.choice(("error", "error", "error", "final", "later", "slow"))
            step = replace(step, fails=chance.choice((1, 1, 1, 2, 3, 99)), how=how)
            if how == "slow":
                step = replace(step, takes_s=0.0, timeout_s=self._seconds(0.2, 3))
        elif dice < 0.26:
            step = replace(step, flaky=chance.choice((0.3, 0.6)))
        elif dice < 0.28 and not self.kills:
            self.kills = chance.choice((1, 1, 1, 1, 1, 2, POISON))
            step = replace(step, kills=self.kills)
        if chance.random() < 0.3:
            step = replace(step, retries=chance.choice((0, 1, 2, 3)))
        return step

    def good_step(self) -> Step:
        """Write a step that does not fail by plan."""
        chance, step = self.chance, Step(self._id("fetch", "charge", "pack", "ship"))
        if chance.random() < 0.35:
            step = replace(step, takes_s=self._seconds(0.01, 6))
        if chance.random() < 0.05:
            step = replace(step, blocks_s=self._seconds(0.2, 4))
        if chance.random() < 0.08:
            step = replace(step, pad=chance.choice((100, 3_000)))
        return step

    def _sleep(self) -> Sleep:
        return Sleep(self._id("nap", "rest"), self._seconds(0.01, 40))

    def _sleep_until(self) -> SleepUntil:
        seconds = self.chance.choice((-3.0, 0.0, self._seconds(0.01, 30)))
        return SleepUntil(self._id("until"), seconds)

    def _wait_event(self) -> WaitEvent:
        chance = self.chance
        event = chance.choice((*WAITED, *WAITED, "ev/*", "ev/never"))
        wait = WaitEvent(self._id("reply", "paid"), event, self._seconds(0.5, 40))
        match chance.choice(("match", "match", "if", "both", "none")):
            case "match":
                wait = replace(wait, match="data.k")
            case "if":
                wait = replace(wait, if_=chance.choice(_CONDITIONS))
            case "both":
                wait = replace(wait, match="data.k", if_="async.data.n > 4")
            case _:
                pass
        dice = chance.random()
        if dice < 0.25:
            wait = replace(wait, since="run")
        elif dice < 0.35:
            wait = replace(wait, since="back", back_s=self._seconds(1, 30))
        return wait

    def _wait_signal(self) -> WaitSignal:
        signal = self.chance.choice((SHARED_SIGNAL, "own", "k", "k"))
        wait = WaitSignal(self._id("approve"), signal, self._seconds(0.5, 30))
        return replace(wait, on_conflict="replace") if self.chance.random() < 0.3 else wait

    def _wait_own_signal(self) -> WaitSignal:
        return WaitSignal(self._id("approve"), "own", self._seconds(0.5, 30), "replace")

    def _send_event(self) -> SendEvent:
        chance = self.chance
        starting = [name for name in self.sendable if name.startswith("go/")]
        event = chance.choice(starting if starting and chance.random() < 0.5 else self.sendable)
        sent = SendEvent(self._id("tell"), event, count=chance.choice((1, 1, 2)))
        if chance.random() < 0.3:
            sent = replace(sent, own_ids=True)
        if event.startswith("go/") and chance.random() < 0.5:
            sent = replace(sent, delay_s=self._seconds(0.5, 20))
        return sent

    def _send_signal(self) -> SendSignal:
        signal = self.chance.choice(("reply", "reply", "own", "k", SHARED_SIGNAL))
        return SendSignal(self._id("nudge"), signal)

    def _invoke(self) -> Invoke:
        other = self.chance.randrange(self.index + 1, self.count)
        invoke = Invoke(self._id("call"), f"f{other}")
        if self.chance.random() < 0.3:
            invoke = replace(invoke, timeout_s=self._seconds(0.5, 20))
        return invoke

    # Several operations.

    def _compound(self, share: int, depth: int, *, tame: bool) -> Statement:
        half = max(1, share // 2)

        def body(count: int) -> Body:
            return self.body(count, depth + 1, tame=tame)

        def attempt() -> Try:
            handler = self.body(1, depth + 1, tame=True)
            return Try(self.body(share - 1, depth + 1), handler)

        kinds: list[tuple[Callable[[], Statement], int]] = [
            (lambda: self._parallel(share, depth, tame=tame), 22),
            (lambda: self._race(share, depth), 14),
            (lambda: self._within(share, depth), 12),
            (lambda: Repeat(self.chance.randint(2, 3), body(half)), 10),
            (lambda: While(self.chance.randint(2, 6), 4, body(half)), 7),
            (lambda: Choose(body(half), body(share - 1)), 8),
            (attempt, 18),
            (lambda: Finally(body(share - 1), (self.good_step(),)), 7),
            (lambda: self._locked(share, depth, tame=tame), 0 if self.locked or not depth else 5),
        ]
        return self._one_of(kinds)()

    def _parallel(self, share: int, depth: int, *, tame: bool) -> Parallel:
        chance = self.chance
        # A group cancels its tasks in the order of a set, which differs from process to process.
        # With two branches, and nothing around it that cancels both, it has no choice.
        how: Literal["gather", "group"] = "gather"
        if depth == 0 and chance.random() < 0.4:
            how = "group"
        count = 2 if how == "group" else chance.choice((2, 2, 3))
        tame = tame or chance.random() < 0.5
        each = max(1, share // count)
        branches = tuple(self.body(each, depth + 1, tame=tame) for _ in range(count))
        if not self.locked and chance.random() < 0.15:
            branches = tuple((*b, self._locked(1, depth + 1, tame=True)) for b in branches)
        return Parallel(how, branches)

    def _race(self, share: int, depth: int) -> Race:
        count = self.chance.choice((2, 2, 3))
        each = max(1, share // count)
        branches = tuple(self.body(each, depth + 1) for _ in range(count))
        if self.chance.random() < 0.15:
            branches = (*branches[:-1], (Finally(branches[-1], (self.good_step(),)),))
        return Race(branches, settle=self.chance.random() < 0.5)

    def _within(self, share: int, depth: int) -> Within:
        body = self.body(share - 1, depth + 1)
        how: Literal["timeout", "wait_for"] = "timeout"
        if self.chance.random() < 0.35:
            how = "wait_for"
        return Within(how, self._seconds(0.1, 15), body)

    def _locked(self, share: int, depth: int, *, tame: bool) -> Locked:
        self.locked = True
        body = self.body(share, depth + 1, tame=tame)
        self.locked = False
        return Locked(body)

    # Choices.

    def _one_of(self, kinds: Sequence[tuple[T, int]]) -> T:
        return self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]

    def _id(self, *names: str) -> str:
        if self.ids and self.chance.random() < 0.15:
            return self.chance.choice(self.ids)
        # Numbered, so that reports tell operations apart; repeats come from loops and from above.
        self.ids.append(f"{self.chance.choice(names)}{len(self.ids)}")
        return self.ids[-1]

    def _seconds(self, least: float, most: float) -> float:
        """Return a time; short ones are as likely as long ones."""
        chance = self.chance
        return round(least * (most / least) ** chance.random(), 3)


_CONDITIONS = (
    "event.data.k == async.data.k && async.data.n > 3",
    "async.data.n == event.data.n || async.data.k == event.data.k",
    "async.data.n >= 5",
    "async.data.k == 1 && async.data.n < 8",
)
