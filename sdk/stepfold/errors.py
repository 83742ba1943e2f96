"""Errors of the SDK.

::

    Exception
    ├── StepError                 a step, wait or invocation failed for good; raised in the function
    │   ├── SignalConflictError   another run waits for this signal already
    │   └── InvokeTimeoutError    the invoked function did not end in time
    ├── NonRetriableError         raised by user code: do not try this again
    ├── RetryAfterError           raised by user code: try this again, but not before
    └── ClientError               a server refused a request, or could not be reached

    BaseException
    └── Parked                    private: leaves user code whose run is dropped from memory
"""

import math
from datetime import UTC, datetime, timedelta
from typing import cast

from stepfold.durations import DAY_MS, WAIT_MS_MAX, shown
from stepfold_schemas.entries import Error

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StepError(Exception):
    """A step failed for good: its retries are spent, or it may not be tried again.

    Attributes:
        message: what the last attempt said.
        name: the class name of the exception that the last attempt raised.
        step: the step's id.
        stack: the traceback of the last attempt as text, "" if there is none.
    """

    def __init__(self, message: str, *, name: str = "", step: str = "", stack: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.name = name or type(self).__name__
        self.step = step
        self.stack = stack

    def __str__(self) -> str:
        where = f"step {self.step!r} failed: " if self.step else ""
        kind = f"{self.name}: " if self.name != type(self).__name__ else ""
        return f"{where}{kind}{self.message}"


class SignalConflictError(StepError):
    """Another run waits for this signal already, and ``on_conflict`` is ``fail``."""


class InvokeTimeoutError(StepError):
    """The invoked function did not end before the timeout. Its run goes on."""


class NonRetriableError(Exception):
    """Raise this in a step or a function to fail at once: trying again would not help."""


class RetryAfterError(Exception):
    """Raise this in a step or a function to have it tried again, but not before a given time.

    Args:
        message: what went wrong.
        after: seconds, a ``timedelta``, or an aware ``datetime``; at most 366 days.

    Raises:
        ValueError: ``after`` is not finite, too long, or a naive datetime.
        TypeError: ``after`` is something else.
    """

    def __init__(self, message: str, after: float | timedelta | datetime) -> None:
        super().__init__(message)
        self.message = message
        self.after = after
        _check_after(after)

    def delay_ms(self, now_ms: int) -> int:
        """Return how long to wait from now on, in milliseconds, at least 0."""
        after = self.after
        if isinstance(after, datetime):
            return max(0, (after - _EPOCH) // timedelta(milliseconds=1) - now_ms)
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        return int(max(0, seconds) * 1000)


def _check_after(after: object) -> None:
    what = f"RetryAfterError: after is {shown(after)}"
    if isinstance(after, datetime):
        if after.utcoffset() is None:
            raise ValueError(f"{what}, not an aware datetime: write datetime.now(UTC) + …")
        return
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{what}: give seconds, a timedelta, or an aware datetime")
    if not -math.inf < seconds <= WAIT_MS_MAX / 1000:
        raise ValueError(f"{what}: give at most {WAIT_MS_MAX // DAY_MS} days")


class ClientError(Exception):
    """A server refused a request, or could not be reached.

    Attributes:
        status: the HTTP status, 0 if there was no answer.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Parked(BaseException):
    """The run's code is being dropped from memory. Not for users.

    Derives from ``BaseException`` so that ``except Exception`` in user code lets it pass.
    """


def is_permanent(error: BaseException) -> bool:
    """Say whether trying again cannot help: the error is final, or a group of final ones."""
    return all(isinstance(one, NonRetriableError | StepError) for one in _single(error))


def retry_after_ms(error: BaseException, now_ms: int) -> int:
    """Return how long the error asks to wait, the longest in a group; -1 if it does not.

    It is 366 days at most: that is how long a retry may wait.
    """
    return max(_asked_ms(one, now_ms) for one in _single(error))


def _asked_ms(error: BaseException, now_ms: int) -> int:
    if not isinstance(error, RetryAfterError):
        return -1
    try:
        return min(max(0, int(error.delay_ms(now_ms))), WAIT_MS_MAX)
    except Exception:  # noqa: BLE001 - a user's class may break when asked; the policy decides then
        return -1


def _single(error: BaseException) -> list[BaseException]:
    """Return the error, or if it is a group, those in it and in its groups, however deep."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            # Of unknown members, to a checker.
            left += cast("BaseExceptionGroup[BaseException]", one).exceptions
        else:
            found.append(one)
    return found


def step_error(error: Error, step: str) -> StepError:
    """Return the exception that a function gets for a recorded failure."""
    kind = InvokeTimeoutError if error.name == "InvokeTimeoutError" else StepError
    return kind(error.message, name=error.name, step=step, stack=error.stack)
