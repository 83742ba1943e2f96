"""What random programs are made of: statements, functions, stimuli, and how they are shown.

Plain data, compared by value. A statement that asks for something durable has an ``id``; ids may
repeat, since uses are counted. Times end in ``_s`` and are seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

APP = "sim"
"""The id of the app; a function's full id is ``sim-<id>``."""

Failure = Literal["error", "final", "later", "slow"]
"""How a body fails: an exception, ``NonRetriableError``, ``RetryAfterError``, its timeout."""


@dataclass(frozen=True, slots=True)
class Step:
    """``step.run``.

    Attributes:
        takes_s: how long the body sleeps.
        fails: how many attempts fail, from the first.
        how: in what way they do.
        flaky: the chance that any attempt fails, drawn from ``Hooks.flaky``.
        retries: its own policy; None for the function's.
        timeout_s: how long one attempt may take; 0 for as long as it likes.
        blocks_s: how long the body blocks the loop.
        kills: how many times the body kills its process, always on attempt 1.
        pad: how many characters the body returns besides its value.
    """

    id: str
    takes_s: float = 0.0
    fails: int = 0
    how: Failure = "error"
    flaky: float = 0.0
    retries: int | None = None
    timeout_s: float = 0.0
    blocks_s: float = 0.0
    kills: int = 0
    pad: int = 0


@dataclass(frozen=True, slots=True)
class Sleep:
    """``step.sleep``."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SleepUntil:
    """``step.sleep_until``, so long after ``ctx.now()``; may lie in the past."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """``asyncio.sleep`` in the function's own code: a durable timer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitEvent:
    """``step.wait_for_event``.

    Attributes:
        event: a name or a pattern.
        match: a path, or "".
        if_: an expression, or "".
        since: ``""`` for no look-back, ``"run"``, or ``"back"``: from ``back_s`` before
            ``ctx.now()``.
    """

    id: str
    event: str
    timeout_s: float
    match: str = ""
    if_: str = ""
    since: Literal["", "run", "back"] = ""
    back_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitSignal:
    """``step.wait_for_signal``.

    Attributes:
        signal: its name; ``"own"`` stands for one that no other run waits for (``sig/<run id>``),
            ``"k"`` for one that runs with the same correlation share (``sig/k<k>``).
    """

    id: str
    signal: str
    timeout_s: float
    on_conflict: Literal["fail", "replace"] = "fail"


@dataclass(frozen=True, slots=True)
class SendEvent:
    """``step.send_event``: ``count`` events; with ``own_ids`` they get ids from the program.

    With ``delay_s`` their ``ts`` lies in the future.
    """

    id: str
    event: str
    count: int = 1
    own_ids: bool = False
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SendSignal:
    """``step.send_signal``; ``"reply"`` goes to the run that invoked or triggered this one."""

    id: str
    signal: str


@dataclass(frozen=True, slots=True)
class Invoke:
    """``step.invoke`` of another function of the plan."""

    id: str
    function: str
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Parallel:
    """Branches at the same time, by ``asyncio.gather`` or a ``TaskGroup``."""

    how: Literal["gather", "group"]
    branches: "tuple[Body, ...]"


@dataclass(frozen=True, slots=True)
class Race:
    """The first branch that ends wins, the others are cancelled; ``settle``: and awaited."""

    branches: "tuple[Body, ...]"
    settle: bool = False


@dataclass(frozen=True, slots=True)
class Within:
    """A body under ``asyncio.timeout`` or ``asyncio.wait_for``; the timeout is caught."""

    how: Literal["timeout", "wait_for"]
    seconds: float
    body: "Body"


@dataclass(frozen=True, slots=True)
class Repeat:
    """``for _ in range(times)``."""

    times: int
    body: "Body"


@dataclass(frozen=True, slots=True)
class While:
    """``while`` the run has got fewer outcomes than ``below``, at most ``most`` times."""

    below: int
    most: int
    body: "Body"


@dataclass(frozen=True, slots=True)
class Choose:
    """``if`` the accumulator is odd."""

    odd: "Body"
    even: "Body"


@dataclass(frozen=True, slots=True)
class Try:
    """``try`` … ``except StepError``; also a group of nothing but those."""

    body: "Body"
    handler: "Body"


@dataclass(frozen=True, slots=True)
class Finally:
    """``try`` … ``finally``; the clean-up runs also when the body is cancelled."""

    body: "Body"
    cleanup: "Body"


@dataclass(frozen=True, slots=True)
class Locked:
    """A body under the run's one ``asyncio.Lock``."""

    body: "Body"


@dataclass(frozen=True, slots=True)
class Raise:
    """The function's own code raises, while ``ctx.attempt`` is at most ``attempts``."""

    attempts: int
    how: Literal["error", "final", "later"] = "error"


@dataclass(frozen=True, slots=True)
class OnRetry:
    """What the function does only when its own code failed before."""

    body: "Body"


@dataclass(frozen=True, slots=True)
class Draw:
    """Take note of ``ctx.random()`` and ``ctx.now()``."""


@dataclass(frozen=True, slots=True)
class Version:
    """Ask ``ctx.version``. All processes have the same code, so every run is on the new side."""

    change: str


Statement = (
    Step
    | Sleep
    | SleepUntil
    | Pause
    | WaitEvent
    | WaitSignal
    | SendEvent
    | SendSignal
    | Invoke
    | Parallel
    | Race
    | Within
    | Repeat
    | While
    | Choose
    | Try
    | Finally
    | Locked
    | Raise
    | OnRetry
    | Draw
    | Version
)

Body = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class DebouncePlan:
    """How a function is debounced: ``key`` is a path, an expression, or ""; 0 s for no timeout."""

    period_s: float
    key: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """A function: its options and its program.

    Attributes:
        id: its id in the app.
        on: names or patterns of events that start it.
        if_: a condition on the first of them, or "".
        retries: of its own code, and of steps without a policy.
        delay_s: the delay before the first retry; the next ones are twice as long each.
        cancel_on: an event that cancels its runs, or "".
        cancel_match: whether that event must have the same ``data.k``.
        cancel_timeout_s: how long after the run's start it may come; 0 for no limit.
        idempotency: a path or expression, or "".
        start_timeout_s: 0 for none.
        finish_timeout_s: 0 for none.
        version: recorded with runs; "" for the default.
        crons: expressions at whose times it starts.
        debounce: None for none.
        body: its program.
        failure: what its failure handler does; None for no handler.
    """

    id: str
    body: Body
    on: tuple[str, ...] = ()
    if_: str = ""
    retries: int = 1
    delay_s: float = 1.0
    cancel_on: str = ""
    cancel_match: bool = False
    cancel_timeout_s: float = 0.0
    idempotency: str = ""
    start_timeout_s: float = 0.0
    finish_timeout_s: float = 0.0
    version: str = ""
    failure: Body | None = None
    crons: tuple[str, ...] = ()
    debounce: DebouncePlan | None = None

    @property
    def full_id(self) -> str:
        """Its id as the engine knows it."""
        return f"{APP}-{self.id}"


@dataclass(frozen=True, slots=True)
class Stimulus:
    """Something that somebody outside does.

    Attributes:
        at_s: when, in virtual seconds since the start.
        kind: ``event``, ``signal``, ``cancel`` or ``rerun``.
        name: the event's or signal's name. For ``cancel`` a function's id in the app: the
            ``data["nth"]``-th of its runs, from 0, in the order of their start, is cancelled. So
            for ``rerun``, which begins at ``data["where"]``.
        data: what the event or the signal says.
        id: the event's id as its sender gave it, or "". An id that comes again is a retry of the
            sender: the same event, for which no new run may start.
    """

    at_s: float
    kind: Literal["event", "signal", "cancel", "rerun"]
    name: str
    data: dict[str, Any]
    id: str = ""

    def text(self) -> str:
        """Show it on one line."""
        id_ = f" id={self.id}" if self.id else ""
        return f"{self.at_s:8.3f} {self.kind} {self.name} {self.data}{id_}"


@dataclass(frozen=True, slots=True)
class Plan:
    """An app's functions and what happens to them from outside."""

    seed: int
    functions: tuple[FunctionPlan, ...]
    stimuli: tuple[Stimulus, ...]
    duration_s: float

    def text(self) -> str:
        """Show the programs and the stimuli, for a report."""
        lines = [f"plan of seed {self.seed}, {self.duration_s:g} s"]
        for function in self.functions:
            lines += ["", *listing(function)]
        lines += ["", "stimuli", *(f"  {one.text()}" for one in self.stimuli)]
        return "\n".join(lines)

    def function(self, id: str) -> FunctionPlan:  # noqa: A002 - as the engine calls it
        """Return a function by its id, in the app or full."""
        return next(f for f in self.functions if id in (f.id, f.full_id))


def walk(body: Body) -> Iterator[Statement]:
    """Return all statements of a body, those in statements included, outer ones first."""
    for statement in body:
        yield statement
        for inner in bodies(statement):
            yield from walk(inner)


def bodies(statement: Statement) -> tuple[Body, ...]:
    """Return what a statement is made of."""
    match statement:
        case Parallel() | Race():
            return statement.branches
        case Within() | Repeat() | While() | Locked() | OnRetry():
            return (statement.body,)
        case Try():
            return statement.body, statement.handler
        case Finally():
            return statement.body, statement.cleanup
        case Choose():
            return statement.odd, statement.even
        case _:
            return ()


def listing(function: FunctionPlan) -> list[str]:
    """Show a function as an indented listing."""
    options = _options(function, skip=("id", "body", "failure"))
    lines = [f"function {function.id} {options}".rstrip(), *_shown(function.body, 1)]
    if function.failure is not None:
        lines += ["  on failure", *_shown(function.failure, 2)]
    return lines


def _shown(body: Body, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for statement in body:
        inner = bodies(statement)
        skip = ("id", "branches", "body", "handler", "cleanup", "odd", "even")
        name = getattr(statement, "id", "")
        words = [type(statement).__name__, repr(name) if name else "", _options(statement, skip)]
        yield indent + " ".join(word for word in words if word)
        for index, one in enumerate(inner):
            if len(inner) > 1:
                yield f"{indent}  {_LABELS.get(type(statement), ('branch',) * 9)[index]}"
            yield from _shown(one, depth + (2 if len(inner) > 1 else 1))


_LABELS: dict[type[Statement], tuple[str, ...]] = {
    Try: ("body", "except"),
    Finally: ("body", "finally"),
    Choose: ("if odd", "else"),
}


def _options(value: Any, skip: tuple[str, ...]) -> str:
    assert is_dataclass(value)
    given = [(f.name, f.default, getattr(value, f.name)) for f in fields(value)]
    return " ".join(f"{n}={v!r}" for n, default, v in given if n not in skip and v != default)
