"""A member of a consumer group, by aiokafka's own coordinator.

Nothing is read through it: it is there for what the group assigns. Partitions stay with who has
them, as far as can be (the sticky assignor).
"""

# aiokafka has no types of its own.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """How a member takes part.

    Attributes:
        topic: whose partitions are shared out.
        group: the group's id.
        name: keeps the member's partitions for it while it restarts; "" does not.
        session_ms: how long it may be silent.
        heartbeat_ms: how often it says that it lives.
    """

    topic: str
    group: str
    name: str
    session_ms: int
    heartbeat_ms: int


class ReplacedError(Exception):
    """Another process has joined under this member's name."""


class Member(ConsumerRebalanceListener):  # type: ignore[misc] # it has no types
    """One member. Use it in one event loop.

    Args:
        arguments: what its client is made with.
        options: how it takes part.
        assigned: hears of every assignment.
    """

    def __init__(
        self,
        arguments: Mapping[str, object],
        options: MemberOptions,
        assigned: Callable[[frozenset[int]], None],
    ) -> None:
        self._options, self._assigned = options, assigned
        # The assignor keeps what it was told in its class; members of one process must not share.
        self._assignor: Any = type("Assignor", (StickyPartitionAssignor,), {})
        more = {
            "group_id": options.group,
            "group_instance_id": options.name or None,
            "session_timeout_ms": options.session_ms,
            "heartbeat_interval_ms": options.heartbeat_ms,
            "partition_assignment_strategy": (self._assignor,),
            "enable_auto_commit": False,
            "auto_offset_reset": "latest",
        }
        self._consumer: Any = AIOKafkaConsumer(**cast("dict[str, Any]", {**arguments, **more}))
        self._consumer.subscribe([options.topic], listener=self)
        self._heard_s = time.monotonic()
        self._joined = False
        self._sharing = True
        self._confirming = asyncio.Lock()
        self._replaced = asyncio.Event()
        self._round = asyncio.Event()

    async def start(self) -> None:
        """Join.

        Raises:
            KafkaError: it cannot.
        """
        await self._consumer.start()
        self._listen()

    def _listen(self) -> None:
        """Note when the group was last heard of."""
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no other way to know
        beat = coordinator._do_heartbeat  # noqa: SLF001 - as above

        async def heartbeat() -> bool:
            good = bool(await beat())
            if good:
                self._heard_s = time.monotonic()
            return good

        coordinator._do_heartbeat = heartbeat  # noqa: SLF001 - as above

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride] - or so
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        """Hear that the group shares out anew. What it had stays a member's until it is told."""
        del revoked
        self._sharing = True
        coordinator = self._consumer._coordinator  # noqa: SLF001 - as above
        dropped = self._joined and not coordinator.member_id
        silent_s = time.monotonic() - self._heard_s
        if self._options.name and dropped and silent_s < self._options.session_ms / 2000:
            # The group dropped a member that it has just heard of: it has another of that name.
            # To join again would drop that one, for ever in turns; so this stays here.
            self._replaced.set()
            await asyncio.get_running_loop().create_future()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Hear what is this member's from now on."""
        found = set(assigned)
        self._consumer.pause(*found)  # only the assignment is wanted
        # Of two that believe to have a partition, the assignor believes the later one.
        generation = self._consumer._coordinator.generation  # noqa: SLF001 - as above
        self._assignor.on_generation_assignment(generation)
        self._heard_s = time.monotonic()
        self._joined, self._sharing = True, False
        self._assigned(frozenset(p.partition for p in found))
        self._round.set()
        self._round = asyncio.Event()

    async def poll(self) -> None:
        """Say that this member is used, for a while.

        Raises:
            ReplacedError: another process has its name.
            KafkaError: the group cannot be used.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._replaced.wait()
        if self._replaced.is_set():
            raise ReplacedError
        with suppress(TimeoutError):  # it waits while the group shares out
            async with asyncio.timeout(POLL_S):
                await self._consumer.getmany(timeout_ms=0)

    async def confirm(self, partition: int) -> bool:
        """Ask the group whether a partition is still this member's.

        What this member remembers is not enough: it may have slept. A commit is refused by the
        group if it shared out anew since; then the next assignment says.

        Raises:
            KafkaError: the group cannot be asked.
        """
        where = TopicPartition(self._options.topic, partition)
        # One at a time, and not while the group shares out: aiokafka joins anew after a commit that
        # was refused, and would do so for ever if the next one was under way already.
        async with self._confirming:
            while True:
                if self._sharing:
                    await self._round.wait()
                if where not in self._consumer.assignment():
                    return False
                end = (await self._consumer.end_offsets([where]))[where]
                next_round = self._round
                try:
                    await self._consumer.commit({where: end})
                except (CommitFailedError, IllegalStateError):
                    await next_round.wait()
                else:
                    return True

    async def stop(self) -> None:
        """Leave; one with a name keeps its partitions until its session ends."""
        if self._replaced.is_set():
            joining = self._consumer._coordinator._coordination_task  # noqa: SLF001 - as above
            joining.cancel()
            await asyncio.wait({joining})
        try:
            await self._consumer.stop()
        except KafkaError:
            await self._consumer._client.close()  # noqa: SLF001 - else connections stay open
