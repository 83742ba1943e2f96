"""What is due when: heaps of (time, run key, what), checked against the state when they come due.

A heap may hold times that no longer mean anything (the sleep was abandoned, the run ended). They
are told by comparing with the run: so nothing depends on the order of insertion. Those that are
known to mean nothing are swept out together once they are a quarter of all, so that waits with
long timeouts that end soon take no room until then.
"""

from heapq import heapify, heappop, heappush

RUN_DUE = b"d"
RUN_RETRY = b"r"
RUN_START_BY = b"s"
RUN_FINISH_BY = b"f"
"""What is due of a run itself; anything longer is the key of a step."""

CRON = b"cron"
DEBOUNCE = b"debounce"
"""Whose time it is if it is no run's: what is due is then the name of a cron, or of a key."""

GONE_MIN = 1_000
"""How many times that mean nothing any more are not worth a sweep."""

Due = tuple[int, bytes, bytes]
"""When, whose (a run's key), what (one of the above, or a step's key)."""


class Timers:
    """Times to come, in two heaps.

    ``free`` ones fire when their time has come. ``held`` ones (timeouts of waits, debounces) must
    not be decided before all that was appended up to their time has been read.
    """

    __slots__ = ("_gone", "free", "held")

    def __init__(self) -> None:
        self.free: list[Due] = []
        self.held: list[Due] = []
        self._gone: set[Due] = set()

    def add(self, due_ms: int, key: bytes, what: bytes) -> None:
        """Set a timer."""
        self._add(self.free, (due_ms, key, what))

    def add_held(self, due_ms: int, key: bytes, what: bytes) -> None:
        """Set a timer that must not fire before the backlog is read."""
        self._add(self.held, (due_ms, key, what))

    def _add(self, heap: list[Due], due: Due) -> None:
        if self._gone:
            self._gone.discard(due)
        heappush(heap, due)

    def cancel(self, due_ms: int, key: bytes, what: bytes) -> None:
        """Note that a timer means nothing any more; one that has fired, or never was, does not."""
        if not due_ms:
            return
        gone = self._gone
        gone.add((due_ms, key, what))
        if len(gone) >= max(GONE_MIN, len(self) // 4):
            for heap in (self.free, self.held):
                heap[:] = [due for due in heap if due not in gone]
                heapify(heap)
            gone.clear()

    def __len__(self) -> int:
        """Return how many times the heaps hold."""
        return len(self.free) + len(self.held)

    def next_free_ms(self) -> int | None:
        """Return the next time at which a free timer may fire."""
        return self.free[0][0] if self.free else None

    def next_held_ms(self) -> int | None:
        """Return the next time at which a held timer may be asked for."""
        return self.held[0][0] if self.held else None

    def pop_free(self, now_ms: int, limit: int) -> list[Due]:
        """Take out what is due, earliest first, at most ``limit``."""
        return _pop(self.free, now_ms, limit)

    def pop_held(self, now_ms: int, limit: int) -> list[Due]:
        """Take out held timers that were due at ``now_ms``, the time up to which all is read."""
        return _pop(self.held, now_ms, limit)


def _pop(heap: list[Due], now_ms: int, limit: int) -> list[Due]:
    found: list[Due] = []
    while heap and heap[0][0] <= now_ms and len(found) < limit:
        found.append(heappop(heap))
    return found
