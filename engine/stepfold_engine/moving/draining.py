"""Draining: a log's engine runs until all that was sent to it is decided. No function runs.

What is left then is what lives: no event is unread, no message on its way, no look-back under way.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from stepfold_engine.clock import Clock
from stepfold_engine.core.decide.move import undecided
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.errors import LogError
from stepfold_engine.facts import started_in
from stepfold_engine.histories import read_history
from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, Log
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_engine.ownership import Claimant, Reading, claim, recover
from stepfold_engine.settings import Settings

_log = logging.getLogger("stepfold")

LOOK_S = 0.02
TIMES_MAX = 100
"""How often the engine is run: what comes due while it stops may send another message."""


@dataclass(slots=True)
class _Searches:
    """The look-backs for runs that have not begun: what cancels them may be older than they are."""

    begun: set[bytes] = field(default_factory=set[bytes])
    under_way: set[bytes] = field(default_factory=set[bytes])

    def ended(self, _: Owner, run: bytes) -> None:
        """A search is over, and what it found is recorded."""
        self.under_way.discard(run)


async def drained(
    log: Log, clock: Clock, matching: Matching, settings: Settings, claimant: Claimant
) -> list[Reading]:
    """Run the engine of a log until nothing is undecided; return its partitions, fenced.

    Raises:
        LogError: a partition is stopped, or cannot be read.
    """
    for _ in range(TIMES_MAX):
        node = Node(log, clock, matching, settings, claimant=claimant)
        searches = _Searches()
        async with node.running():
            node.lookbacks.looked_back = searches.ended
            while not await _is_done(node, searches):  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(LOOK_S)
        readings = await _fenced(log, clock, claimant)
        if not any([await unread(log, reading.state) for reading in readings]):
            return readings
    raise LogError("more and more comes due; try again")


async def _fenced(log: Log, clock: Clock, claimant: Claimant) -> list[Reading]:
    """Claim all partitions: what that engine still had under way does not count behind it."""
    readings = await recovered(log)
    for reading in readings:
        if not await claim(log, reading, claimant, clock.now_ms()):
            raise LogError(f"partition {reading.state.number} belongs to {reading.state.node}")
    return readings


async def recovered(log: Log) -> list[Reading]:
    """Fold all journals of a log."""
    count = await log.partitions(JOURNAL)
    return [await recover(log, number, count) for number in range(count)]


async def unread(log: Log, state: Partition) -> str:
    """Say what a partition has not decided yet, "" if nothing is left."""
    inputs = [(EVENTS, p) for p in range(await log.partitions(EVENTS))]
    for topic, number in [*inputs, (INBOX, state.number)]:
        read, _ = state.positions.get((topic, number), (0, 0))
        left = (await log.bounds(topic, number)).end - read
        if left > 0:
            return f"{left} records of {topic} are not read"
    return undecided(state)


async def _is_done(node: Node, searches: _Searches) -> bool:
    for number, why in sorted(node.stopped_partitions.items()):
        raise LogError(f"partition {number} is stopped, and cannot be moved: {why}")
    owners = list(node.owners.values())
    if len(owners) < node.partitions or not all(owner.running for owner in owners):
        return False
    for owner in owners:
        for run in owner.state.runs:
            await _look_back(node, owner, run, searches)
        if await _has_unread(node.log, owner):
            return False
        await owner.settled()
    return not searches.under_way and not any(undecided(owner.state) for owner in owners)


async def _has_unread(log: Log, owner: Owner) -> bool:
    inputs = [(EVENTS, p) for p in range(await log.partitions(EVENTS))]
    for topic, number in [*inputs, (INBOX, owner.state.number)]:
        if owner.position(topic, number) < (await log.bounds(topic, number)).end:
            return True
    return False


async def _look_back(node: Node, owner: Owner, run: Run, searches: _Searches) -> None:
    """Search for what cancelled a run before it started: the events stay behind."""
    if run.begun or not run.cancellations or run.id in searches.begun:
        return
    if run.seqs[0] > owner.confirmed_seq:
        return
    first = started_in(await read_history(node.log, owner, run, owner.confirmed_seq))
    searches.begun.add(run.id)
    if first is not None:
        searches.under_way.add(run.id)
        if not node.lookbacks.for_run(owner, first):
            searches.under_way.discard(run.id)
