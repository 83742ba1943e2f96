"""aiokafka's consumers, with types, and what needs their insides."""

# aiokafka has no types of its own.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportPrivateUsage=false

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from stepfold_engine.kafka.client import knowing

CANCEL_S = 1.0
"""How long a task may take to end before it is cancelled again."""


class Fetched(Protocol):
    """A record as a consumer gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Consumer(Protocol):
    """A consumer that has been started."""

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these partitions, and no others."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from an offset."""
        ...

    def pause(self, *partitions: TopicPartition) -> None:
        """Fetch nothing more of these partitions."""
        ...

    def resume(self, *partitions: TopicPartition) -> None:
        """Fetch again."""
        ...

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Fetched]]:
        """Return what was fetched; wait for it for a while."""
        ...

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset that is read next."""
        ...

    async def beginning_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        """Return the first readable offsets."""
        ...

    async def end_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        """Return the offsets behind what can be read."""
        ...

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Mapping[Any, Any]:
        """Return the first offsets at or after a time, None where there are none."""
        ...


async def start_consumer(arguments: Mapping[str, object], **more: object) -> Consumer:
    """Return a consumer that is connected and reads nothing yet."""
    given = cast("dict[str, Any]", {**arguments, **more})
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="none",
        # Events of others may be written in transactions: only those that were committed count.
        isolation_level="read_committed",
        **given,
    )
    knowing(consumer._client)  # noqa: SLF001 - no other way
    try:
        await consumer.start()
    except BaseException:
        await stop_consumer(cast("Consumer", consumer))
        raise
    return cast("Consumer", consumer)


async def stop_consumer(consumer: Consumer) -> None:
    """Close a consumer."""
    inner = cast("Any", consumer)
    # Its tasks must have begun: one that is cancelled before cancels whoever stops the consumer.
    await asyncio.sleep(0)
    # aiokafka cancels its requests and awaits them: one that waits for a while before it asks again
    # would pass its cancellation on to whoever closes the consumer, and leave the rest open.
    fetcher = inner._fetcher  # noqa: SLF001 - no other way
    if fetcher is not None:
        await _ended({fetcher._fetch_task})  # noqa: SLF001 - as above
        await _ended({*fetcher._pending_tasks})  # noqa: SLF001 - as above
        fetcher._pending_tasks.clear()  # noqa: SLF001 - as above
    await inner.stop()


async def _ended(tasks: set[asyncio.Task[object]]) -> None:
    """Cancel tasks until they have ended: some take one cancellation for another's."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_S)


def out_of_range(error: BaseException) -> set[TopicPartition]:
    """Return the partitions that do not hold the offset that was read."""
    if isinstance(error, OffsetOutOfRangeError) and error.args:
        return set(cast("Mapping[TopicPartition, int]", error.args[0]))
    return set()
