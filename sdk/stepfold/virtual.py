"""A user loop in virtual time: when nothing is ready, time jumps to the next timer.

For tests: a sleep of thirty days takes microseconds, and every run of a test takes the same steps.
While threads work for the loop, time stands still.
"""

import math
import selectors
from collections.abc import Callable

from stepfold.loop import UserLoop

START_MS = 1_750_000_000_000
"""Where virtual wall clocks start, unless told otherwise: in June 2025."""


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set and no thread works: the loop would wait for ever."""


class _VirtualSelector(selectors.DefaultSelector):
    """Does not wait for time to pass, but moves the loop's clock."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.loop.threads:
            return super().select(None)
        if not self.loop.may_pass(timeout):
            self.loop.stop()
            return ready
        if timeout is not None:
            self.loop.advance(timeout)
            return ready
        if len(self.get_map()) > 1:
            # Besides the loop's own wake-up pipe there is a socket or a pipe.
            return super().select(None)
        msg = (
            "everything waits for something that never comes: nothing is ready, no timer is set,"
            " and no thread or socket is under way"
        )
        raise DeadlockError(msg)


class VirtualLoop(UserLoop):
    """A ``UserLoop`` whose time is virtual.

    Args:
        start_ms: the wall clock at the start, in milliseconds since 1970.

    Attributes:
        threads: how many threads work for the loop; time stands still meanwhile.
    """

    def __init__(self, start_ms: int = START_MS) -> None:
        self._start_ms = start_ms
        self._virtual_s = 0.0
        self.threads = 0
        self._goes_on: Callable[[float], bool] | None = None
        selector = _VirtualSelector()
        selector.loop = self
        super().__init__(selector)
        # asyncio adds this to the time to tell what is due. After half a virtual year its
        # nanosecond is lost in the rounding of floats, and what is due would never be.
        self._clock_resolution = 1e-6

    def real_time(self) -> float:
        """Return the virtual time since the start, in seconds."""
        return self._virtual_s

    def now_ms(self) -> int:
        """Return the virtual wall clock in milliseconds since 1970."""
        return self._start_ms + round(self._virtual_s * 1000)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._virtual_s += seconds

    def run_while(self, goes_on: Callable[[float], bool]) -> None:
        """Run; whenever nothing is ready, ask whether time may pass. Stop when it may not.

        Args:
            goes_on: is given the time of the next timer, in seconds since the start; infinity if
                there is none.
        """
        self._goes_on = goes_on
        try:
            self.run_forever()
        finally:
            self._goes_on = None

    def may_pass(self, timeout: float | None) -> bool:
        """Say whether time may pass, so far in seconds, or for ever; for the selector."""
        if self._goes_on is None:
            return True
        return self._goes_on(math.inf if timeout is None else self._virtual_s + timeout)

    def thread_began(self) -> None:
        """A thread works for this loop: time stands still."""
        self.threads += 1

    def thread_ended(self) -> None:
        """A thread that worked for this loop has handed over what it did."""
        self.threads -= 1
