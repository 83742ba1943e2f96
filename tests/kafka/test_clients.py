"""What aiokafka's clients leave behind when they are given up, or closed at a bad moment."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from stepfold_engine.kafka.client import abandon, start_producer
from stepfold_engine.kafka.connection import client_arguments
from stepfold_engine.kafka.consumers import start_consumer, stop_consumer
from stepfold_engine.log.base import JOURNAL
from tests.parts.broker import Broker
from tests.parts.cluster import run
from tests.parts.opened import opened
from tests.parts.topics import client_properties

STEPS = 40


@pytest.mark.parametrize("kind", ["consumer", "producer"])
def test_a_start_that_is_cancelled_leaves_no_connection_open(
    kafka: Broker, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However far it had come; what is open is closed by the collector, which says so."""
    caplog.set_level(logging.ERROR)
    arguments = client_arguments(client_properties(kafka))

    async def start() -> Callable[[], Awaitable[None]]:
        if kind == "consumer":
            return partial(stop_consumer, await start_consumer(arguments))
        return partial(abandon, await start_producer(arguments))

    async def main() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        begun_s = loop.time()
        stop = await start()
        whole_s = loop.time() - begun_s
        await stop()
        cancelled = 0
        for step in range(STEPS):
            starting = asyncio.ensure_future(start())
            await asyncio.wait({starting}, timeout=whole_s * step / STEPS)
            starting.cancel()
            await asyncio.wait({starting})
            if starting.cancelled():
                cancelled += 1
            else:
                await starting.result()()
            del starting
            gc.collect()
        assert cancelled
        assert not complaints

    run(main)


def test_a_log_is_closed_while_its_reader_waits_to_ask_again(kafka: Broker) -> None:
    """Whoever closes it is not cancelled by that, and the rest is closed, too."""

    async def main() -> None:
        async with opened(kafka) as log:
            assert not (await log.read(JOURNAL, 0, 0, wait_ms=2_000)).records
            consumer: Any = log._tails._consumer
            consumer._fetcher._retry_backoff = 600.0
            for connection in [*consumer._client._conns.values()]:
                connection.close()
            for _ in range(100):
                await asyncio.sleep(0)

    run(main)
