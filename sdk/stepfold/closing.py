"""Closing: how a life's tasks are ended when its run ends or is dropped from memory.

Tasks are cancelled, the newest first, so that Python runs their ``finally`` blocks as if the
program ended. Code that swallows the cancellation is cancelled again, so often, and then given up.
"""

import asyncio
import logging
from collections.abc import Callable

from stepfold.loop import UserLoop
from stepfold.scope import Scope

_log = logging.getLogger("stepfold")

ROUNDS_MAX = 10
"""How often tasks that wait again after they were cancelled are cancelled once more."""

IO_S_MAX = 5.0
"""How long tasks that do I/O while they end may take."""


class Closing:
    """Ends the tasks in a scope, then calls ``ended``.

    ``look`` is to be called whenever none of their callbacks is ready.
    """

    def __init__(self, scope: Scope, loop: UserLoop, what: str, ended: Callable[[], None]) -> None:
        self._scope, self._loop, self._what, self._ended = scope, loop, what, ended
        self._rounds = 0
        self._deadline: asyncio.TimerHandle | None = None
        self.over = False

    def begin(self) -> None:
        """Cancel all tasks."""
        for task in reversed(self._scope.unended()):
            task.cancel()
        if not self._scope.ready:
            self.look()

    def look(self) -> None:
        """See which tasks have ended; cancel those that wait again."""
        scope = self._scope
        if self.over or scope.ready:
            return
        left = scope.unended()
        if not left:
            self._finish()
            return
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            self._give_up()
            return
        if self._deadline is None:
            self._deadline = self._loop.call_later(IO_S_MAX, self._give_up)
        for task in reversed(left):
            if scope.task_is_blocked(task):
                task.cancel()

    def _finish(self) -> None:
        self.over = True
        if self._deadline is not None:
            self._deadline.cancel()
        for task in self._scope.tasks:
            # Nobody else will look at it, and asyncio would complain.
            if task.done() and not task.cancelled():
                task.exception()
        self._scope.tasks.clear()
        self._ended()

    def _give_up(self) -> None:
        left = self._scope.unended()
        if self.over:
            return
        _log.warning(
            "%s: %d tasks go on although they were cancelled; they are left alone."
            " Code that catches CancelledError should end soon after",
            self._what,
            len(left),
        )
        # They are kept: to collect one would run its code once more, in the midst of other code.
        self._loop.left_alone += left
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue] - asyncio has no other way
        self._finish()
