"""The projector: reads the log, stages what is new, and folds it into the tables.

It takes part of a topic at a time, many records in one transaction. What it cannot read stops the
one partition, with a warning; the others go on.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from stepfold_projections.acceptance import Cursor
from stepfold_projections.arrow import ArrowTable, pa, pc
from stepfold_projections.decoding import DamagedError, decode, flat
from stepfold_projections.source import (
    EVENTS,
    JOURNAL,
    TOPICS,
    Records,
    Source,
    SourceError,
    UnreachableError,
)
from stepfold_projections.staging import Staged, stage
from stepfold_projections.store import Place, Store

_log = logging.getLogger("stepfold")

BATCH_RECORDS = 30_000
"""How many records of one partition go into a transaction at most."""

PARTS = 4
"""How many such parts are one transaction when there is much to take in."""

Stopping = Callable[[], bool]
"""Asked, now and then, whether to stop."""

Progress = Callable[[int, int], None]
"""Told, now and then, how many records were taken in, of how many."""


def _never() -> bool:
    return False


@dataclass(slots=True)
class _Batch:
    """What one transaction takes in."""

    cursors: dict[Place, Cursor] = field(default_factory=dict[Place, Cursor])
    staged: list[tuple[Staged, int]] = field(default_factory=list[tuple[Staged, int]])
    events: list[ArrowTable] = field(default_factory=list[ArrowTable])
    letters: list[ArrowTable] = field(default_factory=list[ArrowTable])
    records: int = 0
    partial: set[int] = field(default_factory=set[int])
    gaps: set[int] = field(default_factory=set[int])


class Projector:
    """Keeps one store up to date with one log. One thread at a time may call.

    Attributes:
        stopped: the partitions that cannot be read on, and why.
    """

    def __init__(self, source: Source, store: Store) -> None:
        """Go on where the tables stand.

        Raises:
            SourceError: they are another log's.
        """
        self._source, self._store = source, store
        if (known := store.source(source.name)) != source.name:
            text = f"{store.path} holds the tables of {known or 'the log in its folder'}, not of"
            raise SourceError(f"{text} {source.name or 'this one'}; choose another folder")
        self._cursors = store.cursors()
        self._places = [
            (topic, number) for topic in TOPICS for number in range(source.partitions(topic))
        ]
        self.stopped: dict[Place, str] = {}

    def catch_up(self, progress: Progress | None = None, stopping: Stopping = _never) -> bool:
        """Take in everything there is; False if it was to stop before.

        What comes next is read while DuckDB takes in what was read: both are busy outside of
        Python's lock. Several parts are one transaction.
        """
        total, done = self.left(), 0
        with ThreadPoolExecutor(1, "stepfold-reading") as ahead:
            reading = ahead.submit(self._gather, self._cursors, BATCH_RECORDS)
            while not stopping():
                with self._store.transaction():
                    for _ in range(PARTS):
                        batch = reading.result()
                        if not batch.cursors:
                            return True
                        cursors = self._cursors | batch.cursors
                        reading = ahead.submit(self._gather, cursors, BATCH_RECORDS)
                        self._write(batch)
                        self._cursors = cursors
                        done += batch.records
                        if progress is not None:
                            progress(min(done, total), total)
        return False

    def left(self) -> int:
        """Return how many records there are to take in."""
        bounds = {place: self._source.bounds(*place) for place in self._places}
        return sum(
            end - max(self._cursors.get(place, Cursor()).offset, start)
            for place, (start, end) in bounds.items()
        )

    def step(self, records_max: int = BATCH_RECORDS) -> int:
        """Take in a part of what is new, in one transaction; return how many records it was."""
        batch = self._gather(self._cursors, records_max)
        if batch.cursors:
            with self._store.transaction():
                self._write(batch)
            self._cursors |= batch.cursors
        return batch.records

    def _gather(self, cursors: Mapping[Place, Cursor], records_max: int) -> _Batch:
        """Read and stage what comes behind where partitions are taken in."""
        batch = _Batch()
        for place in self._places:
            if place not in self.stopped:
                self._read(place, cursors.get(place, Cursor()), batch, records_max)
        return batch

    def _read(self, place: Place, cursor: Cursor, batch: _Batch, records_max: int) -> None:
        topic, number = place
        try:
            records = self._source.read(topic, number, cursor.offset, records_max)
            if records.values:
                if topic == JOURNAL:
                    cursor = self._stage(place, records, cursor, batch)
                elif topic == EVENTS:
                    batch.events.append(event_rows(records, number))
                else:
                    batch.letters.append(_letter_rows(records, number))
        except UnreachableError:
            raise
        except (SourceError, DamagedError) as error:
            self.stopped[place] = str(error)
            _log.warning("the tables stop at %s/%d, offset %d: %s", *place, cursor.offset, error)
            return
        if records.next_offset != cursor.offset:
            batch.cursors[place] = replace(cursor, offset=records.next_offset)
            batch.records += len(records.values)

    def _stage(self, place: Place, records: Records, cursor: Cursor, batch: _Batch) -> Cursor:
        number = place[1]
        begun = cursor.offset > 0 or records.start == 0
        if records.start > cursor.offset > 0:
            # What lies between was trimmed unread: a round's start says what is left.
            begun = False
            batch.gaps.add(number)
            _log.warning(
                "the tables miss %d records of journal/%d, which were trimmed before they were"
                " read: runs that ended there have the status unknown",
                records.start - cursor.offset, number,
            )  # fmt: skip
        staged = stage(records.values, records.offsets, number, cursor, begun=begun)
        batch.staged.append((staged, number))
        if cursor.partial or staged.cursor.partial or not begun:
            batch.partial.add(number)
        return staged.cursor

    def _write(self, batch: _Batch) -> None:
        """Write a batch; part of a transaction."""
        store = self._store
        for number in batch.gaps:
            store.note_gap(number)
        if batch.events:
            store.add_events(pa.concat_tables(batch.events))
        if batch.letters:
            store.add_dead_letters(pa.concat_tables(batch.letters))
        if batch.staged:
            parts = [staged.tables() for staged, _ in batch.staged]
            facts = {name: pa.concat_tables([p[name] for p in parts]) for name in parts[0]}
            store.fold(facts, batch.partial)
        for staged, number in batch.staged:
            if staged.finished_round and number in batch.partial:
                store.close_gap(number, staged.last_ms)
        store.move(batch.cursors)


def event_rows(records: Records, partition: int) -> ArrowTable:
    """Return events as rows; what is no event (b"") is left out."""
    known = [i for i, value in enumerate(records.values) if value]
    events = decode([records.values[i] for i in known], "Event") if known else None
    if events is None:
        return _NO_EVENTS.empty_table()
    offsets = pa.array([records.offsets[i] for i in known], pa.int64())
    times = pa.array([records.times_ms[i] for i in known], pa.int64())
    given, internal, taken = (flat(events[name]) for name in ("id", "internal", "received_ms"))
    place = pc.binary_join_element_wise(f"events-{partition}", offsets.cast(pa.string()), "-")
    named = pc.if_else(pc.equal(given, ""), place.cast(given.type), given)
    # Nothing was taken in after it was appended, whatever its producer's clock said.
    right = pc.or_(
        pc.less_equal(times, 0), pc.and_(pc.greater(taken, 0), pc.less_equal(taken, times))
    )
    columns = {
        "event": pc.if_else(pc.equal(internal, ""), named, internal),
        "sender_id": pc.if_else(pc.equal(given, ""), None, given),
        "name": flat(events["name"]),
        "data": flat(events["data"]).cast(pa.large_string()),
        "user_data": flat(events["user"]).cast(pa.large_string()),
        "ts": flat(events["ts"]),
        "received_ms": pc.if_else(right, taken, times),
        "partition": pa.repeat(pa.scalar(partition, pa.int64()), len(known)),
        "offset": offsets,
    }
    return pa.table(columns).cast(_NO_EVENTS)


_NO_EVENTS = pa.schema(
    [(name, pa.large_string()) for name in ("event", "sender_id", "name", "data", "user_data")]
    + [(name, pa.int64()) for name in ("ts", "received_ms", "partition", "offset")]
)


def _letter_rows(records: Records, partition: int) -> ArrowTable:
    said = [dict(headers) for headers in records.headers]
    return pa.table(
        {
            "source": [s.get("stepfold.source", b"").decode(errors="replace") for s in said],
            "error": [s.get("stepfold.error", b"").decode(errors="replace") for s in said],
            "value": pa.array(records.values, pa.large_binary()),
            "at_ms": pa.array(records.times_ms, pa.int64()),
            "partition": pa.array([partition] * len(said), pa.int64()),
            "offset": pa.array(records.offsets, pa.int64()),
        }
    )
