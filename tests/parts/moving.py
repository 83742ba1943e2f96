"""What tests of a move need: a target that fails and kills, and a mark in memory."""

import random
from collections.abc import Sequence

from stepfold_engine.errors import AppendUnknownError
from stepfold_engine.log.base import JOURNAL, NewRecord
from stepfold_engine.log.memory import MemoryLog
from stepfold_engine.log.moved import Mark
from stepfold_engine.moving import Moving, Survey, move


class KilledError(Exception):
    """The process that moved was killed."""


class MemoryMarks:
    """A mark that outlives the process that set it; setting it may kill."""

    def __init__(self, killer: "Killer") -> None:
        self.mark: Mark | None = None
        self._killer = killer

    def get(self) -> Mark | None:
        return self.mark

    def set(self, mark: Mark) -> None:
        late = self._killer.strikes()
        if late:
            self.mark = mark
        self._killer.kill()
        self.mark = mark


class Killer:
    """Kills at the ``at``-th thing that is made durable, before or behind it."""

    def __init__(self, at: int = -1, *, late: bool = False, fails: float = 0.0) -> None:
        self.at, self.late, self.fails = at, late, fails
        self.count = 0
        self.rng = random.Random(at)

    def strikes(self) -> bool:
        """Count one more; say whether it is done although this kills."""
        self.count += 1
        return self.late and self.count - 1 == self.at

    def kill(self) -> None:
        """Kill, if it is time."""
        if self.count - 1 == self.at:
            raise KilledError


class Target(MemoryLog):
    """A log whose appends may fail, in all ways, or kill."""

    killer = Killer()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        killer = self.killer
        fails = topic == JOURNAL and killer.rng.random() < killer.fails
        if killer.strikes() or (fails and killer.rng.random() < 0.5):
            await super().append(topic, partition, records)
        killer.kill()
        if fails:
            raise AppendUnknownError("nobody knows")
        return await super().append(topic, partition, records)


async def move_though_killed(moving: Moving, killer: Killer, step: int = 1) -> Survey:
    """Move, again and again: each time one more thing is made durable before it is killed.

    Every other time the last of them is done before it kills.
    """
    for at in range(0, 10_000, step):
        killer.at, killer.late, killer.count = at % 97, bool(at % 2), 0
        try:
            return await move(moving)
        except (KilledError, AppendUnknownError):
            continue
    raise AssertionError("it never ends")
