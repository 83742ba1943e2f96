"""Inputs read from the log: events and the partition's inbox."""

import logging

from stepfold_engine.core.ending import values_of
from stepfold_engine.core.inputs import EventArrived, MessageArrived
from stepfold_engine.core.partition import Partition
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, INBOX, Log, NewRecord, Record
from stepfold_engine.owner import Entries, Moved, Owner
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Entry, InputRejected, PositionReset
from stepfold_schemas.events import Event
from stepfold_schemas.ids import partition_of

_log = logging.getLogger("stepfold")

WAIT_MS = 86_400_000
"""How long one read waits; an append wakes it at once."""
READ_BYTES = 1 << 20


class Reader:
    """Reads one partition of a topic, from where the owner's state says, for ever."""

    def __init__(self, log: Log, owner: Owner, topic: str, partition: int) -> None:
        self._log, self._owner = log, owner
        self._topic, self._partition = topic, partition

    async def run(self) -> None:
        """Read until cancelled."""
        state = self._owner.state
        offset = state.positions.get((self._topic, self._partition), (0, 0))[0]
        while True:
            batch = await self._log.read(
                self._topic, self._partition, offset, bytes_max=READ_BYTES, wait_ms=WAIT_MS
            )
            if batch.start > offset:
                self._reset(offset, batch.start)
            for record in batch.records:
                await self._owner.room()
                await self._take(record)
            offset = batch.next_offset

    def _reset(self, expected: int, start: int) -> None:
        """Report that records were removed before they were read. Nothing is skipped silently."""
        topic, partition = self._topic, self._partition
        _log.error(
            "partition %d: %s/%d begins at offset %d; %d records from %d on were removed unread."
            " Keep that topic longer than the longest time without an owner.",
            self._owner.state.number,
            topic,
            partition,
            start,
            start - expected,
            expected,
        )
        entry: Entry = PositionReset(topic, partition, expected, start)
        self._owner.submit(Entries(lambda _: [entry]), (topic, partition, start))

    async def _take(self, record: Record) -> None:
        after = (self._topic, self._partition, record.offset + 1)
        try:
            if self._topic == INBOX:
                self._owner.submit(_message(record), after)
            elif _concerns(self._owner.state, record):
                arrived = event_of(record, self._topic, self._partition, self._owner.state)
                self._owner.submit(arrived, after)
            else:
                self._owner.submit(Moved(), after)
        except UndecodableError as error:
            await self._reject(record, str(error))

    async def _reject(self, record: Record, reason: str) -> None:
        """Keep what cannot be read in the dead letters, byte for byte, and go on behind it."""
        after = (self._topic, self._partition, record.offset + 1)
        owner = self._owner.state
        if self._topic == INBOX or self._partition % owner.count == owner.number:
            where = f"{self._topic}-{self._partition}-{record.offset}"
            headers = (
                *record.headers,
                ("stepfold.error", reason.encode()),
                ("stepfold.source", where.encode()),
            )
            letter = NewRecord(record.value, record.key, headers)
            await self._log.append(DEAD_LETTERS, owner.number, [letter])
            _log.error("%s cannot be read, kept in the dead letters: %s", where, reason)
        entry: Entry = InputRejected(self._topic, self._partition, record.offset, reason)
        self._owner.submit(Entries(lambda _: [entry]), after)


def _message(record: Record) -> MessageArrived:
    letter = codec.decode_letter(record.value)
    message = codec.decode_message(letter.message)
    return MessageArrived(letter.source, letter.number, letter.request, message)


def _concerns(state: Partition, record: Record) -> bool:
    """Say, from key and headers alone, whether this partition must look at an event."""
    name = dict(record.headers).get("name")
    if name is None or not record.key:
        return True
    home = partition_of(record.key.decode(errors="replace"), state.count)
    return home == state.number or state.waits.wants(name.decode(errors="replace"))


def event_of(record: Record, topic: str, partition: int, state: Partition) -> EventArrived:
    """Read an event's record.

    Raises:
        UndecodableError: it is not an event, or its data is not a JSON object.
    """
    event = codec.decode_event(record.value)
    event_id = event.id or event.internal or f"{topic}-{partition}-{record.offset}"
    try:
        values = values_of(event)
    except ValueError as error:
        raise UndecodableError(f"the event's data is not JSON: {error}") from error
    home = partition_of(event_id, state.count) == state.number
    return EventArrived(event, record.value, event_id, bool(event.id), record.at_ms, home, values)


def event_record(event: Event) -> NewRecord:
    """Return the record that an event is written as, keyed by its id."""
    key = (event.id or event.internal).encode()
    return NewRecord(codec.encode(event), key, (("name", event.name.encode()),))


def readers_of(log: Log, owner: Owner, events: int) -> list[Reader]:
    """Return the readers that a partition needs: every events partition, and its inbox."""
    inbox = Reader(log, owner, INBOX, owner.state.number)
    return [*(Reader(log, owner, EVENTS, p) for p in range(events)), inbox]
