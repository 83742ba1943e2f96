"""How a function's end is reported: what it returned, or what it raised."""

from stepfold import serde, tracebacks
from stepfold.errors import is_permanent, retry_after_ms
from stepfold_schemas.entries import Error
from stepfold_schemas.reports import RunRaised, RunReturned


def returned(value: object, function: str, attempt: int, bytes_max: int) -> RunReturned | RunRaised:
    """Return the report on a function that returned; on a failure, if that cannot be recorded."""
    try:
        data = serde.dumps(value)
    except serde.UnserializableError as error:
        text = f"function {function} returned what cannot be recorded: {error}"
        return RunRaised(attempt, Error("UnserializableError", text), permanent=True)
    if len(data) > bytes_max:
        text = (
            f"function {function} returned {len(data)} bytes of JSON; the limit is {bytes_max}."
            " Return a reference to large data, not the data"
        )
        return RunRaised(attempt, Error("OutcomeTooLargeError", text), permanent=True)
    return RunReturned(data)


def raised(error: BaseException, attempt: int, now_ms: int) -> RunRaised:
    """Return the report on a function that raised."""
    after_ms = retry_after_ms(error, now_ms)
    return RunRaised(attempt, tracebacks.recorded(error), is_permanent(error), after_ms)
