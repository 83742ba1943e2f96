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

from datetime import UTC, datetime, timedelta
from typing import cast

from stepfold_schemas.entries import Error


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
        after: seconds, a ``timedelta``, or an aware ``datetime``.
    """

    def __init__(self, message: str, after: float | timedelta | datetime) -> None:
        super().__init__(message)
        self.message = message
        self.after = after
        if isinstance(after, datetime) and after.tzinfo is None:
            msg = "RetryAfterError needs an aware datetime: write datetime.now(UTC) + …"
            raise ValueError(msg)

    def delay_ms(self, now_ms: int) -> int:
        """Return how long to wait from now on, in milliseconds, at least 0."""
        after = self.after
        if isinstance(after, datetime):
            delay = after.astimezone(UTC).timestamp() * 1000 - now_ms
        elif isinstance(after, timedelta):
            delay = after / timedelta(milliseconds=1)
        else:
            delay = after * 1000
        return max(0, int(delay))


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
    inner = _grouped(error)
    if inner:
        return all(is_permanent(one) for one in inner)
    return isinstance(error, NonRetriableError | StepError)


def retry_after_ms(error: BaseException, now_ms: int) -> int:
    """Return how long the error asks to wait, the longest in a group; -1 if it does not."""
    inner = _grouped(error)
    if inner:
        return max(retry_after_ms(one, now_ms) for one in inner)
    return error.delay_ms(now_ms) if isinstance(error, RetryAfterError) else -1


def _grouped(error: BaseException) -> tuple[BaseException, ...]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    group = cast("BaseExceptionGroup[BaseException]", error)  # of unknown members, to a checker
    return group.exceptions


def step_error(error: Error, step: str) -> StepError:
    """Return the exception that a function gets for a recorded failure."""
    kind = InvokeTimeoutError if error.name == "InvokeTimeoutError" else StepError
    return kind(error.message, name=error.name, step=step, stack=error.stack)
