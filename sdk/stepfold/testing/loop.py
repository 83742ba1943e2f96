"""The kit's event loop: virtual time, and a process that can be stopped between two callbacks."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from stepfold.virtual import VirtualLoop

END_S_MAX = 60.0
"""How long, in virtual time, tasks may take to end that were cancelled."""


class KitLoop(VirtualLoop):
    """A virtual loop that a killed process leaves behind as it was.

    Attributes:
        start_ms: the wall clock at its start.
        frozen: its process was killed; nothing of it runs any more.
    """

    def __init__(self, start_ms: int) -> None:
        super().__init__(start_ms)
        self.start_ms = start_ms
        self.frozen = False
        self._held: list[asyncio.Handle] = []

    @property
    def exact_ms(self) -> float:
        """The wall clock, with fractions of a millisecond."""
        return self.start_ms + self.real_time() * 1000

    def jump(self, to_ms: float) -> None:
        """Set the clock ahead to a time up to which nothing is due."""
        self.advance(max(0.0, (to_ms - self.exact_ms) / 1000))

    def freeze(self) -> None:
        """Run nothing more, not even what is ready: as a process that is killed."""
        self.frozen = True
        nothing = asyncio.Handle(lambda: None, (), self)
        nothing.cancel()
        self._held = list(self._ready)
        for index in range(len(self._ready)):
            self._ready[index] = nothing
        if self.is_running():
            self.stop()

    def thaw(self) -> None:
        """Let what was ready run after all, so that it can be ended in order."""
        self.frozen = False
        self._ready.extend(self._held)
        self._held = []

    def turn(self, goes_on: Callable[[float], bool]) -> None:
        """Run as ``run_while`` does, also below a test that runs on a loop of its own.

        Raises:
            RuntimeError: it is this loop's own code that calls.
        """
        self._aside(lambda: self.run_while(goes_on))

    def complete(self, work: Coroutine[Any, Any, None]) -> None:
        """Run until this is done, however much time passes; also below a test, as ``turn``."""
        self._aside(lambda: self.run_until_complete(work))

    def end(self) -> None:
        """End all tasks and threads that are left, and close."""
        self.complete(self._end())
        self.close()

    async def _end(self) -> None:
        left = asyncio.all_tasks(self) - {asyncio.current_task(self)}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=END_S_MAX)
        for task in left:
            if task.done() and not task.cancelled():
                # Nobody else will look at it, and asyncio would complain.
                task.exception()
        await self.shutdown_asyncgens()
        self.thread_began()
        await self.shutdown_default_executor()
        self.thread_ended()

    def _aside(self, run: Callable[[], None]) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is None:
            run()
            return
        if running is self:
            msg = (
                "the test environment was used by the code that it runs: only the test itself may"
                " let time pass, or send events and signals through it"
            )
            raise RuntimeError(msg)
        # An async test: its loop stands still while ours turns, in a thread, since asyncio allows
        # one running loop a thread.
        with ThreadPoolExecutor(1, "stepfold-testing") as pool:
            pool.submit(copy_context().run, run).result()
