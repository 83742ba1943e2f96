"""What a step is made of: its body, its policy, and what the body may ask about itself."""

import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from stepfold.durations import Duration, limit_ms
from stepfold.options import Retry, retry_policy
from stepfold.serde import Reader
from stepfold_schemas.entries import RetryPolicy
from stepfold_schemas.ids import ulid_text

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "__stepfold_step__"
_CO_COROUTINE = inspect.CO_COROUTINE


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """How a step's body is tried.

    Attributes:
        retry: its own retry policy, or None for the function's.
        timeout_ms: how long one attempt may take; 0 for as long as it likes.
    """

    retry: RetryPolicy | None = None
    timeout_ms: int = 0

    def over(self, default: "StepPolicy") -> "StepPolicy":
        """Return this policy, filled up from another one."""
        retry = self.retry if self.retry is not None else default.retry
        return StepPolicy(retry, self.timeout_ms or default.timeout_ms)


DEFAULT_POLICY = StepPolicy()


def policy(retries: int | Retry | None, timeout: Duration | None) -> StepPolicy:
    """Make a policy from what an author wrote.

    Raises:
        ValueError: a number or a duration is out of range.
    """
    retry = None if retries is None else retry_policy(retries)
    return StepPolicy(retry, limit_ms(timeout, "timeout"))


def step(
    *, retries: int | Retry | None = None, timeout: Duration | None = None
) -> Callable[[F], F]:
    """Say how a function is tried whenever it is the body of a step.

    Args:
        retries: how often it is tried again; the durable function's policy if not given.
        timeout: how long one attempt may take.
    """
    made = policy(retries, timeout)

    def mark(call: F) -> F:
        setattr(call, _ATTRIBUTE, made)
        return call

    return mark


def policy_of(call: Callable[..., Any]) -> StepPolicy:
    """Return the policy that ``step`` attached to a function."""
    found: StepPolicy = getattr(call, _ATTRIBUTE, DEFAULT_POLICY)
    return found


def is_async(call: Callable[..., Any]) -> bool:
    """Say whether calling this gives a coroutine, as far as can be seen without calling it."""
    code = getattr(call, "__code__", None)
    if code is not None and code.co_flags & _CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


class Body:
    """What a step does: a call, how it is tried, and the context it is called in."""

    __slots__ = ("args", "call", "context", "is_async", "kwargs", "policy", "reader")

    def __init__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        policy: StepPolicy,
        reader: Reader | None,
        context: contextvars.Context,
    ) -> None:
        self.call, self.args, self.kwargs = call, args, kwargs
        self.policy, self.reader, self.context = policy, reader, context
        self.is_async = is_async(call)


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a step's body may know of itself.

    Attributes:
        run_id: the run's id.
        step: the step's id, with ``:1``, ``:2`` for repeats.
        attempt: which attempt this is, from 1.
        idempotency_key: the same for every attempt of this step and for no other: give it to
            services that must not do a thing twice.
    """

    run_id: str
    step: str
    attempt: int
    idempotency_key: str


class Current(Protocol):
    """An attempt, as far as its body may know of it."""

    run: bytes
    key: bytes
    name: str
    number: int


CURRENT: contextvars.ContextVar[Current | None] = contextvars.ContextVar(
    "stepfold_step", default=None
)
"""The attempt whose body the current code is."""


def step_info() -> StepInfo:
    """Return what the body of a step may know of itself.

    Raises:
        RuntimeError: no step's body is calling.
    """
    current = CURRENT.get()
    if current is None:
        raise RuntimeError("step_info() is for the body of a step; no step is running here")
    run_id = ulid_text(current.run)
    key = f"{run_id}:{current.key.hex()}"
    return StepInfo(run_id, current.name, current.number, key)
