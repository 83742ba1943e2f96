"""Intake: what becomes of the records that are a namespace's events.

They lie in ``events``, in any of the formats that anybody may write, and in existing topics that a
mapping makes events of (``formats.mapping.Source``). All are inputs of an owner in the same way:
their positions are part of its journal, so a record counts as read exactly when what follows from
it is durable, whoever dies, is fenced or wakes up as a zombie.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stepfold_engine.core.ending import values_of
from stepfold_engine.core.inputs import EventArrived
from stepfold_engine.core.partition import Partition
from stepfold_engine.deadletters import REDRIVEN_HEADER, DeadLetter, place_of
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.formats import read_event
from stepfold_engine.formats.confluent import Schemas, is_framed, number_in, read_framed
from stepfold_engine.formats.mapping import EARLIEST, Given, Source, mapped
from stepfold_engine.log.base import EVENTS, TOPICS, Log, Record
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import Event, check_taken
from stepfold_schemas.ids import partition_of

Input = tuple[str, int]
"""A partition that is read: topic and number."""


def input_of(topic: str) -> str:
    """Return what an existing topic is called among the inputs, which have names of their own.

    >>> input_of("shop.orders"), input_of("events")
    ('shop.orders', 'source:events')
    """
    return f"source:{topic}" if topic in TOPICS else topic


class Intake:
    """Reads events.

    Args:
        sources: existing topics that are events, too.
        schemas: those of a registry, if one is used.
        shared: ``events`` is other apps', too, and older than a namespace that is new.
    """

    def __init__(
        self,
        sources: Sequence[Source] = (),
        schemas: Schemas | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self._sources: Mapping[str, Source] = {input_of(s.topic): s for s in sources}
        self._schemas = schemas
        self._shared = shared
        self._in_force = asyncio.Event()

    def begin(self) -> None:
        """Let topics be read that were never read: the functions of this process are in force."""
        self._in_force.set()

    async def inputs(self, log: Log) -> list[Input]:
        """Return all partitions that events are read from."""
        topics = (EVENTS, *self._sources)
        return [(topic, n) for topic in topics for n in range(await log.partitions(topic))]

    async def beginnings(self, log: Log) -> list[tuple[str, int, int]]:
        """Return the places where a partition of a namespace that is new begins with ``events``.

        What others wrote before is none of its business. Only a partition that has decided nothing
        may ask, and it must note all of them together: of partitions of ``events`` that are added
        later nothing is known, and those are read from their first record on.

        Raises:
            LogError: the log cannot say.
        """
        if not self._shared:
            return []
        numbers = range(await log.partitions(EVENTS))
        return [(EVENTS, n, (await log.bounds(EVENTS, n)).end) for n in numbers]

    async def first(self, log: Log, topic: str, partition: int) -> int:
        """Return where a partition is read from that was never read, once it may be.

        What was written before a function was in force would start nothing, so a topic is not
        begun while the functions that came with its mapping are still being declared.

        Raises:
            LogError: the log cannot say.
        """
        source = self._sources.get(topic)
        if source is None:
            return 0
        await self._in_force.wait()
        if source.begin_ms == EARLIEST:
            return (await log.bounds(topic, partition)).start
        return await log.offset_at(topic, partition, source.begin_ms)

    def passes_over(self, topic: str, record: Record) -> bool:
        """Say whether a record is nothing, as its mapping says."""
        source = self._sources.get(topic)
        return source is not None and source.skip_empty and not record.value

    def needed(self, topic: str, record: Record) -> Sequence[int]:
        """Return the ids of the schemas that a record is read with."""
        if self._schemas is None:
            return ()
        source = self._sources.get(topic)
        if source is None:
            framed = [record.value]
        else:
            kinds = ((source.value_format, record.value), (source.key_format, record.key))
            framed = [data for kind, data in kinds if kind == "avro"]
        return [number_in(data) for data in framed if is_framed(data)]

    def is_ready(self, topic: str, record: Record) -> bool:
        """Say whether the schemas are known that a record is read with, or that there are none."""
        schemas = self._schemas
        return schemas is None or all(map(schemas.settled, self.needed(topic, record)))

    async def ready(self, topic: str, record: Record) -> None:
        """Wait until the schemas are known that a record is read with.

        A registry that is not there holds up who reads: a good record is no dead letter for it.
        """
        for number in self.needed(topic, record):
            assert self._schemas is not None, "else none is needed"
            await self._schemas.learn(number)

    def event(self, topic: str, partition: int, record: Record) -> Event:
        """Read a record, and add what its producer left out: an id, and when it was taken in.

        Where it lies is its id then, for its functions as well. It was not taken in after it was
        appended, whatever the producer's clock said: look-backs begin there.

        Raises:
            UndecodableError: it is not an event.
        """
        return _completed(self._read(topic, partition, record), record, topic, partition)

    def _read(self, topic: str, partition: int, record: Record) -> Event:
        source = self._sources.get(topic)
        if source is None:
            return read_event(record.value, record.headers, self._schemas)
        headers = dict(record.headers)
        given = Given(partition, record.offset, record.at_ms, record.value, record.key, headers)
        return mapped(source, given, lambda data: read_framed(data, self._schemas))

    def said(self, topic: str, partition: int, record: Record) -> dict[str, str]:
        """Return what is known of a record's event, unread: its name and its id, if they are."""
        source = self._sources.get(topic)
        if source is None:
            return said_in(record)
        said: dict[str, str] = {}
        if source.name.constant is not None:
            said["name"] = source.name.constant
        if source.id is None:
            said["id"] = f"{topic}-{partition}-{record.offset}"
        return said

    def identity(self, topic: str, partition: int, record: Record) -> dict[str, str]:
        """Read a record's event, of a format of others, only to return its name and its id.

        Such an event's data is written anew, so it can be read if this returns.

        Raises:
            UndecodableError: it is not an event, or one that nothing can be done with.
        """
        event = self.event(topic, partition, record)
        try:
            check_taken(event)
        except ValueError as error:
            raise UndecodableError(str(error)) from error
        return {"name": event.name, "id": event.id or event.internal}

    def arrived(self, topic: str, partition: int, record: Record, state: Partition) -> EventArrived:
        """Read a record for a partition of the journal.

        Raises:
            UndecodableError: it is not an event, or one that nothing can be done with, or its data
                is not a JSON object, or the headers speak of another event.
        """
        said = self._read(topic, partition, record)
        event = _completed(said, record, topic, partition)
        event_id = event.id or event.internal
        try:
            check_taken(event)
            values = values_of(event)
        except ValueError as error:
            raise UndecodableError(str(error)) from error
        meant = {"name": event.name, "id": event_id}
        for name, value in self.said(topic, partition, record).items():
            if value != meant[name]:
                raise UndecodableError(f"its header {name} says {value!r}, it is {meant[name]!r}")
        home = partition_of(event_id, state.count) == state.number
        as_it_is = event is said and codec.is_ours(record.value)
        raw = record.value if as_it_is else codec.encode(event)
        return EventArrived(event, raw, event_id, bool(event.id), record.at_ms, home, values)

    async def remade(self, letter: DeadLetter, value: bytes) -> Event | None:
        """Return the event that a dead letter of an existing topic is by now; None of ``events``.

        It keeps its identity: where it lay is its id, if the mapping gives none.

        Raises:
            RequestRefusedError: it is still none, or its topic is not mapped here.
        """
        topic, partition, offset = place_of(letter)
        if topic not in self._sources:
            return None
        record = Record(offset, letter.at_ms, value, letter.key, letter.headers)
        await self.ready(topic, record)
        try:
            event = self.event(topic, partition, record)
            check_taken(event)
        except ValueError as error:
            text = f"dead letter {letter.id} cannot be read yet: {error}"
            raise RequestRefusedError(422, text) from error
        return replace(event, id=event.id or event.internal)


def said_in(record: Record) -> dict[str, str]:
    """Return what a record's headers say of its event: its name and its id, if they do.

    The key says nothing: other producers key their records by whatever is to stay in order. In
    other formats these headers may mean anything.
    """
    if not codec.is_ours(record.value):
        return {}
    headers = dict(record.headers)
    found = ((name, headers.get(name)) for name in ("name", "id"))
    return {name: value.decode(errors="replace") for name, value in found if value}


def _completed(event: Event, record: Record, topic: str, partition: int) -> Event:
    if not (event.id or event.internal):
        place = f"{topic}-{partition}-{record.offset}"
        first = dict(record.headers).get(REDRIVEN_HEADER, b"").decode(errors="replace")
        event = replace(event, internal=first or place, id=first)
    if record.at_ms > 0 and not 0 < event.received_ms <= record.at_ms:
        event = replace(event, received_ms=record.at_ms)
    return event


EVENTS_ONLY = Intake()
"""Reads ``events``, without a registry."""
