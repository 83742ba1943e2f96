"""Inputs read from the log: everything with events, and the partition's inbox."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepfold_engine.addresses import Addresses
from stepfold_engine.core.ending import values_of
from stepfold_engine.core.inputs import EventArrived, MessageArrived
from stepfold_engine.deadletters import letter_of
from stepfold_engine.errors import NewerReleaseError
from stepfold_engine.formats.cloud import headers_of
from stepfold_engine.intake import Input, Intake
from stepfold_engine.log.base import (
    DEAD_LETTERS,
    INBOX,
    RECORD_BYTES_MAX,
    Log,
    NewRecord,
    Record,
)
from stepfold_engine.owner import Entries, EventsElsewhere, Moved, Owner, Place
from stepfold_schemas import codec
from stepfold_schemas.codec import NewerSchemaError, UndecodableError
from stepfold_schemas.entries import Entry, InputRejected, PositionReset
from stepfold_schemas.events import Event, check_taken
from stepfold_schemas.ids import partition_of
from stepfold_schemas.messages import DebounceRequested, Message, RunRequested, check_message

_log = logging.getLogger("stepfold")

WAIT_MS = 86_400_000
"""How long one read waits; an append wakes it at once."""
READ_BYTES = 1 << 20
SLICE = 256
"""How many records are looked at before others of the process have their turn."""

REASON_CHARS_MAX = 1_000

LETTER_BYTES_MAX = RECORD_BYTES_MAX - (512 << 10)
"""The largest record of an inbox: what is decided of it holds it, and more."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the readers of a process share.

    Attributes:
        intake: reads events.
        addresses: of those that are read.
        turn: taken by the one that looks at events. All partitions read all events, so behind a
            great many of them there are readers enough to keep everything else waiting; and who
            takes turns reads side by side, which is what makes it worth to share.
    """

    intake: Intake
    addresses: Addresses
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Reader:
    """Reads one partition of a topic, from where the owner's state says, for ever."""

    def __init__(self, log: Log, owner: Owner, sharing: Sharing, place: Input) -> None:
        self._log, self._owner, self._sharing = log, owner, sharing
        self._intake = sharing.intake
        self._topic, self._partition = place

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            NewerReleaseError: a message is of a newer release.
            LogError: the log cannot be read.
        """
        offset = await self._begin()
        while True:
            batch = await self._log.read(
                self._topic, self._partition, offset, bytes_max=READ_BYTES, wait_ms=WAIT_MS
            )
            if batch.start > offset:
                self._reset(offset, batch.start)
            await self._take_all(batch.records)
            read = batch.records[-1].offset + 1 if batch.records else max(offset, batch.start)
            if batch.next_offset > read:
                # What lies there holds no data (a log may have holes), and has been read.
                self._owner.submit(Moved(), (self._topic, self._partition, batch.next_offset))
            offset = batch.next_offset

    async def _begin(self) -> int:
        """Return where to read from."""
        place = (self._topic, self._partition)
        known = self._owner.known(*place)
        if known is not None:
            return known
        offset = await self._intake.first(self._log, *place)
        if offset:
            # Noted, so that it is the same for the next owner, whatever is removed meanwhile.
            self._owner.submit(Moved(), (*place, offset))
        return offset

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

    def _after(self, record: Record) -> Place:
        return self._topic, self._partition, record.offset + 1

    async def _take_all(self, records: Sequence[Record]) -> None:
        """Submit records, some at a time, so that nothing else in the process waits for long."""
        taken = 0
        while taken < len(records):
            await self._owner.room()
            some = records[taken : taken + SLICE]
            if self._topic == INBOX:
                number, reason = self._take_messages(some)
            else:
                async with self._sharing.turn:
                    number, reason = self._take_events(some)
            taken += number
            if reason:
                await self._reject(records[taken], reason)
                taken += 1
            elif number < len(some):
                await self._intake.ready(self._topic, records[taken])
            elif taken < len(records):
                await asyncio.sleep(0)

    def _take_messages(self, records: Sequence[Record]) -> tuple[int, str]:
        """Submit messages; return how many, and why the next one cannot be read.

        Raises:
            NewerReleaseError: the next one is of a newer release.
        """
        for number, record in enumerate(records):
            try:
                self._owner.submit(_message(record), self._after(record))
            except NewerSchemaError as error:
                # Its sender is a newer release: in the dead letters it would be lost, and block
                # all that the sender says after it.
                place = (self._topic, self._partition, record.offset)
                raise NewerReleaseError(*place, error.fingerprint) from error
            except UndecodableError as error:
                return number, _kept(str(error))
        return len(records), ""

    def _take_events(self, records: Sequence[Record]) -> tuple[int, str]:
        """Submit events; return how many, and why the next one cannot be read, if that is why."""
        elsewhere: list[tuple[str, Record]] = []
        for number, record in enumerate(records):
            if not self._intake.is_ready(self._topic, record):
                self._submit_elsewhere(elsewhere)
                return number, ""
            try:
                taken = self._taken(record)
            except UndecodableError as error:
                self._submit_elsewhere(elsewhere)
                return number, _kept(str(error))
            if isinstance(taken, str):
                elsewhere.append((taken, record))
                continue
            self._submit_elsewhere(elsewhere)
            elsewhere = []
            self._owner.submit(taken, self._after(record))
        self._submit_elsewhere(elsewhere)
        return len(records), ""

    def _taken(self, record: Record) -> EventArrived | Moved | str:
        """Return the event that a record is; only its name, if its home is another partition.

        Raises:
            UndecodableError: it is not an event.
        """
        if self._intake.passes_over(self._topic, record):
            return Moved()
        address = self._sharing.addresses.of(self._topic, self._partition, record)
        if address is None or address.home == self._owner.state.number:
            return self._event(record)
        return address.name

    def _submit_elsewhere(self, events: list[tuple[str, Record]]) -> None:
        if events:
            self._owner.submit(EventsElsewhere(events, self._read), self._after(events[-1][1]))

    def _read(self, record: Record) -> EventArrived | None:
        """Read an event whose home is another partition; that one deals with what is no event."""
        try:
            return self._event(record)
        except UndecodableError:
            return None

    def _event(self, record: Record) -> EventArrived:
        return self._intake.arrived(self._topic, self._partition, record, self._owner.state)

    def _said(self, record: Record) -> dict[str, str]:
        return self._intake.said(self._topic, self._partition, record)

    def _keeper(self, record: Record) -> int:
        """Return the one partition that keeps an event's record if it cannot be read.

        It is one that looks at the record: its home, by what is known of it, if others may skip it.
        """
        said, count = self._said(record), self._owner.state.count
        return partition_of(said["id"], count) if len(said) == 2 else self._partition % count

    async def _reject(self, record: Record, reason: str) -> None:
        """Keep what cannot be read in the dead letters, byte for byte, and go on behind it."""
        owner = self._owner.state
        if self._topic == INBOX or self._keeper(record) == owner.number:
            letter = letter_of(reason, self._topic, self._partition, record)
            await self._log.append(DEAD_LETTERS, owner.number, [letter])
            where = f"{self._topic}-{self._partition}-{record.offset}"
            _log.error("%s cannot be read, kept in the dead letters: %s", where, reason)
        entry: Entry = InputRejected(self._topic, self._partition, record.offset, reason)
        self._owner.submit(Entries(lambda _: [entry]), self._after(record))


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
        for raw in _events_in(message):
            event = codec.decode_event(raw)
            check_taken(event)
            values_of(event)
    except ValueError as error:
        raise UndecodableError(str(error)) from error
    return MessageArrived(letter.source, letter.number, letter.request, message)


def _events_in(message: Message) -> Sequence[bytes]:
    match message:
        case RunRequested(events=events):
            return events
        case DebounceRequested(event=event):
            return [event]
        case _:
            return ()


def event_record(event: Event) -> NewRecord:
    """Return the record that an event is written as, keyed by its id.

    Its headers let partitions skip it that it does not concern, and tell others what it is.
    """
    key = (event.id or event.internal).encode()
    own = (("name", event.name.encode()), ("id", key))
    return NewRecord(codec.encode(event), key, (*own, *headers_of(event)))


async def begin(log: Log, owner: Owner, intake: Intake) -> None:
    """Let a partition that has decided nothing note where it begins to read; others know.

    Raises:
        LogError: the log cannot say.
    """
    if owner.state.seq == 0:
        owner.begin_at(await intake.beginnings(log))


def readers_of(log: Log, owner: Owner, sharing: Sharing, events: Sequence[Input]) -> list[Reader]:
    """Return the readers that a partition needs: everything with events, and its inbox."""
    places = [*events, (INBOX, owner.state.number)]
    return [Reader(log, owner, sharing, place) for place in places]
