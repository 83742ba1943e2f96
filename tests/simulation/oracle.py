"""Works out what a run must do, from the outcomes in its journal alone.

An evaluation of the program that shares nothing with the SDK or with asyncio: programs are
generators, outcomes are given to them in the order of the journal (``turns``).

Names: an outcome is known by the journal's ``name`` of its operation, see ``interpreter``. After
the function's own code failed and was tried again, what the failed attempt had cancelled is asked
for under another key, but under the same name.
"""

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from stepfold_schemas.ids import parse_ulid
from tests.simulation.account import Account
from tests.simulation.bodies import value_of
from tests.simulation.interpreter import TIMER
from tests.simulation.outcomes import Outcome, RunOutcomes
from tests.simulation.statements import (
    Body,
    Choose,
    Draw,
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
    Version,
    WaitEvent,
    WaitSignal,
    While,
    Within,
    walk,
)
from tests.simulation.turns import CancelledError, GroupError, Lock, Program, Turns, group

INLINE = sys.version_info >= (3, 12)
"""``asyncio.wait_for`` awaits a coroutine itself; before, it made a task of it."""

FAILURE = "-failure"
"""How the id of a function's failure handler ends."""


class MismatchError(Exception):
    """The journal holds what the program cannot have asked for, or what a body cannot return."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program must end.

    Attributes:
        kind: ``returned``, ``raised`` (this attempt; there may be another one), or ``waits``.
        value: what it returned; the error's name; the names that it waits for, sorted.
    """

    kind: Literal["returned", "raised", "waits"]
    value: Any


def is_simple(function: FunctionPlan) -> bool:
    """Say whether nothing in a function races: its outcomes decide alone, not their order in time.

    What ``expected`` says of such functions depends on nothing that asyncio may do one way or
    another.
    """
    return not any(
        isinstance(s, Race | Within | Locked) or (isinstance(s, Parallel) and s.how == "group")
        for s in walk((*function.body, *(function.failure or ())))
    )


def expected(plan: Plan, run: RunOutcomes) -> Ending:
    """Say how a run's code must end after these outcomes.

    Raises:
        MismatchError: an outcome is none that this program can have had.
    """
    function = plan.function(run.function.removesuffix(FAILURE))
    body = function.failure if run.function.endswith(FAILURE) else function.body
    assert body is not None, "only functions that have one start a failure handler"
    return _Evaluation(plan.seed, run).end(body)


def _value_of(outcome: Outcome) -> Any:
    return outcome.value


class _StepError(Exception):
    """An operation failed for good."""


class _RaisedError(Exception):
    """The function's own code raised, as planned."""


class _Evaluation:
    """One run's program, with what it has got so far."""

    def __init__(self, seed: int, run: RunOutcomes) -> None:
        self._seed, self._run = seed, run
        self._account, self._uses = Account(), Counter[str]()
        self._turns = Turns()
        self._lock = Lock(self._turns)
        self._draws, self._now_ms = 0, run.started_ms
        self._problem: MismatchError | None = None

    def end(self, body: Body) -> Ending:
        """Give it all outcomes; say how it ends."""
        turns, left = self._turns, list(self._run.outcomes)
        main = turns.spawn(self._all(body))
        turns.settle()
        while not main.ended:
            outcome = self._next(left)
            if outcome is None:
                return Ending("waits", sorted(turns.asked))
            self._now_ms = outcome.at_ms
            turns.deliver(outcome.name, outcome)
            if self._problem is not None:
                raise self._problem
        if not self._run.tried_before:
            for outcome in left:
                self._check_known(outcome)
        if main.error is None:
            return Ending("returned", self._account.result())
        return Ending("raised", str(main.error))

    def _next(self, left: list[Outcome]) -> Outcome | None:
        """Take the outcome that the code gets next.

        On a later attempt of its own code, it is the first one that it asks for.
        """
        for index, outcome in enumerate(left):
            if outcome.name in self._turns.asked:
                return left.pop(index)
            if not self._run.tried_before:
                self._check_known(outcome)
        return None

    def _check_known(self, outcome: Outcome) -> None:
        if outcome.name not in self._turns.gone and outcome.name not in self._turns.asked:
            asked = ", ".join(sorted(self._turns.asked)) or "nothing"
            msg = f"the journal goes on with {outcome.name!r}; the program asks for {asked}"
            raise MismatchError(msg)

    # The program.

    def _all(self, body: Body) -> Program:
        for statement in body:
            yield from self._one(statement)

    def _one(self, statement: Statement) -> Program:
        match statement:
            case Pause():
                yield from self._get(self._name(TIMER))
            case Step() | Sleep() | SleepUntil() | WaitEvent() | WaitSignal():
                yield from self._recorded(statement)
            case SendEvent() | SendSignal() | Invoke():
                yield from self._recorded(statement)
            case Parallel() | Race() | Within() | Locked():
                yield from self._together(statement)
            case Draw():
                self._draws += 1
                seed = parse_ulid(self._run.seed or self._run.run) + self._draws.to_bytes(8, "big")
                drawn = random.Random(hashlib.sha256(seed).digest()).randrange(1000)
                self._account.add("draw", [drawn, self._now_ms])
            case Version():
                self._account.add(f"version {statement.change}", True)
            case _:
                yield from self._control(statement)

    def _name(self, id_: str) -> str:
        self._uses[id_] += 1
        count = self._uses[id_] - 1
        return f"{id_}:{count}" if count else id_

    def _recorded(
        self,
        statement: Step
        | Sleep
        | SleepUntil
        | WaitEvent
        | WaitSignal
        | SendEvent
        | SendSignal
        | Invoke,
    ) -> Program:
        name, given = self._name(statement.id), self._account.total
        match statement:
            case Step():
                yield from self._get(
                    name, lambda outcome: self._returned(statement, name, given, outcome)
                )
            case SendEvent():
                yield from self._get(name, lambda outcome: self._sent(statement, name, outcome))
            case Invoke():
                yield from self._get(name, lambda outcome: outcome.value["total"])
            case _:
                yield from self._get(name)

    def _get(self, name: str, shown: Callable[[Outcome], Any] = _value_of) -> Program:
        outcome: Outcome = yield self._turns.ask(name)
        if outcome.error:
            self._account.note(name, f"!{outcome.error}")
            raise _StepError(outcome.error)
        self._account.note(name, shown(outcome))

    def _returned(self, step: Step, name: str, given: int, outcome: Outcome) -> Any:
        value = outcome.value
        number: Any = value_of(
            self._seed, self._run.function, name, outcome.run or self._run.run, given
        )
        right = {"value": number, "pad": "x" * step.pad} if step.pad else number
        if value != right:
            self._refuse(f"{name!r} is recorded as {value!r}; its body returns {right!r}")
        return value

    def _sent(self, statement: SendEvent, name: str, outcome: Outcome) -> int:
        value = outcome.value
        if len(set(value)) != statement.count:
            self._refuse(f"{name!r} sent {statement.count} events, with the ids {value!r}")
        return len(value)

    def _refuse(self, problem: str) -> None:
        # Not raised here: the program might catch it.
        self._problem = MismatchError(problem)

    def _together(self, statement: Parallel | Race | Within | Locked) -> Program:
        turns = self._turns
        match statement:
            case Parallel(how="gather"):
                yield turns.gather([turns.spawn(self._all(b)) for b in statement.branches])
            case Parallel():
                yield from group(turns, [self._all(b) for b in statement.branches])
            case Race():
                yield from self._race(statement)
            case Within():
                timed = self._within if statement.how == "timeout" or INLINE else self._wait_for
                yield from timed(statement)
            case Locked():
                yield from self._lock.acquire()
                try:
                    yield from self._all(statement.body)
                finally:
                    self._lock.release()

    def _race(self, race: Race) -> Program:
        turns = self._turns
        tasks = [turns.spawn(self._all(branch)) for branch in race.branches]
        try:
            yield turns.first_ended(tasks)
        finally:
            for task in tasks:
                turns.cancel(task)
        done = [task for task in tasks if task.ended]
        if race.settle:
            yield turns.all_ended(tasks)
        for task in done:
            if task.error is not None:
                raise task.error

    def _within(self, within: Within) -> Program:
        turns, task, name = self._turns, self._turns.current, self._name(TIMER)
        before, fired = task.cancelling, False

        def fire() -> None:
            nonlocal fired
            fired = True
            turns.cancel(task)

        turns.asked[name] = lambda _: turns.soon(fire)
        try:
            yield from self._all(within.body)
        except CancelledError:
            if fired:
                task.cancelling -= 1
            if not fired or task.cancelling > before:
                raise
            self._account.note(name, "late")
        except Exception:
            if fired:
                task.cancelling -= 1
            raise
        finally:
            turns.forget(name)

    def _wait_for(self, within: Within) -> Program:
        turns, name = self._turns, self._name(TIMER)
        task = turns.spawn(self._all(within.body))
        wait = turns.first_ended([task])
        turns.asked[name] = lambda _: turns.soon(lambda: turns.resume(wait))
        try:
            try:
                yield wait
            except CancelledError:
                if not task.ended:
                    turns.cancel(task)
                    yield turns.all_ended([task])
                    raise
            late = not task.ended
            if late:
                turns.cancel(task)
                yield turns.all_ended([task])
            if task.error is not None and not (late and task.cancelled):
                raise task.error
            if late and task.cancelled:
                self._account.note(name, "late")
        finally:
            turns.forget(name)

    def _control(self, statement: Statement) -> Program:  # noqa: PLR0912 - one case for each kind
        match statement:
            case Repeat():
                for _ in range(statement.times):
                    yield from self._all(statement.body)
            case While():
                for _ in range(statement.most):
                    if self._account.got >= statement.below:
                        break
                    yield from self._all(statement.body)
            case Choose():
                odd = self._account.total % 2
                yield from self._all(statement.odd if odd else statement.even)
            case Try():
                try:
                    yield from self._all(statement.body)
                except (_StepError, GroupError) as error:
                    if not _only_steps(error):
                        raise
                else:
                    return
                yield from self._all(statement.handler)
            case Finally():
                try:
                    yield from self._all(statement.body)
                except GeneratorExit:
                    raise  # the evaluation is dropped, not the program
                except BaseException:
                    yield from self._all(statement.cleanup)
                    raise
                yield from self._all(statement.cleanup)
            case Raise():
                if self._run.attempt <= statement.attempts:
                    raise _RaisedError(statement.how)
            case OnRetry():
                if self._run.attempt > 1:
                    yield from self._all(statement.body)
            case _:
                raise AssertionError(f"not a statement of control: {statement}")


def _only_steps(error: Exception) -> bool:
    if isinstance(error, GroupError):
        return all(_only_steps(one) for one in error.errors)
    return isinstance(error, _StepError)
