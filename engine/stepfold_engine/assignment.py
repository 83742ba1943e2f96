"""Assignment: which partitions this process is to own. A port; a consumer group is behind it.

An assignment is advice. What makes an owner is its claim in the journal, and two processes that are
both told to own a partition fence each other there; so after a fence a process asks again, and
claims only what it is still to own. Else two processes would fence each other for ever.
"""

import asyncio
from typing import Protocol


class Assignment(Protocol):
    """Says which partitions this process is to own."""

    async def named(self) -> frozenset[int]:
        """Return the partitions that this process is to own now."""
        ...

    async def changed(self) -> None:
        """Wait until what ``named`` returns may be another."""
        ...

    async def still_named(self, partition: int) -> bool:
        """Say whether a partition is still to be owned, asked after another process claimed it."""
        ...


class Alone:
    """One process on a log of its own: it owns all partitions, until another process claims one."""

    def __init__(self, partitions: int) -> None:
        self._all = frozenset(range(partitions))

    async def named(self) -> frozenset[int]:
        """Return all partitions."""
        return self._all

    async def changed(self) -> None:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()

    async def still_named(self, partition: int) -> bool:
        """Say no: who claimed it believes to be alone, too, and came later."""
        return partition not in self._all
