"""Telling the consumer group how far a process's partitions have read, every few seconds.

Only what is confirmed is told, so what a lag tool shows as read will not be read again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from stepfold_engine.core.partition import Partition
from stepfold_engine.errors import FencedError
from stepfold_engine.kafka.group import GroupAssignment
from stepfold_engine.kafka.membership import Told
from stepfold_engine.kafka.progress import Place
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import INBOX, TOPICS
from stepfold_engine.node import Node

TELL_EVERY_S = 5.0
LAST_S_MAX = 2.0


@asynccontextmanager
async def progress_told(
    node: Node, group: GroupAssignment, names: TopicNames, existing: Mapping[str, str]
) -> AsyncGenerator[None]:
    """Tell the group while the block runs, and once more behind it.

    Args:
        node: whose partitions; it must be running.
        group: of the process.
        names: of the topics.
        existing: the names in Kafka of topics of others, by what they are called among the inputs.
    """
    async with asyncio.TaskGroup() as tasks:
        telling = tasks.create_task(_keep_telling(node, group, names, existing))
        try:
            yield
        finally:
            telling.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S_MAX):
                    await _tell(node, group, names, existing)


async def _keep_telling(
    node: Node, group: GroupAssignment, names: TopicNames, existing: Mapping[str, str]
) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        await _tell(node, group, names, existing)


async def _tell(
    node: Node, group: GroupAssignment, names: TopicNames, existing: Mapping[str, str]
) -> None:
    def name(topic: str) -> str:
        return names.of(topic) if topic in TOPICS else existing[topic]

    owners: dict[int, tuple[int, Mapping[Place, int]]] = {}
    for number, owner in list(node.owners.items()):
        with contextlib.suppress(FencedError):
            read = await owner.query(_positions)
            inbox = read.pop((INBOX, number), 0)
            owners[number] = (inbox, {(name(t), p): offset for (t, p), offset in read.items()})
    places = [(name(topic), partition) for topic, partition in node.inputs]
    # Each is committed by whoever has the partition of journal and inbox that its place falls to.
    common = [place for at, place in enumerate(places) if at % node.partitions in owners]
    if owners:
        await group.tell(Told(names.of(INBOX), node.partitions, places, owners, common))


def _positions(state: Partition) -> dict[tuple[str, int], int]:
    known = {place: offset for place, (offset, _) in state.positions.items()}
    return {p: o for p, o in known.items() if p[0] != INBOX or p[1] == state.number}
