"""The consumer group: partitions move with processes, and with nothing else."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from stepfold_engine.errors import LogError
from stepfold_engine.kafka.group import GroupAssignment
from stepfold_engine.kafka.properties import ClientProperties
from tests.parts.broker import Broker
from tests.parts.topics import client_properties, fresh_topics


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await main()

    asyncio.run(bounded())


def session_s(broker: Broker) -> int:
    """Return the shortest session: 6 s is what a broker allows unless told otherwise."""
    return 4 if broker.folder else 6


def quick(broker: Broker) -> ClientProperties:
    session_ms = str(1000 * session_s(broker))
    return client_properties(broker, session_timeout_ms=session_ms, heartbeat_interval_ms="200")


async def until(group: GroupAssignment, fits: Callable[[frozenset[int]], bool]) -> frozenset[int]:
    while True:
        named = await group.named()
        if fits(named):
            return named
        await group.changed()


def test_partitions_are_divided_and_stay_where_they_are(kafka: Broker) -> None:
    async def main() -> None:
        names, properties = await fresh_topics(kafka, 6), quick(kafka)
        first = await GroupAssignment.join(properties, names, "a")
        assert await first.named() == frozenset(range(6))
        second = await GroupAssignment.join(properties, names, "b")
        mine = await until(first, lambda named: len(named) == 3)
        others = await until(second, lambda named: len(named) == 3)
        assert mine | others == frozenset(range(6))
        for partition in range(6):
            assert await first.still_named(partition) == (partition in mine)
        third = await GroupAssignment.join(properties, names)  # one that comes and goes
        before = (mine, others)
        mine = await until(first, lambda named: len(named) == 2)
        others = await until(second, lambda named: len(named) == 2)
        assert mine < before[0]
        assert others < before[1]
        await third.close()
        assert await until(first, lambda named: len(named) == 3) > mine
        await until(second, lambda named: len(named) == 3)
        await second.close()  # its name keeps them until its session ends
        assert await until(first, lambda named: len(named) == 6) == frozenset(range(6))
        await first.close()

    run(main)


def test_a_process_that_restarts_under_its_name_finds_its_partitions(kafka: Broker) -> None:
    async def main() -> None:
        names, properties = await fresh_topics(kafka, 4), quick(kafka)
        first = await GroupAssignment.join(properties, names, "a")
        second = await GroupAssignment.join(properties, names, "b")
        mine = await until(first, lambda named: len(named) == 2)
        others = await until(second, lambda named: len(named) == 2)
        await second.close()
        again = await GroupAssignment.join(properties, names, "b")
        assert await again.named() == others
        assert await first.named() == mine
        await again.close()
        await first.close()

    run(main)


def test_a_loop_that_is_blocked_loses_no_partition(kafka: Broker) -> None:
    async def main() -> None:
        names, properties = await fresh_topics(kafka, 2), quick(kafka)
        group = await GroupAssignment.join(properties, names)
        other = await GroupAssignment.join(properties, names)
        mine = await until(group, lambda named: len(named) == 1)
        time.sleep(3 * session_s(kafka))  # noqa: ASYNC251 - as user code may do
        await asyncio.sleep(0.5)
        assert await group.named() == mine
        assert await group.still_named(next(iter(mine)))
        assert len(await other.named()) == 1
        await group.close()
        await other.close()

    run(main)


def test_a_process_that_was_stopped_asks_anew_and_learns_that_it_lost(kafka: Broker) -> None:
    """S21: who is not assigned stays quiet, whatever it remembers."""

    async def main() -> None:
        names, properties = await fresh_topics(kafka, 1), quick(kafka)
        stopped = await GroupAssignment.join(properties, names)
        assert await stopped.named() == frozenset({0})
        other = await GroupAssignment.join(properties, names)
        member = stopped._member
        assert member is not None
        # The whole thread stands still, as after SIGSTOP, until the group has given up on it.
        stopped._loop.call_soon_threadsafe(time.sleep, 3 * session_s(kafka))
        mine, others = await stopped.named(), await other.named()
        if mine:
            assert await until(other, bool) == frozenset({0})
            assert not await stopped.still_named(0)
        else:
            assert others == frozenset({0})
        await stopped.close()
        await other.close()

    run(main)


@pytest.mark.parametrize("sessions", [0.8, 2])
def test_a_process_that_slept_while_it_was_replaced_ends(kafka: Broker, sessions: float) -> None:
    """The newer one stays, also if the older one was silent for so long that it may be dropped."""

    async def main() -> None:
        names, properties = await fresh_topics(kafka, 2), quick(kafka)
        older = await GroupAssignment.join(properties, names, "a")
        older._loop.call_soon_threadsafe(time.sleep, sessions * session_s(kafka))
        newer = await GroupAssignment.join(properties, names, "a")
        with pytest.raises(LogError, match="under this process's name 'a'"):
            await until(older, lambda _: False)
        assert await newer.named() == frozenset({0, 1})
        assert await newer.still_named(1)
        await older.close()
        await newer.close()

    run(main)


def test_two_processes_of_one_name_do_not_duel(kafka: Broker) -> None:
    async def main() -> None:
        names, properties = await fresh_topics(kafka, 2), quick(kafka)
        older = await GroupAssignment.join(properties, names, "a")
        newer = await GroupAssignment.join(properties, names, "a")
        with pytest.raises(LogError, match="under this process's name 'a'"):
            await until(older, lambda _: False)
        assert not await older.still_named(0)
        assert await newer.named() == frozenset({0, 1})
        assert await newer.still_named(1)
        await older.close()
        await newer.close()

    run(main)


def test_a_group_that_cannot_be_joined_is_an_error(kafka: Broker) -> None:
    async def main() -> None:
        names = await fresh_topics(kafka, 1)
        wrong = client_properties(kafka, session_timeout_ms="10")
        with pytest.raises(LogError, match="cannot be joined"):
            await GroupAssignment.join(wrong, names)

    run(main)
