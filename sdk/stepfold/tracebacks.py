"""Exceptions as they are recorded: name, message, and a traceback without our own frames."""

import traceback
from pathlib import Path

from stepfold_schemas.entries import Error

STACK_CHARS_MAX = 16_384
MESSAGE_CHARS_MAX = 8_192

_HERE = str(Path(__file__).parent)


def recorded(error: BaseException) -> Error:
    """Return an exception as it is recorded."""
    return Error(type(error).__name__, _clean(_message(error), MESSAGE_CHARS_MAX), stack_of(error))


def stack_of(error: BaseException) -> str:
    """Return an exception's traceback as text, as long as the end of it fits."""
    try:
        shown = traceback.TracebackException.from_exception(error)
        _drop_own_frames(shown)
        text = "".join(shown.format())
    except Exception as problem:  # noqa: BLE001 - exceptions of users may break when shown
        text = f"{type(error).__name__} (it cannot be shown: {problem!r})"
    return _clean(text[-STACK_CHARS_MAX:], STACK_CHARS_MAX)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:  # noqa: BLE001 - as above
        return f"(the message cannot be shown: {problem!r})"


def _drop_own_frames(shown: traceback.TracebackException) -> None:
    # Not by recursion: a chain of causes may be thousands long.
    left = [shown]
    while left:
        one = left.pop()
        kept = [frame for frame in one.stack if not frame.filename.startswith(_HERE)]
        if kept:
            one.stack = traceback.StackSummary.from_list(kept)
        inner = (one.__cause__, one.__context__, *(one.exceptions or ()))
        left += [other for other in inner if other is not None]


def _clean(text: str, chars_max: int) -> str:
    # Lone surrogates have no UTF-8; whoever reads the record should still see something.
    return text[:chars_max].encode("utf-8", "backslashreplace").decode()
