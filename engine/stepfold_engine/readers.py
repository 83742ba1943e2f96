"""Inputs read from the log: events and the partition's inbox."""

import logging
from dataclasses import replace

from stepfold_engine.core.ending import values_of
from stepfold_engine.core.inputs import EventArrived, MessageArrived
from stepfold_engine.core.partition import Partition
from stepfold_engine.deadletters import REDRIVEN_HEADER, letter_of
from stepfold_engine.formats import read_event
from stepfold_engine.log.base import (
    DEAD_LETTERS,
    EVENTS,
    INBOX,
    RECORD_BYTES_MAX,
    Log,
    NewRecord,
    Record,
)
from stepfold_engine.owner import Entries, EventElsewhere, Moved, Owner
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Entry, InputRejected, PositionReset
from stepfold_schemas.events import Event, check_taken
from stepfold_schemas.ids import partition_of
from stepfold_schemas.messages import RunRequested, check_message

_log = logging.getLogger("stepfold")

WAIT_MS = 86_400_000
"""How long one read waits; an append wakes it at once."""
READ_BYTES = 1 << 20

REASON_CHARS_MAX = 1_000

LETTER_BYTES_MAX = RECORD_BYTES_MAX - (512 << 10)
"""The largest record of an inbox: what is decided of it holds it, and more."""


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
            read = batch.records[-1].offset + 1 if batch.records else max(offset, batch.start)
            if batch.next_offset > read:
                # What lies there holds no data (a log may have holes), and has been read.
                self._owner.submit(Moved(), (self._topic, self._partition, batch.next_offset))
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
            elif (elsewhere := self._elsewhere(record)) is not None:
                self._owner.submit(elsewhere, after)
            else:
                self._owner.submit(self._event(record), after)
        except UndecodableError as error:
            await self._reject(record, _kept(str(error)))

    def _elsewhere(self, record: Record) -> EventElsewhere | None:
        """Say, from the headers alone, whether another partition is an event's home."""
        said, state = said_in(record), self._owner.state
        if len(said) < 2 or partition_of(said["id"], state.count) == state.number:
            return None

        def read() -> EventArrived | None:
            try:
                return self._event(record)
            except UndecodableError:
                return None

        return EventElsewhere(said["name"], read)

    def _event(self, record: Record) -> EventArrived:
        return event_of(record, self._topic, self._partition, self._owner.state)

    async def _reject(self, record: Record, reason: str) -> None:
        """Keep what cannot be read in the dead letters, byte for byte, and go on behind it."""
        after = (self._topic, self._partition, record.offset + 1)
        owner = self._owner.state
        if self._topic == INBOX or _keeper(owner, record, self._partition) == owner.number:
            letter = letter_of(reason, self._topic, self._partition, record)
            await self._log.append(DEAD_LETTERS, owner.number, [letter])
            where = f"{self._topic}-{self._partition}-{record.offset}"
            _log.error("%s cannot be read, kept in the dead letters: %s", where, reason)
        entry: Entry = InputRejected(self._topic, self._partition, record.offset, reason)
        self._owner.submit(Entries(lambda _: [entry]), after)


def _kept(reason: str) -> str:
    """Return a reason as it is kept: it may quote the record, which is any length and any text."""
    text = reason.encode(errors="backslashreplace").decode()
    return text if len(text) <= REASON_CHARS_MAX else text[:REASON_CHARS_MAX] + "…"


def _message(record: Record) -> MessageArrived:
    if len(record.value) > LETTER_BYTES_MAX:
        size = len(record.value)
        raise UndecodableError(f"a letter of {size} bytes, the limit is {LETTER_BYTES_MAX}")
    letter = codec.decode_letter(record.value)
    message = codec.decode_message(letter.message)
    try:
        check_message(message)
        for event in message.events if isinstance(message, RunRequested) else ():
            _check_event(codec.decode_event(event))
    except ValueError as error:
        raise UndecodableError(str(error)) from error
    return MessageArrived(letter.source, letter.number, letter.request, message)


def _check_event(event: Event) -> dict[str, object]:
    """Return an event as plain values; raise ValueError if nothing can be done with it."""
    check_taken(event)
    return values_of(event)


def said_in(record: Record) -> dict[str, str]:
    """Return what a record's headers say of its event: its name and its id, if they do.

    The key says nothing: other producers key their records by whatever is to stay in order. In
    other formats these headers may mean anything.
    """
    if not codec.is_ours(record.value):
        return {}
    headers = dict(record.headers)
    said = {name: headers.get(name, b"").decode(errors="replace") for name in ("name", "id")}
    return {name: value for name, value in said.items() if value}


def _keeper(state: Partition, record: Record, partition: int) -> int:
    """Return the one partition that keeps an event's record if it cannot be read.

    It is one that looks at the record: its home, by its headers, if others may skip it.
    """
    said = said_in(record)
    return partition_of(said["id"], state.count) if len(said) == 2 else partition % state.count


def whole_event(record: Record, topic: str, partition: int) -> Event:
    """Read an event's record, and add what its producer left out: an id, and when it was taken in.

    Where it lies is its id then, for its functions as well. It was not taken in after it was
    appended, whatever the producer's clock said: look-backs begin there.

    Raises:
        UndecodableError: it is not an event.
    """
    return _completed(read_event(record.value, record.headers), record, topic, partition)


def _completed(event: Event, record: Record, topic: str, partition: int) -> Event:
    if not (event.id or event.internal):
        place = f"{topic}-{partition}-{record.offset}"
        first = dict(record.headers).get(REDRIVEN_HEADER, b"").decode(errors="replace")
        event = replace(event, internal=first or place, id=first)
    if record.at_ms > 0 and not 0 < event.received_ms <= record.at_ms:
        event = replace(event, received_ms=record.at_ms)
    return event


def event_of(record: Record, topic: str, partition: int, state: Partition) -> EventArrived:
    """Read an event's record for a partition.

    Raises:
        UndecodableError: it is not an event, or one that nothing can be done with, or its data is
            not a JSON object, or the headers speak of another event.
    """
    said = read_event(record.value, record.headers)
    event = _completed(said, record, topic, partition)
    event_id = event.id or event.internal
    try:
        values = _check_event(event)
    except ValueError as error:
        raise UndecodableError(str(error)) from error
    meant = {"name": event.name, "id": event_id}
    for name, value in said_in(record).items():
        if value != meant[name]:
            raise UndecodableError(f"its header {name} says {value!r}, it is {meant[name]!r}")
    home = partition_of(event_id, state.count) == state.number
    as_it_is = event is said and codec.is_ours(record.value)
    raw = record.value if as_it_is else codec.encode(event)
    return EventArrived(event, raw, event_id, bool(event.id), record.at_ms, home, values)


def event_record(event: Event) -> NewRecord:
    """Return the record that an event is written as, keyed by its id.

    Its headers let partitions skip it that it does not concern.
    """
    key = (event.id or event.internal).encode()
    return NewRecord(codec.encode(event), key, (("name", event.name.encode()), ("id", key)))


def readers_of(log: Log, owner: Owner, events: int) -> list[Reader]:
    """Return the readers that a partition needs: every events partition, and its inbox."""
    inbox = Reader(log, owner, INBOX, owner.state.number)
    return [*(Reader(log, owner, EVENTS, p) for p in range(events)), inbox]
