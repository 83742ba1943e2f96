"""Moving: what is alive in one log goes on in another, unused one, by being restated there.

The order of things makes it safe to kill a move at any instant and to run it again:

1. The source is drained: its own engine decides all that was sent to it.
2. The source is marked. From here on it is not run any more, so it stays as it is.
3. Every partition of the target is begun. One that is begun and not finished has no owner.
4. What lives is written to them, the same decisions each time; what is there already is kept.
5. Every partition is finished. Behind this the target is like any log.
6. The source's mark says that the move has ended.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from stepfold_engine.clock import Clock
from stepfold_engine.core.decide.move import begin, finish, run_moved, things
from stepfold_engine.core.matching import Matching
from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import LogError
from stepfold_engine.histories import read_history
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, INBOX, JOURNAL, Log
from stepfold_engine.log.moved import BEGUN, FINISHED, PREPARED, Mark
from stepfold_engine.moving.arrival import Arrival, look
from stepfold_engine.moving.draining import drained, recovered, unread
from stepfold_engine.ownership import Claimant, Reading
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import HistoryItem, Position

NODE = "stepfold log move"
"""The name under which a move owns partitions."""


class Marks(Protocol):
    """Where a source keeps, durably, that it is moved."""

    def get(self) -> Mark | None:
        """Return the mark, None if there is none."""
        ...

    def set(self, mark: Mark) -> None:
        """Set it."""
        ...


@dataclass(frozen=True, slots=True)
class Moving:
    """What a move needs.

    Attributes:
        source: what lives there is moved.
        target: must be unused.
        to: which log that is, for people; never the same for two.
        entropy: gives so many random bytes.
    """

    source: Log
    target: Log
    marks: Marks
    to: str
    clock: Clock
    matching: Matching
    settings: Settings
    entropy: Callable[[int], bytes] = secrets.token_bytes


@dataclass(slots=True)
class Survey:
    """What lives in a log.

    Attributes:
        runs: how many unfinished runs of each function.
        undecided: what has not been decided yet, by partition.
        letters: how many dead letters there are; they stay.
        idle_ms: when the log was last written to.
    """

    partitions: int
    runs: dict[str, int]
    stopped: int
    signals: int
    ids: int
    requests: int
    undecided: list[str]
    letters: int
    idle_ms: int


async def survey(log: Log) -> Survey:
    """Look at what lives in a log; nothing is written.

    Raises:
        LogError: it cannot be read.
    """
    return await _surveyed(log, [reading.state for reading in await recovered(log)])


async def _surveyed(log: Log, states: Sequence[Partition]) -> Survey:
    runs: dict[str, int] = {}
    stopped = 0
    for state in states:
        for run in state.runs:
            runs[run.function] = runs.get(run.function, 0) + 1
            stopped += run.stopped
    undecided = [f"partition {s.number}: {what}" for s in states if (what := await unread(log, s))]
    letters = [await log.bounds(DEAD_LETTERS, n) for n in range(await log.partitions(DEAD_LETTERS))]
    return Survey(
        len(states),
        dict(sorted(runs.items())),
        stopped,
        sum(len(state.signals) for state in states),
        sum(len(keys) for state in states for keys in state.ended.values()),
        sum(len(state.requests) for state in states),
        undecided,
        sum(bounds.end - bounds.start for bounds in letters),
        await _last_ms(log),
    )


async def _last_ms(log: Log) -> int:
    """Return when a log was last written to."""
    times = [0]
    for topic in (EVENTS, INBOX, JOURNAL):
        for number in range(await log.partitions(topic)):
            bounds = await log.bounds(topic, number)
            if bounds.end > bounds.start:
                batch = await log.read(topic, number, bounds.end - 1)
                times += [record.at_ms for record in batch.records]
    return max(times)


async def check(moving: Moving) -> bool:
    """Say whether a move was begun, and is to be gone on with; refuse one that cannot be done.

    Raises:
        LogError: the source was moved already, or elsewhere; or the target was used, or has too
            few partitions.
    """
    mark = moving.marks.get()
    if mark is not None and mark.phase == FINISHED:
        raise LogError(f"it was moved to {mark.to} already; its runs go on there")
    begun = mark is not None and mark.phase == BEGUN
    if mark is not None and begun and mark.to != moving.to:
        text = f"a move to {mark.to} was begun and has not ended; go on with that one, or delete"
        raise LogError(f"{text} the topics of that namespace and use stepfold dev --take-back")
    has, needed = await moving.target.partitions(JOURNAL), await moving.source.partitions(JOURNAL)
    if has < needed:
        raise LogError(
            f"the ids of its runs name {needed} partitions; the journal there has {has}."
            f" Make the topics of another namespace with --partitions {needed} or more"
        )
    found = [await look(moving.target, n, mark.id if mark and begun else "") for n in range(has)]
    if mark is None or not any(one.begun for one in found):
        return False
    if mark.partitions != has:
        raise LogError(f"the journal there has {has} partitions; it had {mark.partitions}")
    return True


async def move(moving: Moving) -> Survey:
    """Move what lives; return what that was.

    Raises:
        LogError: it cannot be done (see ``check``), or not now; it may be tried again.
    """
    if await check(moving):
        mark = moving.marks.get()
        assert mark is not None, "just looked at"
        readings = await recovered(moving.source)
    else:
        mark, readings = await _prepared(moving)
    found = await _surveyed(moving.source, [reading.state for reading in readings])
    await _write(moving, mark, readings)
    moving.marks.set(replace(mark, phase=FINISHED))
    found.idle_ms = mark.idle_ms
    return found


async def _prepared(moving: Moving) -> tuple[Mark, list[Reading]]:
    """Drain the source and mark it; what lives in it stays as it is from here on."""
    mark = moving.marks.get()
    if mark is None or mark.phase != PREPARED:
        # Once only: draining writes, too.
        idle_ms = await _last_ms(moving.source)
        mark = Mark(moving.entropy(8).hex(), moving.to, PREPARED, idle_ms)
        moving.marks.set(mark)
    claimant = Claimant(NODE, mark.id, moving.entropy)
    source, target = moving.source, moving.target
    readings = await drained(source, moving.clock, moving.matching, moving.settings, claimant)
    events = range(await target.partitions(EVENTS))
    mark = replace(
        mark,
        to=moving.to,
        phase=BEGUN,
        begun_ms=moving.clock.now_ms(),
        partitions=await target.partitions(JOURNAL),
        positions=tuple([await target.offset_at(EVENTS, p, mark.idle_ms) for p in events]),
    )
    moving.marks.set(mark)
    return mark, readings


async def _write(moving: Moving, mark: Mark, readings: Sequence[Reading]) -> None:
    target, count = moving.target, mark.partitions
    claimant = Claimant(NODE, mark.id, moving.entropy)
    arrivals: list[Arrival] = []
    for number in range(count):
        found = await look(target, number, mark.id)
        arrivals.append(Arrival(target, number, count, moving.clock, found))
    positions = [Position(EVENTS, p, offset) for p, offset in enumerate(mark.positions)]
    for arrival in arrivals:
        await arrival.open(claimant)
        await arrival.put(begin(positions, NODE, mark.id))
        await arrival.flush()
    states = [reading.state for reading in readings]
    for number, arrival in enumerate(arrivals):
        if not arrival.finished:
            for entries in things(states, number, count, mark.begun_ms):
                await arrival.put(entries)
            if number < len(readings):
                await _write_runs(moving.source, readings[number], arrival)
            await arrival.flush()
    for arrival in arrivals:
        if not arrival.finished:
            await arrival.put(finish())
            await arrival.flush()


async def _write_runs(source: Log, reading: Reading, arrival: Arrival) -> None:
    for run in reading.state.runs:
        facts = await read_history(source, reading, run, reading.state.seq)
        history = [HistoryItem(fact.at_ms, codec.encode(fact.entry)) for fact in facts]
        for entries in run_moved(run, history):
            await arrival.put(entries)
