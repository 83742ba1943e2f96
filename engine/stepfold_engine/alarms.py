"""Alarms: when a partition's timers are looked at, and when timeouts of waits may be decided.

A wait's timeout is decided only when every input has been read up to where it ended after the due
time. The ends are fetched once for all timeouts that are due (a mark), so that events that pour
in without pause cannot put it off.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from stepfold_engine.core.partition import Partition
from stepfold_engine.core.timers import Due
from stepfold_engine.errors import LogError
from stepfold_engine.log.base import Log

_log = logging.getLogger("stepfold")

DUE_AT_ONCE_MAX = 1_000
"""How many due timers are decided before other inputs have a turn."""

RETRY_S = 1.0


class Alarms:
    """Watches the timers of one partition."""

    def __init__(
        self,
        log: Log,
        state: Partition,
        ring: Callable[[], None],
        look_ms_max: int,
        inputs: Sequence[tuple[str, int]],
    ) -> None:
        self._log, self._state, self._ring, self._inputs = log, state, ring, inputs
        self._look_s_max = look_ms_max / 1000
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._mark: tuple[int, dict[tuple[str, int], int]] | None = None
        self._fetching: asyncio.Task[None] | None = None

    def due(self, now_ms: int) -> list[Due]:
        """Take out what is due now and needs no mark."""
        return self._state.timers.pop_free(now_ms, DUE_AT_ONCE_MAX)

    def held_due(self, now_ms: int, position: Callable[[str, int], int]) -> list[Due]:
        """Take out the timeouts of waits that may be decided now.

        Args:
            now_ms: the owner's time.
            position: says up to where an input (topic, partition) was read.
        """
        timers = self._state.timers
        found: list[Due] = []
        if self._mark is not None:
            at_ms, ends = self._mark
            if all(position(*where) >= end for where, end in ends.items()):
                found = timers.pop_held(at_ms, DUE_AT_ONCE_MAX)
                if len(found) < DUE_AT_ONCE_MAX:
                    self._mark = None
        next_ms = timers.next_held_ms()
        idle = self._mark is None and self._fetching is None
        if idle and next_ms is not None and next_ms <= now_ms:
            self._fetching = self._loop.create_task(self._fetch(now_ms))
        return found

    async def _fetch(self, now_ms: int) -> None:
        ends: dict[tuple[str, int], int] = {}
        try:
            for where in self._inputs:
                ends[where] = (await self._log.bounds(*where)).end
        except LogError as error:
            _log.warning("partition %d: timeouts wait: %s", self._state.number, error)
            await asyncio.sleep(RETRY_S)
        else:
            self._mark = (now_ms, ends)
        finally:
            self._fetching = None
        self._ring()

    def set(self, now_ms: int, others_ms: int | None) -> None:
        """Ring when the next timer is due, or at ``others_ms``."""
        self.cancel_next()
        timers = self._state.timers
        held_ms = timers.next_held_ms()
        if self._mark is not None or self._fetching is not None:
            held_ms = None  # reading an input rings
        times = [t for t in (timers.next_free_ms(), held_ms, others_ms) if t is not None]
        if times:
            delay_s = max(0.0, (min(times) - now_ms) / 1000)
            self._handle = self._loop.call_later(min(delay_s, self._look_s_max), self._ring)

    def cancel_next(self) -> None:
        """Don't ring until set again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        """Ring no more."""
        self.cancel_next()
        if self._fetching is not None:
            self._fetching.cancel()
