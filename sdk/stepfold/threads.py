"""Threads for plain functions: a bounded pool of daemon threads.

Not ``concurrent.futures``: its threads are joined when the interpreter ends, and one step that
hangs would keep the process from ending. A thread that is given up (its work took too long) does
not count any more, so that it does not take the place of others.
"""

import queue
import threading
from collections.abc import Callable


class ThreadPool:
    """Runs work in at most ``size`` threads; more waits in line.

    Args:
        size: how many threads there may be.
        name: what the threads' names begin with.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        self._made = 0
        self._lost: set[int] = set()

    def submit(self, work: Callable[[], None]) -> None:
        """Run this in a thread. It must not raise."""
        with self._lock:
            self._unfinished += 1
            self._hire()
        self._work.put(work)

    def _hire(self) -> None:
        """Start a thread if there is more to do than threads."""
        if self._threads < min(self._unfinished, self._size):
            self._threads += 1
            self._made += 1
            name = f"{self._name}-{self._made}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def give_up(self, thread: int) -> None:
        """Do not count a thread (by its identifier) any more: it may never come back."""
        with self._lock:
            if thread not in self._lost:
                self._lost.add(thread)
                self._threads -= 1
                self._unfinished -= 1
                self._hire()

    def close(self) -> None:
        """Let idle threads end; the others end when their work is done."""
        with self._lock:
            count, self._size = self._threads, 0
        for _ in range(count):
            self._work.put(None)

    def _serve(self) -> None:
        own = threading.get_ident()
        while True:
            work = self._work.get()
            if work is None:
                return
            work()
            del work
            with self._lock:
                if own in self._lost:
                    self._lost.discard(own)
                    return
                self._unfinished -= 1
