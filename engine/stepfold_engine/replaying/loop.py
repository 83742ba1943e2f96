"""The loop that code is replayed on: it turns while there is something to do, and then stops.

Time is virtual: what waits for a timer goes on at once. Only where code outside steps does real
I/O, which is simply done again, or works in a thread, does real time pass.
"""

import selectors
import time
from collections.abc import Callable

from stepfold.loop import UserLoop


class _Selector(selectors.DefaultSelector):
    """Does not wait, unless for I/O or a thread of the code that is replayed."""

    loop: "ReplayLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        loop = self.loop
        if loop.threads:
            return super().select(None)
        if loop.at_rest():
            loop.stop()
        elif len(self.get_map()) > 1:
            # Besides the loop's own wake-up pipe there is a socket or a pipe.
            began_s = time.monotonic()
            ready = super().select(timeout)
            loop.advance(time.monotonic() - began_s)
        elif timeout is None:
            loop.stop()
        else:
            loop.advance(timeout)
        return ready


class ReplayLoop(UserLoop):
    """A user loop for replays, one after the other.

    Attributes:
        threads: how many threads work for the code that is replayed.
        at_rest: says, when nothing is ready, whether the replay is over.
    """

    def __init__(self) -> None:
        self.threads = 0
        self.at_rest: Callable[[], bool] = lambda: True
        self._virtual_s = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        # As for all virtual time: a nanosecond is lost in the rounding of large floats.
        self._clock_resolution = 1e-6

    def run_to_rest(self, at_rest: Callable[[], bool]) -> None:
        """Turn until nothing is ready and it is at rest."""
        self.at_rest = at_rest
        try:
            self.run_forever()
        finally:
            self.at_rest = lambda: True

    def real_time(self) -> float:
        """Return the virtual time since the start, in seconds."""
        return self._virtual_s

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._virtual_s += seconds

    def thread_began(self) -> None:
        """A thread works for the code that is replayed."""
        self.threads += 1

    def thread_ended(self) -> None:
        """A thread has handed over what it did."""
        self.threads -= 1
