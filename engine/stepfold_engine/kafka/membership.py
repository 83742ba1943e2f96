"""A member of a consumer group, by aiokafka's own coordinator.

Nothing is read through it: it is there for what the group assigns. Partitions stay with who has
them, as far as can be (the sticky assignor).
"""

# aiokafka has no types of its own.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from stepfold_engine.kafka.client import knowing
from stepfold_engine.kafka.consumers import stop_consumer
from stepfold_engine.kafka.progress import Place, least, read, written
from stepfold_engine.kafka.standing import Standing, is_replaced

_log = logging.getLogger("stepfold")

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


@dataclass(frozen=True, slots=True)
class Told:
    """How far the partitions of a process have read.

    Attributes:
        inbox: the topic's name in Kafka; it has ``partitions``.
        places: all partitions that events are read from, in an order that is the same everywhere.
        owners: of each partition of this process, the next offset in its inbox, and those in
            ``places``, as far as they are known.
        common: those of ``places`` that this process commits for all.
    """

    inbox: str
    partitions: int
    places: Sequence[Place]
    owners: Mapping[int, tuple[int, Mapping[Place, int]]]
    common: Sequence[Place]


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
        knowing(self._consumer._client)  # noqa: SLF001 - no other way
        self._consumer.subscribe([options.topic], listener=self)
        self._standing = Standing(options.group, -1, "", options.name)
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

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride] - or so
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        """Hear that the group shares out anew. What it had stays a member's until it is told."""
        del revoked
        self._sharing = True
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no other way to know
        dropped = self._standing.name and self._joined and not coordinator.member_id
        # It was silent for too long, or another has its name. To join again would drop that one,
        # for ever in turns; so this stays here.
        if dropped and await self._is_replaced(coordinator):
            self._replaced.set()
            await asyncio.get_running_loop().create_future()

    async def _is_replaced(self, coordinator: Any) -> bool:
        while True:
            try:
                async with asyncio.timeout(self._options.session_ms / 1000):
                    return await is_replaced(coordinator, self._standing)
            except (KafkaError, TimeoutError) as error:
                _log.warning("the group %s cannot be asked: %r", self._options.group, error)
                await asyncio.sleep(POLL_S)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Hear what is this member's from now on."""
        found = set(assigned)
        self._consumer.pause(*found)  # only the assignment is wanted
        # Of two that believe to have a partition, the assignor believes the later one.
        coordinator = self._consumer._coordinator  # noqa: SLF001 - as above
        self._assignor.on_generation_assignment(coordinator.generation)
        self._standing = replace(
            self._standing, generation=coordinator.generation, member=coordinator.member_id
        )
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

    async def tell(self, told: Told) -> None:
        """Commit how far this member's partitions, and with them the namespace, have read.

        While the group shares out anew nothing is told.

        Raises:
            KafkaError: the group cannot be told.
        """
        coordinator = self._consumer._coordinator  # noqa: SLF001 - partitions of others are refused
        inbox = [TopicPartition(told.inbox, number) for number in range(told.partitions)]
        async with self._confirming:
            if self._sharing:
                return
            mine = {
                inbox[number]: OffsetAndMetadata(offset, written(told.places, positions))
                for number, (offset, positions) in told.owners.items()
            }
            assignment, next_round = self._consumer._subscription.subscription, self._round  # noqa: SLF001
            try:
                await coordinator.commit_offsets(assignment.assignment, mine)
                known = await coordinator.fetch_committed_offsets(inbox)
                said = [read(told.places, known[p].metadata) if p in known else {} for p in inbox]
                common = {
                    TopicPartition(*place): OffsetAndMetadata(offset, "")
                    for place in told.common
                    if (offset := least(place, said)) is not None
                }
                await coordinator.commit_offsets(assignment.assignment, common)
            except (CommitFailedError, IllegalStateError):
                await next_round.wait()

    async def stop(self) -> None:
        """Leave; one with a name keeps its partitions until its session ends."""
        if self._replaced.is_set():
            joining = self._consumer._coordinator._coordination_task  # noqa: SLF001 - as above
            joining.cancel()
            await asyncio.wait({joining})
        try:
            await stop_consumer(self._consumer)
        except KafkaError:
            await self._consumer._client.close()  # noqa: SLF001 - else connections stay open
