"""A broker that stands still for a while: one of its own, since all who share it would wait."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from stepfold_engine.errors import AppendRefusedError, AppendUnknownError, LogError
from stepfold_engine.kafka import lanes
from stepfold_engine.kafka.connection import connected_admin
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from tests.parts.broker import Broker, NoBrokerError, on_this_machine, pause
from tests.parts.cluster import run
from tests.parts.fenced import fenced
from tests.parts.opened import opened, values
from tests.parts.topics import client_properties, fresh_topics

pytestmark = pytest.mark.xdist_group("a broker alone")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Generator[Broker]:
    """Give a broker that may be stopped, for nobody else uses it."""
    try:
        broker, stop = on_this_machine(tmp_path_factory.mktemp("alone"), session_ms=3_000)
    except NoBrokerError as error:
        pytest.skip(f"only a broker that is started for it may be stopped: {error}")
    yield broker
    stop()


@contextlib.contextmanager
def standing_still(broker: Broker) -> Generator[None]:
    """Let a broker hang while the block runs."""
    pid = int(Path(broker.folder, "1", "pid").read_text())
    pause(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_outage_is_waited_out_in_order(alone: Broker) -> None:
    """The broker hangs; appends wait, nothing is lost or doubled, and it goes on by itself."""

    async def main() -> None:
        async with opened(alone) as log:
            await log.append(JOURNAL, 0, [NewRecord(b"-1")])
            reading = asyncio.ensure_future(log.read(JOURNAL, 0, 1, wait_ms=60_000))
            await asyncio.sleep(0.5)
            with standing_still(alone):
                mine = [
                    asyncio.ensure_future(log.append(JOURNAL, 0, [NewRecord(b"%d" % i)]))
                    for i in range(50)
                ]
                await asyncio.sleep(2)
                assert not any(a.done() for a in mine)
            assert [await a for a in mine] == list(range(1, 51))
            assert (await reading).records[0].value == b"0"
            assert await values(log) == [b"%d" % i for i in range(-1, 50)]

    run(main)


def test_a_question_is_asked_again_when_its_request_timed_out(alone: Broker) -> None:
    """Brokers that are gone for longer than a request may take cost a reader time, no more."""

    async def main() -> None:
        async with opened(alone, request_timeout_ms="1000") as log:
            await log.append(JOURNAL, 0, [NewRecord(b"0")])
            with standing_still(alone):
                asking = asyncio.ensure_future(log.bounds(JOURNAL, 0))
                await asyncio.sleep(4)
            assert (await asking).end == 1

    run(main)


def test_a_cluster_that_names_no_broker_for_a_moment_is_asked_again(alone: Broker) -> None:
    """A broker that stood still for longer than its session is nobody until it has said hello."""

    async def main() -> None:
        with standing_still(alone):
            await asyncio.sleep(5)
        async with opened(alone, await fresh_topics(alone)) as log:
            assert await log.append(JOURNAL, 0, [NewRecord(b"after")]) == 0

    run(main)


def test_clients_begin_once_the_cluster_names_a_broker(alone: Broker) -> None:
    """Whoever is told of no broker, and then cut off, asks again, whatever it connects for."""

    async def main() -> None:
        names = await fresh_topics(alone)
        async with fenced(alone.servers, 3) as proxy:
            through = replace(alone, servers=proxy.servers)
            async with opened(through, names) as log:
                proxy.times = 2
                assert await log.append(JOURNAL, 0, [NewRecord(b"0")]) == 0
                assert proxy.times == 0
                proxy.times = 2
                assert [r.value for r in (await log.read(JOURNAL, 0, 0)).records] == [b"0"]
                proxy.times = 2
                await log.append(JOURNAL, 0, [NewRecord(b"1")])
                seen = await log.read(JOURNAL, 0, 1, wait_ms=30_000)
                assert [r.value for r in seen.records] == [b"1"]
            proxy.times = 100_000
            with pytest.raises(LogError, match="named no broker that is alive for 3 s"):
                await connected_admin(client_properties(through, request_timeout_ms="3000"))

    run(main)


def test_an_outage_that_lasts_pushes_back(alone: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing hangs for ever: every append ends, those that were not handed over are refused."""
    monkeypatch.setattr(lanes, "WAITING_BYTES_MAX", 100_000)

    async def main() -> None:
        limits = {"delivery_timeout_ms": "3000", "request_timeout_ms": "1000"}
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with opened(alone, None, **limits) as log:
            await log.append(EVENTS, 0, [NewRecord(b"before")])
            with standing_still(alone):
                mine = [
                    asyncio.ensure_future(log.append(EVENTS, 0, [NewRecord(b"x" * 10_000)]))
                    for _ in range(20)
                ]
                ended = await asyncio.gather(*mine, return_exceptions=True)
                assert [type(e) for e in ended[9:]] == [AppendRefusedError] * 11
                assert "wait already for the brokers" in str(ended[-1])
                others = [
                    e for e in ended if not isinstance(e, AppendUnknownError | AppendRefusedError)
                ]
                assert not others
                with pytest.raises(LogError):
                    await log.append(EVENTS, 0, [NewRecord(b"still down")])
            while True:
                with contextlib.suppress(LogError):
                    await log.append(EVENTS, 0, [NewRecord(b"after")])
                    break
            found = await values(log, EVENTS)
            assert found[0] == b"before"
            assert found[-1] == b"after"
        assert not complaints, "producers that are let go of say nothing"

    run(main)
