"""The clock: a port, the machine's clock, and a guard against its jumps."""

import logging
import time
from typing import Protocol

_log = logging.getLogger("stepfold")

JUMP_MS_MAX = 60_000
"""A wall clock further than this ahead of the monotonic one has jumped."""

JUMP_HOLD_MS = 30_000
"""How long a jump must last until it is believed (a machine that slept; a corrected clock)."""


class Clock(Protocol):
    """What the engine needs of time."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970. It never goes back."""
        ...


class SystemClock:
    """The machine's wall clock, guarded.

    A step forward of over a minute against the monotonic clock is not followed at once: timers
    would fire early and ids be forgotten early if it is a mistake. It is reported, and believed
    when it lasts. A step back is bridged: time stands still until the wall clock has caught up,
    unless it is further than the limit, which is believed in the same way.
    """

    def __init__(self) -> None:
        self._offset_ms = self._wall_ms() - self._monotonic_ms()
        self._jump_seen_ms = 0
        self._last_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since 1970, guarded."""
        monotonic = self._monotonic_ms()
        offset = self._wall_ms() - monotonic
        if abs(offset - self._offset_ms) <= JUMP_MS_MAX:
            self._offset_ms, self._jump_seen_ms = offset, 0
        elif not self._jump_seen_ms:
            self._jump_seen_ms = monotonic
            _log.warning(
                "the machine's clock jumped by %d s; timers go by the clock before the jump"
                " until it has lasted for %d s",
                (offset - self._offset_ms) // 1000,
                JUMP_HOLD_MS // 1000,
            )
        elif monotonic - self._jump_seen_ms > JUMP_HOLD_MS:
            self._offset_ms, self._jump_seen_ms = offset, 0
            _log.warning("the machine's clock kept its jump; timers follow it from now on")
        self._last_ms = max(self._last_ms, monotonic + self._offset_ms)
        return self._last_ms

    def _wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def _monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000
