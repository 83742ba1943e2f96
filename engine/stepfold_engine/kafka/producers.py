"""Producers: one for journals, one for everything else, and new ones after a failure.

An idempotent producer never gives up a batch, and after a batch that failed its numbering has a
hole; so whoever meets a failure retires the producer. It is abandoned when nobody uses it any more:
what other partitions have under way in it may still succeed.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepfold_engine.kafka.client import KafkaError, Producer, abandon, start_producer
from stepfold_engine.log.base import JOURNAL

_log = logging.getLogger("stepfold")


@dataclass(slots=True)
class Live:
    """A producer and who uses it."""

    producer: Producer
    users: int = 0
    retired: bool = False


@dataclass(slots=True)
class _Seat:
    """Where the producer of some topics is, and who is starting it."""

    live: Live | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Producers:
    """Gives producers out and takes them back.

    Args:
        arguments: what they are made with.
    """

    def __init__(self, arguments: Mapping[str, object]) -> None:
        self._arguments = arguments
        self._seats = {True: _Seat(), False: _Seat()}
        self._leaving: set[asyncio.Task[None]] = set()

    async def take(self, topic: str) -> Live:
        """Return a producer for a topic, to be given back.

        Raises:
            KafkaError: none can be started now.
        """
        seat = self._seats[topic == JOURNAL]
        async with seat.starting:
            if seat.live is None:
                seat.live = Live(await start_producer(self._arguments))
            live = seat.live
            live.users += 1
            return live

    def give_back(self, live: Live, *, failed: bool) -> None:
        """Say that a producer is not used any more, and whether it may be used again."""
        live.users -= 1
        if failed and not live.retired:
            live.retired = True
            for seat in self._seats.values():
                if seat.live is live:
                    seat.live = None
        if live.retired and not live.users:
            task = asyncio.get_running_loop().create_task(_abandon(live.producer))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close all. Nothing may be under way."""
        for seat in self._seats.values():
            if seat.live is not None:
                live, seat.live = seat.live, None
                await abandon(live.producer)
        if self._leaving:
            await asyncio.wait(set(self._leaving))


async def _abandon(producer: Producer) -> None:
    try:
        await abandon(producer)
    except (KafkaError, OSError) as error:
        _log.warning("a Kafka producer was not closed cleanly: %r", error)
