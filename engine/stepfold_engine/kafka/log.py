"""The log on Kafka (``log.base.Log``): a topic for each of ours, every append acknowledged by all.

Appends go through ``lanes``, reads near the end through ``tails``, all others through ``points``,
or ``chunks`` if they are of topics that every partition of the process reads.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from stepfold_engine.errors import AppendRefusedError, LogError
from stepfold_engine.kafka.chunks import Chunks
from stepfold_engine.kafka.client import (
    LOOK_S,
    Admin,
    KafkaError,
    TopicPartition,
    may_pass,
)
from stepfold_engine.kafka.connection import client_arguments, connected_admin
from stepfold_engine.kafka.consumers import Consumer, out_of_range, start_consumer, stop_consumer
from stepfold_engine.kafka.lanes import Lanes, Target
from stepfold_engine.kafka.points import Points
from stepfold_engine.kafka.producers import Producers
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.tails import Tails
from stepfold_engine.kafka.topics import BATCH_BYTES_MAX, TopicNames, check, existing_topics
from stepfold_engine.log.base import (
    INBOX,
    JOURNAL,
    TOPICS,
    Batch,
    Bounds,
    NewRecord,
    check_sizes,
)

_log = logging.getLogger("stepfold")

_T = TypeVar("_T")

DELIVERY_MS = 30_000
ASK_S = 30.0
SHARED_BYTES = 256 << 10
"""How much is fetched at once of what all partitions read: each may be at another place."""
_OWNED = (INBOX, JOURNAL)


@dataclass(slots=True)
class _Place:
    """What is known of a partition. Both bounds only grow.

    Attributes:
        start: records below are gone.
        end: records below can be read.
    """

    target: Target
    where: TopicPartition
    start: int = 0
    end: int = -1


class KafkaLog:
    """A log on a Kafka cluster. Make it with ``connect``."""

    def __init__(
        self, properties: ClientProperties, admin: Admin, now_ms: Callable[[], int]
    ) -> None:
        arguments = client_arguments(properties)
        compression = properties.text("compression.type", "none")
        self._admin = admin
        self._asker: Consumer
        self._producers = Producers(
            arguments
            | {
                "max_batch_size": BATCH_BYTES_MAX,
                "compression_type": None if compression == "none" else compression,
            }
        )
        delivery_s = properties.number("delivery.timeout.ms", DELIVERY_MS) / 1000
        self._lanes = Lanes(self._producers, now_ms, delivery_s)
        reading = arguments | {"client_rack": properties.text("client.rack") or None}
        self._points, self._tails = Points(reading), Tails(reading)
        self._chunks = Chunks(Points(reading, SHARED_BYTES))
        self._places: dict[str, list[_Place]] = {}
        self._closed = False

    @classmethod
    async def connect(
        cls,
        properties: ClientProperties,
        names: TopicNames,
        now_ms: Callable[[], int],
        existing: Mapping[str, str] = {},
    ) -> Self:
        """Connect to the cluster and look at the topics.

        Args:
            properties: of the clients.
            names: of the topics, which must be there.
            now_ms: stamps records, if their topic does not take the broker's time.
            existing: topics of others that are read, by what they are called here.

        Raises:
            LogError: no broker can be used, a topic is missing, or is not as it must be.
        """
        admin = await connected_admin(properties)
        try:
            found, advice = await check(admin, names)
            for difference in advice:
                _log.warning("%s", difference)
            log = cls(properties, admin, now_ms)
            for topic in TOPICS:
                name = names.of(topic)
                limit = int(found.settings[name]["max.message.bytes"])
                log._add(topic, name, found.partitions(name), limit)
            for topic, count in (await existing_topics(admin, existing.values())).items():
                for called in [c for c, name in existing.items() if name == topic]:
                    log._add(called, topic, count, 0)
            log._asker = await start_consumer(client_arguments(properties))
        except BaseException as error:
            await admin.close()
            if isinstance(error, KafkaError | OSError):
                raise LogError(f"the log cannot be opened: {error!r}") from error
            raise
        return log

    def _add(self, topic: str, name: str, count: int, bytes_max: int) -> None:
        self._places[topic] = [
            _Place(Target(topic, name, number, bytes_max), TopicPartition(name, number))
            for number in range(count)
        ]

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic had when the log was opened."""
        return len(self._places[topic])

    def _place(self, topic: str, partition: int) -> _Place:
        places = self._places.get(topic, [])
        if not 0 <= partition < len(places):
            raise LogError(f"there is no partition {partition} of {topic!r}")
        return places[partition]

    # Writing.

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int | None:
        """Append records; see the port."""
        if self._closed:
            raise AppendRefusedError("the log is closed")
        try:
            place = self._place(topic, partition)
        except LogError as error:
            raise AppendRefusedError(str(error)) from error
        check_sizes(topic, partition, records)
        return await self._lanes.append(place.target, records)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove records below an offset of an inbox or a journal.

        Events are shared with other apps, and dead letters are for people: both are kept as long
        as the retention of their topic says, and this does nothing.
        """
        place = self._place(topic, partition)
        if topic not in _OWNED:
            return
        bounds = await self.bounds(topic, partition)
        before = min(before, bounds.end)
        if before <= bounds.start:
            return
        try:
            await _answer(place, lambda: self._admin.trim(place.where, before))
        except LogError as error:
            raise LogError(f"{place.target} was not trimmed: {error}") from error
        place.start = max(place.start, before)
        if (tail := self._tails.get(place.where)) is not None:
            tail.forget_below(before)

    # Reading.

    async def read(
        self, topic: str, partition: int, offset: int, *, bytes_max: int = 1 << 20, wait_ms: int = 0
    ) -> Batch:
        """Read records at or after an offset; see the port."""
        place = self._place(topic, partition)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_ms / 1000
        tail = self._tails.get(place.where)
        # At the end of a tail it is enough to wait: what is appended arrives there.
        found = None
        if tail is None or not wait_ms or offset < tail.next:
            found = await self._read_now(place, offset, bytes_max)
        while found is None and not self._closed and loop.time() < until_s:
            tail = self._tails.begin(place.where, place.end)
            try:
                async with asyncio.timeout_at(until_s):
                    while offset >= tail.next and self._tails.get(place.where) is tail:
                        await tail.news()
            except TimeoutError:
                pass
            found = await self._read_now(place, offset, bytes_max)
        return found or Batch([], max(offset, place.start), place.start)

    async def _read_now(self, place: _Place, offset: int, bytes_max: int) -> Batch | None:
        """Read what is there; None if there is nothing at or after the offset."""
        tail = self._tails.get(place.where)
        if tail is not None and tail.covers(offset):
            return Batch(*tail.from_offset(offset, bytes_max), place.start)
        if offset >= place.end and not self._closed:
            await self._ask(place)
        points = self._points if place.target.topic in _OWNED else self._chunks
        while not self._closed:
            first = max(offset, place.start)
            if first >= place.end:
                break
            try:
                records, after = await points.read(place.where, first, place.end, bytes_max)
            except KafkaError as error:
                if not out_of_range(error):
                    raise LogError(f"{place.target} cannot be read: {error!r}") from error
                before = (place.start, place.end)
                await self._ask(place)
                if (place.start, place.end) == before:
                    text = f"offset {first} is missing, between {before[0]} and {before[1]}"
                    raise LogError(f"{place.target}: {text}") from error
                continue
            return Batch(records, after, place.start)
        return None

    async def _ask(self, place: _Place) -> None:
        """Ask the partition's leader for its bounds."""
        starts, ends = await _answer(
            place,
            lambda: asyncio.gather(
                self._asker.beginning_offsets([place.where]),
                self._asker.end_offsets([place.where]),
            ),
        )
        place.start = max(place.start, starts[place.where])
        place.end = max(place.end, ends[place.where])

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """Return a partition's start and end."""
        place = self._place(topic, partition)
        await self._ask(place)
        return Bounds(place.start, max(place.start, place.end))

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the first offset appended at or after a time, or the end."""
        place = self._place(topic, partition)
        if at_ms <= 0:
            return (await self.bounds(topic, partition)).start
        found = await _answer(place, lambda: self._asker.offsets_for_times({place.where: at_ms}))
        at = found.get(place.where)
        return at.offset if at is not None else (await self.bounds(topic, partition)).end

    async def close(self) -> None:
        """Finish appends under way and let go of everything."""
        if self._closed:
            return
        self._closed = True
        await self._lanes.close()
        await self._tails.close()
        await self._producers.close()
        await self._points.close()
        await self._chunks.close()
        await stop_consumer(self._asker)
        await self._admin.close()


async def _answer(place: _Place, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until a broker answers, also over requests that time out while one is gone."""
    latest: KafkaError | None = None
    try:
        async with asyncio.timeout(ASK_S):
            while True:
                try:
                    return await ask()
                except KafkaError as error:
                    if not may_pass(error):
                        raise
                    latest = error
                await asyncio.sleep(LOOK_S)
    except (KafkaError, OSError, TimeoutError) as error:
        text = f"no broker answers ({latest or error!r})"
        raise LogError(f"{place.target}: {text}") from error
