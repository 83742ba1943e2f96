"""Frames: where the author's own code stands among ours, asyncio's and those of libraries."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

import stepfold
import stepfold_engine
import stepfold_schemas
from stepfold.origins import Origins

_OURS = tuple(
    str(Path(module.__file__ or "").parent)
    for module in (stepfold, stepfold_engine, stepfold_schemas)
)
_MACHINERY = (*_OURS, str(Path(asyncio.__file__).parent), "<frozen ")

Owns = Callable[[FrameType], bool]
"""Says whether a frame is the author's own code."""


def owner(origins: Origins) -> Owns:
    """Return what tells the code of a function's author from all other."""

    def owns(frame: FrameType) -> bool:
        # What is made while a program runs, such as methods of dataclasses, is in no file.
        file = frame.f_code.co_filename
        return not file.startswith((*_OURS, "<")) and bool(origins.is_own_file(frame))

    return owns


def own_frame(frame: FrameType | None, owns: Owns) -> FrameType | None:
    """Return the first frame outward that is the author's own."""
    while frame is not None and not owns(frame):
        frame = frame.f_back
    return frame


def caller() -> FrameType | None:
    """Return the frame of who calls."""
    return sys._getframe(1)  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - as inspect does


def own_traceback(error: BaseException, owns: Owns) -> TracebackType | None:
    """Return an error's traceback from the author's first frame on, without our machinery.

    It ends in the author's code, or in a library that the author called.
    """
    kept: list[TracebackType] = []
    traceback = error.__traceback__
    while traceback is not None:
        if kept or owns(traceback.tb_frame):
            kept.append(traceback)
        traceback = traceback.tb_next
    kept = [tb for tb in kept if not tb.tb_frame.f_code.co_filename.startswith(_MACHINERY)]
    found: TracebackType | None = None
    for one in reversed(kept):
        found = TracebackType(found, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return found


def locals_of(frame: FrameType, chars_max: int = 200) -> dict[str, str]:
    """Return a frame's local variables as text."""
    shown: dict[str, str] = {}
    for name, value in frame.f_locals.items():
        if name.startswith("__"):
            continue
        try:
            text = repr(value)
        except Exception as error:  # noqa: BLE001 - classes of users may break when shown
            text = f"<cannot be shown: {error!r}>"
        shown[name] = text if len(text) <= chars_max else text[: chars_max - 1] + "…"
    return shown
