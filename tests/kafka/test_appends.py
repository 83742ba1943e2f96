"""What only a real broker shows: order, doubt, outages, other producers' records between."""

import asyncio
import contextlib

import pytest
from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]
from aiokafka.errors import KafkaError  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.errors import (
    AppendRefusedError,
    AppendUnknownError,
    RecordTooLargeError,
)
from stepfold_engine.kafka.client import Producer
from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, NewRecord
from tests.parts.broker import Broker
from tests.parts.cluster import run
from tests.parts.opened import log_names, opened, values
from tests.parts.topics import fresh_topics, now_ms


def test_a_decision_is_one_record_whatever_lies_between(kafka: Broker) -> None:
    """S1: an append of many records may be cut; each record is whole, and all are in order."""

    async def main() -> None:
        async with opened(kafka) as log, opened(kafka, log_names(log)) as other:
            mine = [NewRecord(b"B%05d" % i + b"x" * 1_000) for i in range(3_000)]
            writing = asyncio.ensure_future(log.append(JOURNAL, 0, mine))
            claims = 0
            while not writing.done():
                await other.append(JOURNAL, 0, [NewRecord(b"CLAIM")])
                claims += 1
            base, found = writing.result(), await values(log)
            assert [v[:6] for v in found if v != b"CLAIM"] == [b"B%05d" % i for i in range(3_000)]
            assert found.count(b"CLAIM") == claims
            first = found.index(mine[0].value)
            together = found[first : first + 3_000] == [r.value for r in mine]
            # The offset is told only if it tells where all of them lie.
            assert base == (first if together else None)

    run(main)


def test_s8_concurrent_appends_do_not_overtake(kafka: Broker) -> None:
    """S8: what is appended at the same time keeps the order of calls, also over full batches."""

    async def main() -> None:
        async with opened(kafka) as log:
            sizes = [10, 50_000, 700_000, 3_000_000]
            mine = [
                NewRecord(b"%05d" % i + b"x" * sizes[i % 4 if i < 12 else 0]) for i in range(900)
            ]
            bases = await asyncio.gather(*(log.append(INBOX, 0, [r]) for r in mine))
            assert list(bases) == list(range(900))
            assert [v[:5] for v in await values(log, INBOX)] == [b"%05d" % i for i in range(900)]

    run(main)


def test_s8_one_that_is_too_large_is_refused_alone(kafka: Broker) -> None:
    """S8: m10 is refused, m11 goes; whoever sends in order sees it and replaces m10."""

    async def main() -> None:
        async with opened(kafka) as log:
            large = NewRecord(b"x" * (10 << 20))
            done = await asyncio.gather(
                log.append(INBOX, 0, [NewRecord(b"m9")]),
                log.append(INBOX, 0, [large]),
                log.append(INBOX, 0, [NewRecord(b"m11")]),
                return_exceptions=True,
            )
            assert [done[0], done[2]] == [0, 1]
            assert isinstance(done[1], RecordTooLargeError)

    run(main)


class Deaf:
    """A producer whose broker writes and whose answers never come (a slow network)."""

    def __init__(self, inner: Producer) -> None:
        self._inner = inner
        self._sender = inner._sender  # type: ignore[attr-defined]
        self._message_accumulator = inner._message_accumulator  # type: ignore[attr-defined]
        self.client = inner.client  # type: ignore[attr-defined]
        self.late: list[object] = []

    def create_batch(self) -> object:
        return self._inner.create_batch()

    async def send_batch(self, *args: object, **kwargs: object) -> asyncio.Future[object]:
        self.late.append((args, kwargs))
        return asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        await self._inner.stop()


def test_s3_s4_an_append_in_doubt_is_told_and_what_waits_behind_it_is_not_written(
    kafka: Broker,
) -> None:
    """S3, S4: nothing overtakes what may still land, and the next append goes on."""

    async def main() -> None:
        async with opened(kafka, delivery_timeout_ms="5000") as log:
            await log.append(JOURNAL, 0, [NewRecord(b"B0")])
            live = await log._producers.take(JOURNAL)
            inner, live.producer = live.producer, Deaf(live.producer)  # type: ignore[assignment]
            deaf = live.producer
            first = asyncio.ensure_future(log.append(JOURNAL, 0, [NewRecord(b"B1")]))
            await asyncio.sleep(0.1)
            second = asyncio.ensure_future(log.append(JOURNAL, 0, [NewRecord(b"B2")]))
            elsewhere = asyncio.ensure_future(log.append(JOURNAL, 1, [NewRecord(b"else")]))
            with pytest.raises(AppendUnknownError, match=r"delivery\.timeout\.ms"):
                await first
            with pytest.raises(AppendRefusedError, match="an append before this one failed"):
                await second
            with pytest.raises(AppendUnknownError):
                await elsewhere
            claim = await log.append(JOURNAL, 0, [NewRecord(b"CLAIM")])
            # Only now does the old batch land: it is there, behind the claim.
            ((batch, topic), where), *_ = deaf.late  # type: ignore[attr-defined]
            await (await inner.send_batch(batch, topic, **where))
            live.producer = inner
            log._producers.give_back(live, failed=True)
            assert claim == 1
            assert await values(log) == [b"B0", b"CLAIM", b"B1"]

    run(main)


def test_a_producer_that_failed_is_replaced_and_others_finish_in_the_old_one(
    kafka: Broker,
) -> None:
    async def main() -> None:
        async with opened(kafka) as log:
            first = await log._producers.take(JOURNAL)
            user = await log._producers.take(JOURNAL)
            assert user is first
            log._producers.give_back(first, failed=True)
            fresh = await log._producers.take(JOURNAL)
            assert fresh is not first
            batch = user.producer.create_batch()
            batch.append(timestamp=now_ms(), key=None, value=b"late", headers=[])
            name = log._places[JOURNAL][0].target.name
            await (await user.producer.send_batch(batch, name, partition=0))
            log._producers.give_back(user, failed=False)
            log._producers.give_back(fresh, failed=False)
            assert await values(log) == [b"late"]

    run(main)


async def transactional(kafka: Broker, name: str) -> AIOKafkaProducer:
    """Start a transactional producer; a new broker first makes the topic that it needs."""
    for _ in range(60):
        producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, transactional_id=name)
        try:
            await producer.start()
        except KafkaError:
            await producer.stop()
            await asyncio.sleep(0.5)
        else:
            return producer
    raise AssertionError("the broker takes no transactions")


def test_events_in_a_transaction_count_once_it_is_committed(kafka: Broker) -> None:
    """Other producers' transactions: what was aborted is skipped, and its marks block nobody."""

    async def main() -> None:
        names = await fresh_topics(kafka)
        topic = names.of(EVENTS)
        producer = await transactional(kafka, names.namespace)
        try:
            async with opened(kafka, names) as log:
                with contextlib.suppress(ZeroDivisionError):
                    async with producer.transaction():
                        await producer.send_and_wait(topic, b"aborted", partition=0)
                        assert (await log.read(EVENTS, 0, 0)).records == []
                        raise ZeroDivisionError  # anything that ends the transaction
                reading = asyncio.ensure_future(log.read(EVENTS, 0, 0, wait_ms=30_000))
                batch = await reading
                assert (batch.records, batch.next_offset) == ([], 2)
                waiting = asyncio.ensure_future(log.read(EVENTS, 0, 2, wait_ms=30_000))
                async with producer.transaction():
                    await producer.send_and_wait(topic, b"committed", partition=0)
                assert [r.value for r in (await waiting).records] == [b"committed"]
                batch = await log.read(EVENTS, 0, 3, wait_ms=30_000)
                assert (batch.records, batch.next_offset) == ([], 4)
                assert (await log.bounds(EVENTS, 0)).end == 4
        finally:
            await producer.stop()

    run(main)


def test_events_and_dead_letters_are_not_trimmed(kafka: Broker) -> None:
    async def main() -> None:
        async with opened(kafka) as log:
            await log.append(EVENTS, 0, [NewRecord(b"shared")])
            await log.trim(EVENTS, 0, 1)
            assert (await log.bounds(EVENTS, 0)).start == 0

    run(main)


def test_who_falls_behind_the_tail_reads_everything(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepfold_engine.kafka.tails.RECORDS_MAX", 10)

    async def main() -> None:
        async with opened(kafka) as log:
            reading = asyncio.ensure_future(log.read(INBOX, 0, 0, wait_ms=30_000))
            await asyncio.sleep(0.3)
            for i in range(200):
                await log.append(INBOX, 0, [NewRecord(b"%d" % i)])
            batch = await reading
            found = [r.value for r in batch.records]
            while len(found) < 200:
                batch = await log.read(INBOX, 0, batch.next_offset, bytes_max=30, wait_ms=30_000)
                assert batch.records
                found += [r.value for r in batch.records]
            assert found == [b"%d" % i for i in range(200)]
            assert (await log.read(INBOX, 0, 200, wait_ms=1)).records == []

    run(main)


def test_a_trim_by_another_process_is_seen(kafka: Broker) -> None:
    async def main() -> None:
        async with opened(kafka) as log, opened(kafka, log_names(log)) as other:
            await log.append(JOURNAL, 0, [NewRecord(b"%d" % i) for i in range(10)])
            assert len((await log.read(JOURNAL, 0, 0)).records) == 10
            await other.trim(JOURNAL, 0, 7)
            batch = await log.read(JOURNAL, 0, 2)
            assert (batch.start, [r.offset for r in batch.records]) == (7, [7, 8, 9])
            waiting = asyncio.ensure_future(log.read(JOURNAL, 0, 10, wait_ms=30_000))
            await asyncio.sleep(0.3)
            await other.append(JOURNAL, 0, [NewRecord(b"10")])
            assert [r.offset for r in (await waiting).records] == [10]

    run(main)
