"""Events read back from the log: the newest ones, and one by its internal id."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from stepfold_engine.intake import said_in
from stepfold_engine.log.base import EVENTS, Log, Record
from stepfold_engine.node import Node
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import Event
from stepfold_schemas.ids import parse_ulid, time_of

CHUNK_OFFSETS = 500
"""How many offsets are read at a time, going back."""

SCANNED_MAX = 200_000
"""How many records one question reads back at most."""

AROUND_MS = 60_000
"""An event lies in the log at about the time that its internal id carries."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for. "" and 0 mean any.

    ``cursor`` is the internal id of the last event of the page before.
    """

    name: str = ""
    limit: int = 20
    cursor: str = ""
    before_ms: int = 0
    after_ms: int = 0


async def newest_events(node: Node, asked: EventFilter) -> list[Event]:
    """Return events, newest first."""
    found: list[tuple[int, int, Event]] = []
    for partition in range(await node.log.partitions(EVENTS)):
        mine: list[tuple[int, int, Event]] = []
        async for record in _backwards(node.log, partition, asked.before_ms):
            if record.at_ms < asked.after_ms or len(mine) >= asked.limit:
                break
            event = await _event(node, record, partition, asked.name)
            if event is not None and (not asked.cursor or event.internal < asked.cursor):
                mine.append((event.received_ms, record.offset, event))
        found.extend(mine)
    found.sort(key=lambda item: (item[0], item[2].internal, item[1]), reverse=True)
    return [event for _, _, event in found[: asked.limit]]


async def event_by_id(node: Node, internal: str) -> Event | None:
    """Return the event with this internal id, or None.

    Raises:
        ValueError: it is not a ULID.
    """
    at_ms = time_of(parse_ulid(internal))
    wanted = internal.upper()

    def test(event: Event) -> bool:
        return event.internal == wanted

    for partition in range(await node.log.partitions(EVENTS)):
        if (found := await _around(node, partition, at_ms, test)) is not None:
            return found
    # The sender may have chosen the id's time (a seed): look at the newest ones.
    for partition in range(await node.log.partitions(EVENTS)):
        async for record in _backwards(node.log, partition, 0):
            event = await _event(node, record, partition, "")
            if event is not None and test(event):
                return event
    return None


async def _around(
    node: Node, partition: int, at_ms: int, test: Callable[[Event], bool]
) -> Event | None:
    offset = await node.log.offset_at(EVENTS, partition, at_ms - AROUND_MS)
    while True:
        batch = await node.log.read(EVENTS, partition, offset)
        for record in batch.records:
            if record.at_ms > at_ms + AROUND_MS:
                return None
            event = await _event(node, record, partition, "")
            if event is not None and test(event):
                return event
        if not batch.records:
            return None
        offset = batch.next_offset


async def _backwards(log: Log, partition: int, before_ms: int) -> AsyncGenerator[Record]:
    """Yield records from the newest, or from a time, back."""
    bounds = await log.bounds(EVENTS, partition)
    end = await log.offset_at(EVENTS, partition, before_ms) if before_ms else bounds.end
    first = max(bounds.start, end - SCANNED_MAX)
    while end > first:
        start = max(first, end - CHUNK_OFFSETS)
        chunk: list[Record] = []
        offset = start
        while offset < end:
            batch = await log.read(EVENTS, partition, offset)
            chunk.extend(record for record in batch.records if record.offset < end)
            if not batch.records:
                break
            offset = batch.next_offset
        for record in reversed(chunk):
            yield record
        end = start


async def _event(node: Node, record: Record, partition: int, name: str) -> Event | None:
    """Read an event of this name ("" any); None for another one, or for what is not an event."""
    if name and said_in(record).get("name", name) != name:
        return None
    try:
        await node.intake.ready(EVENTS, record)
        event = node.intake.event(EVENTS, partition, record)
    except UndecodableError:
        return None  # it lies in the dead letters
    return event if not name or event.name == name else None
