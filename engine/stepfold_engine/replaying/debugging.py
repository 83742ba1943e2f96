"""Debugging: Python's own debugger, in the frames of the author's code and no others.

Rules:

* It stops where the author's code calls a step, before the call, or where the function raised.
* Stepping stays in the author's code: steps return at once what they returned then, and ``n``
  goes from one line of the function to the next, over every ``await``.
* A plain function runs in a thread. It is looked at from the loop's thread while it waits there
  for a step, and goes on being debugged in its own.
"""

import bdb
import os
import pdb
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from stepfold_engine.replaying.frames import Owns, own_traceback
from stepfold_engine.replaying.machine import Listener, Passing

Say = Callable[[str], None]


class LeftError(BaseException):
    """The person at the debugger has had enough. It must pass through user code."""


class Debugger(pdb.Pdb):
    """A debugger that stops in the author's code only."""

    def __init__(self, owns: Owns) -> None:
        super().__init__()
        self._owns = owns
        self._released = False
        self.active = False
        self.reset()
        self.quitting = False

    def stop_here(self, frame: FrameType) -> bool:
        """Say whether to stop in a frame."""
        return self._owns(frame) and super().stop_here(frame)

    def set_continue(self) -> None:
        """Go on without stopping, unless there are breakpoints."""
        super().set_continue()
        self._released = not self.breaks

    def set_step(self) -> None:
        """Stop at the next line."""
        self._released = False
        super().set_step()

    def stop_at(self, frame: FrameType) -> None:
        """Stop in a frame that waits for what has called this; later, where the person says.

        Raises:
            LeftError: the person has left the debugger.
        """
        self.reset()
        self._released = False
        inner: FrameType | None = frame
        while inner is not None:
            if self._owns(inner):
                inner.f_trace = self.trace_dispatch
                self.botframe = inner
            inner = inner.f_back
        self._talk(frame, None)
        self.active = not self._released
        if self.active:
            sys.settrace(self.trace_dispatch)

    def look_at(self, error: BaseException) -> None:
        """Stop where an error was raised, with the frames as they were then.

        Raises:
            LeftError: the person has left the debugger.
        """
        traceback = own_traceback(error, self._owns)
        sys.settrace(None)
        if traceback is not None:
            self.reset()
            self._talk(None, traceback)

    def _talk(self, frame: FrameType | None, traceback: TracebackType | None) -> None:
        self.interaction(frame, traceback)
        if self.quitting:
            sys.settrace(None)
            raise LeftError

    def trace_thread(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Trace a thread's code once the debugger has stopped there (``threading.settrace``)."""
        return self.trace_dispatch(frame, event, arg) if self.active else None

    def breakpoint(self, *_: object, **__: object) -> None:
        """Be what ``breakpoint()`` calls."""
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - as pdb does
        self.active = True
        self.set_trace(frame)


class Stopper(Passing):
    """Hears where the code is, and stops in the debugger (``machine.Listener``).

    Args:
        inner: hears the same.
        debugger: where to stop.
        step: the step before which to stop; "" for none, which is where the function raises.
        where: returns the frame of the author's code that is calling.
        say: tells the person why it stopped.
    """

    def __init__(
        self,
        inner: Listener,
        debugger: Debugger,
        step: str,
        where: Callable[[], FrameType | None],
        say: Say,
    ) -> None:
        super().__init__(inner)
        self._debugger, self._step, self._where, self._say = debugger, step, where, say
        self.stopped = self.left = False

    def named(self, name: str) -> None:
        """See ``Listener``."""
        super().named(name)
        if name != self._step or self.stopped:
            return
        frame = self._where()
        if frame is not None:
            self.stopped = True
            self._say(f"before step '{name}'")
            self._leave(lambda: self._debugger.stop_at(frame))

    def raised(self, error: BaseException) -> None:
        """See ``Listener``."""
        super().raised(error)
        if isinstance(error, bdb.BdbQuit):
            # The person has left the debugger at one of its later stops.
            self.left = True
        if self.left or (self._step and not self.stopped):
            return
        self.stopped = True
        self._say(f"the function raised {type(error).__name__}: {error}")
        self._leave(lambda: self._debugger.look_at(error))

    def _leave(self, talk: Callable[[], None]) -> None:
        try:
            talk()
        except LeftError:
            self.left = True
            raise


class Hooks:
    """While the block runs, ``breakpoint()`` and threads are the debugger's."""

    def __init__(self, debugger: Debugger) -> None:
        self._debugger = debugger
        self._hook = sys.breakpointhook

    def __enter__(self) -> None:
        if "PYTHONBREAKPOINT" not in os.environ:
            sys.breakpointhook = self._debugger.breakpoint
        threading.settrace(self._debugger.trace_thread)

    def __exit__(self, *_: object) -> None:
        sys.breakpointhook = self._hook
        threading.settrace(None)  # pyright: ignore[reportArgumentType] - documented to be allowed
        sys.settrace(None)
