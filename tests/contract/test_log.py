"""The contract of the ``Log`` port. Every adapter passes it; it is what the port means."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from stepfold_engine.errors import AppendRefusedError, LogError, RecordTooLargeError
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.log import embedded
from stepfold_engine.log.base import (
    EVENTS,
    JOURNAL,
    RECORD_BYTES_MAX,
    TOPICS,
    Log,
    NewRecord,
)
from stepfold_engine.log.embedded import EmbeddedLog
from stepfold_engine.log.memory import MemoryLog
from tests.parts.topics import client_properties, fresh_topics


class Time:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


Test = Callable[[Log, Time], Coroutine[Any, Any, None]]
Run = Callable[[Test], None]


LOGS = ["memory", "embedded", "embedded-slow-disk", pytest.param("kafka", marks=pytest.mark.kafka)]
# Of a topic whose records keep the time that they were stamped with, however old that is.
STAMPED = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}


@pytest.fixture(params=LOGS)
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs a test on a fresh log with two partitions a topic."""
    if request.param == "embedded-slow-disk":
        # Every commit counts as slow, and runs in a thread.
        monkeypatch.setattr(embedded, "SLOW_COMMIT_S", 0.0)
    broker = request.getfixturevalue("kafka") if request.param == "kafka" else None

    def runner(test: Test) -> None:
        async def main() -> None:
            time = Time()
            log: Log
            if request.param == "memory":
                log = MemoryLog(2, time)
            elif broker is not None:
                names = await fresh_topics(broker, settings=STAMPED)
                log = await KafkaLog.connect(client_properties(broker), names, time)
            else:
                log = EmbeddedLog.open(tmp_path / "log", 2, time, reserve_bytes=1 << 16)
            try:
                async with asyncio.timeout(30):
                    await test(log, time)
            finally:
                await log.close()

        asyncio.run(main())

    return runner


def records(*values: str) -> list[NewRecord]:
    return [NewRecord(v.encode(), b"k", (("name", v.encode()),)) for v in values]


async def values(log: Log, offset: int = 0, partition: int = 0) -> list[str]:
    found: list[str] = []
    while True:
        batch = await log.read(JOURNAL, partition, offset)
        if not batch.records:
            return found
        found += [r.value.decode() for r in batch.records]
        offset = batch.next_offset


def test_records_are_read_as_they_were_appended(run: Run) -> None:
    async def test(log: Log, time: Time) -> None:
        base = await log.append(JOURNAL, 0, records("a", "b"))
        time.ms += 5
        assert await log.append(JOURNAL, 0, records("c")) == (base or 0) + 2
        batch = await log.read(JOURNAL, 0, 0)
        assert [(r.offset, r.value, r.key, r.headers, r.at_ms) for r in batch.records] == [
            (0, b"a", b"k", (("name", b"a"),), 1_000_000),
            (1, b"b", b"k", (("name", b"b"),), 1_000_000),
            (2, b"c", b"k", (("name", b"c"),), 1_000_005),
        ]
        assert (batch.next_offset, batch.start) == (3, 0)

    run(test)


def test_partitions_and_topics_are_apart(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        for topic in TOPICS:
            assert await log.partitions(topic) == 2
        await log.append(JOURNAL, 0, records("zero"))
        await log.append(JOURNAL, 1, records("one"))
        await log.append(EVENTS, 0, records("event"))
        assert await values(log) == ["zero"]
        assert await values(log, partition=1) == ["one"]
        assert (await log.bounds(EVENTS, 1)).end == 0

    run(test)


def test_appends_under_way_together_are_all_durable_and_keep_the_order_of_calls(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        names = [f"{i}" for i in range(500)]
        bases = await asyncio.gather(*(log.append(JOURNAL, 0, records(n)) for n in names))
        assert list(bases) == list(range(500))
        assert await values(log) == names

    run(test)


def test_a_read_returns_at_least_one_record_and_about_bytes_max(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        await log.append(EVENTS, 0, [NewRecord(b"x" * 1000) for _ in range(10)])
        assert len((await log.read(EVENTS, 0, 0, bytes_max=1)).records) == 1
        batch = await log.read(EVENTS, 0, 2, bytes_max=3500)
        assert [r.offset for r in batch.records] == [2, 3, 4, 5]
        assert batch.next_offset == 6

    run(test)


def test_a_waiting_read_is_woken_by_an_append(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        reading = asyncio.ensure_future(log.read(EVENTS, 0, 0, wait_ms=20_000))
        await asyncio.sleep(0)
        await log.append(EVENTS, 0, records("now"))
        assert [r.value for r in (await reading).records] == [b"now"]
        assert (await log.read(EVENTS, 0, 1, wait_ms=1)).records == []

    run(test)


def test_a_trim_removes_what_lies_below_and_offsets_go_on(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        await log.append(JOURNAL, 0, records(*"abcdef"))
        await log.trim(JOURNAL, 0, 4)
        await log.trim(JOURNAL, 0, 2)
        bounds = await log.bounds(JOURNAL, 0)
        assert (bounds.start, bounds.end) == (4, 6)
        batch = await log.read(JOURNAL, 0, 0)
        assert batch.start == 4
        assert [r.offset for r in batch.records] == [4, 5]
        await log.trim(JOURNAL, 0, 99)
        assert (await log.bounds(JOURNAL, 0)).start == 6
        assert await log.append(JOURNAL, 0, records("g")) == 6

    run(test)


def test_long_trims_leave_nothing_behind(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        await log.append(JOURNAL, 0, records(*map(str, range(5000))))
        await log.trim(JOURNAL, 0, 4990)
        assert await values(log) == [str(i) for i in range(4990, 5000)]

    run(test)


def test_an_offset_is_found_by_time_even_if_the_clock_steps_back(run: Run) -> None:
    async def test(log: Log, time: Time) -> None:
        for step in (0, 10, -5, 20):
            time.ms += step
            await log.append(EVENTS, 0, records("x"))
        assert [await log.offset_at(EVENTS, 0, 1_000_000 + ms) for ms in (0, 1, 10, 11, 99)] == [
            0,
            1,
            1,
            3,
            4,
        ]

    run(test)


def test_a_record_that_is_too_large_is_refused_and_nothing_is_written(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        large = NewRecord(b"x" * (RECORD_BYTES_MAX + 1))
        with pytest.raises(RecordTooLargeError, match=str(RECORD_BYTES_MAX)):
            await log.append(JOURNAL, 0, [*records("small"), large])
        assert (await log.bounds(JOURNAL, 0)).end == 0

    run(test)


def test_a_partition_that_does_not_exist_is_an_error_and_harms_no_other(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        for topic, partition in (("nothing", 0), (EVENTS, 2), (EVENTS, -1)):
            with pytest.raises(AppendRefusedError, match="no partition"):
                await log.append(topic, partition, records("lost"))
            with pytest.raises(LogError, match="no partition"):
                await log.read(topic, partition, 0)
        assert await log.append(EVENTS, 0, records("kept")) == 0

    run(test)


def test_a_waiting_read_beyond_the_end_waits_for_its_record(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        reading = asyncio.ensure_future(log.read(EVENTS, 0, 2, wait_ms=20_000))
        await asyncio.sleep(0)
        for name in "abc":
            await log.append(EVENTS, 0, records(name))
        assert [r.value for r in (await reading).records] == [b"c"]

    run(test)


def test_a_long_read_pages_through_everything_in_order(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        for start in range(0, 3000, 500):
            names = [f"{i:04}" + "x" * 300 for i in range(start, start + 500)]
            await log.append(JOURNAL, 0, records(*names))
        for bytes_max in (1 << 10, 300_000, 4 << 20):
            offset, found = 0, list[int]()
            while offset < 3000:
                batch = await log.read(JOURNAL, 0, offset, bytes_max=bytes_max)
                assert sum(len(r.value) for r in batch.records) <= bytes_max + 400
                found += [int(r.value[:4]) for r in batch.records]
                offset = batch.next_offset
            assert found == list(range(3000))

    run(test)


def test_a_closed_log_refuses_appends(run: Run) -> None:
    async def test(log: Log, _: Time) -> None:
        await log.close()
        with pytest.raises(AppendRefusedError, match="closed"):
            await log.append(JOURNAL, 0, records("late"))

    run(test)
