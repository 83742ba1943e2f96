"""Journals read from outside the engine: where to begin, and which runs are in them.

A run's home, and so the partition whose journal holds it, is in its id. Where in that journal to
begin follows from the time in its id: the record there says from where a fold may begin.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from stepfold_engine.errors import CorruptLogError, RequestRefusedError
from stepfold_engine.exporting.gathering import Gatherer, beginning
from stepfold_engine.log.base import JOURNAL, Batch, Bounds
from stepfold_engine.recordings import facts_in, invoked_by
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import home_of, key_of, time_of, ulid_text
from stepfold_schemas.runfile import ExportedRun

CLOCKS_MS = 300_000
"""How far the clock that a run's id was made by and that of the log may differ."""

READ_BYTES = 4 << 20

Progress = Callable[[int, int], None]
"""Hears how many records were read, of how many."""


class Journals(Protocol):
    """What is read of a log (``log.base.Log`` is one)."""

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        ...

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        ...

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        ...

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs are meant. "" and 0 mean any.

    Attributes:
        function: a function's full id.
        since_ms: runs that started, or ended, at this time or later; and all unfinished ones.
        statuses: as in ``runfile``.
        name: an id's beginning, or its last eight characters, in upper case.
    """

    function: str = ""
    since_ms: int = 0
    statuses: Collection[str] = ()
    name: str = ""

    def may_hold(self, run: bytes, function: str) -> bool:
        """Say whether a run may be meant, before its end is known."""
        text = ulid_text(run)
        named = not self.name or text.startswith(self.name) or text.endswith(self.name)
        return named and self.function in ("", function)

    def holds(self, run: ExportedRun) -> bool:
        """Say whether a run is meant."""
        recent = not run.ended_ms or max(run.started_ms, run.ended_ms) >= self.since_ms
        return recent and (not self.statuses or run.status in self.statuses)


def no_run(run: bytes) -> RequestRefusedError:
    """Return the error for a run that is not in the log, or is no longer."""
    text = f"no run {ulid_text(run)} in the log: there is none, or it is no longer kept"
    return RequestRefusedError(404, text)


async def find_run(log: Journals, run: bytes, *, related: bool = False) -> list[ExportedRun]:
    """Return a run's recording, and, if asked, those of the runs that it invoked.

    Raises:
        RequestRefusedError: there is no such run, or its beginning is no longer kept.
        CorruptLogError: the journal is damaged.
        LogError: the log cannot be read now.
    """
    partitions = await log.partitions(JOURNAL)
    home = home_of(run)
    if home >= partitions:
        raise no_run(run)
    key, since_ms = key_of(run), time_of(run)
    found = await _gather(log, home, {key}, since_ms)
    if key not in found:
        raise no_run(run)
    runs = [found[key]]
    if related:
        runs += await _related(log, runs[0], partitions)
    return runs


async def _related(log: Journals, run: ExportedRun, partitions: int) -> list[ExportedRun]:
    """Return the runs that a run invoked, and those that these invoked, and so on."""
    runs: list[ExportedRun] = []
    left = [run]
    while left:
        by_home: dict[int, set[bytes]] = {}
        since_ms = min(one.started_ms for one in left)
        for one in left:
            for _, home, key in invoked_by(facts_in(one), partitions):
                by_home.setdefault(home, set()).add(key)
        left = list[ExportedRun]()
        for home, keys in by_home.items():
            left += (await _gather(log, home, keys, since_ms, asked=False)).values()
        runs += left
    return runs


async def _gather(
    log: Journals, partition: int, keys: Collection[bytes], since_ms: int, *, asked: bool = True
) -> dict[bytes, ExportedRun]:
    """Return the recordings of runs of one partition, by key, as far as they are there."""
    start = await _place(log, partition, since_ms - CLOCKS_MS)
    bounds = await log.bounds(JOURNAL, partition)
    while True:
        gatherer = Gatherer(at_start=start == 0, keys=keys)
        await _read(log, partition, start, gatherer)
        found = {key_of(run.run): run for run in gatherer.runs(asked=asked)}
        if len(found) == len(keys) or start <= bounds.start:
            break
        # A clock was further off than clocks should be: the whole journal knows.
        start = bounds.start
    for run, why in gatherer.incomplete().items():
        raise RequestRefusedError(410, f"run {ulid_text(run)} cannot be exported: {why}")
    return found


async def select_runs(
    log: Journals, partition: int, wanted: Selection, progress: Progress = lambda _done, _of: None
) -> list[ExportedRun]:
    """Return the recordings of all runs of a partition that are meant, as they are met.

    Those whose beginning is no longer kept are left out.

    Raises:
        CorruptLogError: the journal is damaged.
        LogError: the log cannot be read now.
    """
    start = (await log.bounds(JOURNAL, partition)).start
    gatherer = Gatherer(at_start=start == 0, accept=wanted.may_hold)
    await _read(log, partition, start, gatherer, progress)
    return [run for run in gatherer.runs() if wanted.holds(run)]


async def _place(log: Journals, partition: int, at_ms: int) -> int:
    """Return an offset from which a journal may be followed that lies before a time."""
    bounds = await log.bounds(JOURNAL, partition)
    offset = max(await log.offset_at(JOURNAL, partition, at_ms), bounds.start)
    batch = await log.read(JOURNAL, partition, min(offset, max(bounds.end - 1, 0)), bytes_max=1)
    if not batch.records:
        return bounds.start
    record = batch.records[0]
    try:
        return beginning(record.value, record.offset, bounds.start)
    except UndecodableError as error:
        raise CorruptLogError(JOURNAL, partition, record.offset, str(error)) from error


async def _read(
    log: Journals,
    partition: int,
    offset: int,
    gatherer: Gatherer,
    progress: Progress = lambda _done, _of: None,
) -> None:
    first, end = offset, (await log.bounds(JOURNAL, partition)).end
    while offset < end and not gatherer.done:
        batch = await log.read(JOURNAL, partition, offset, bytes_max=READ_BYTES)
        if batch.start > offset and batch.start > first:
            text = "the journal was trimmed while it was read; try again"
            raise RequestRefusedError(503, f"journal/{partition}: {text}")
        if not batch.records and batch.next_offset <= offset:
            return
        try:
            gatherer.take(record.value for record in batch.records)
        except UndecodableError as error:
            where = batch.records[0].offset
            raise CorruptLogError(JOURNAL, partition, where, str(error)) from error
        offset = batch.next_offset
        progress(min(offset, end) - first, end - first)
