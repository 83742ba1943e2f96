"""SQL over a namespace on a real broker: the same tables as on the embedded log, and kept apart."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from stepfold_engine.sources.cluster import ClusterSource
from stepfold_projections.asking import Engine
from stepfold_projections.keeping import rebuild, tables_of
from stepfold_projections.projector import Projector
from stepfold_projections.queries import QueryError
from stepfold_projections.source import SourceError
from stepfold_projections.store import Store
from tests.parts.broker import Broker
from tests.parts.cluster import Cluster, cluster, run
from tests.parts.topics import client_properties, fresh_topics
from tests.projections.logs import (
    append_all,
    differences,
    projected,
    simulated,
    tables_in,
    trim_log,
    write_log,
)
from tests.projections.reference import COMPARED, Fold, Row, Tables
from tests.projections.test_trimmed import cuts
from tests.simulation.ledger import Happening

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


def on_kafka(kafka: Broker, happenings: list[Happening], partitions: int) -> TopicNames:
    """Append a history to topics of its own."""

    async def write() -> TopicNames:
        names = await fresh_topics(kafka, partitions)
        now = [0]
        log = await KafkaLog.connect(client_properties(kafka), names, lambda: now[0])
        await append_all(log, happenings, now)
        await log.close()
        return names

    return asyncio.run(write())


def source(kafka: Broker, names: TopicNames) -> ClusterSource:
    return ClusterSource(client_properties(kafka), names)


async def trim(kafka: Broker, names: TopicNames, before: dict[int, int]) -> None:
    log = await KafkaLog.connect(client_properties(kafka), names, lambda: 0)
    for number, offset in before.items():
        await log.trim(JOURNAL, number, offset)
    await log.close()


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_the_same_history_gives_the_same_tables_on_both_logs(
    kafka: Broker, seed: int, tmp_path: Path
) -> None:
    happenings, partitions = simulated(seed)
    write_log(tmp_path / "embedded", happenings, partitions)
    names = on_kafka(kafka, happenings, partitions)
    fold = Fold()
    fold.take(happenings)
    expected = projected(tmp_path / "embedded")
    assert differences(fold.tables(), expected) == ""
    found = projected(tmp_path / "kafka", log=source(kafka, names))
    assert differences(expected, found) == ""
    # In small transactions, by a projector that goes on where others stopped.
    folder = tmp_path / "parts"
    moved = True
    while moved:
        log, store = source(kafka, names), Store(tables_of(folder))
        projector = Projector(log, store)
        moved = any(projector.step(23) for _ in range(20))
        store.close()
        log.close()
    assert differences(expected, tables_in(folder)) == ""


def test_what_expired_from_the_topics_is_still_known(kafka: Broker, tmp_path: Path) -> None:
    happenings, partitions = simulated(3)
    names = on_kafka(kafka, happenings, partitions)
    before = projected(tmp_path / "tables", log=source(kafka, names))
    cut = cuts(happenings)
    assert cut
    asyncio.run(trim(kafka, names, cut))
    log = source(kafka, names)
    assert rebuild(tables_of(tmp_path / "tables"), log)
    assert differences(before, tables_in(tmp_path / "tables")) == ""
    log.close()
    # New tables begin at the round's start, as they do on the embedded log.
    write_log(tmp_path / "embedded", happenings, partitions)
    for number, offset in cut.items():
        trim_log(tmp_path / "embedded", number, offset)
    fresh = projected(tmp_path / "fresh", log=source(kafka, names))
    assert differences(projected(tmp_path / "embedded"), fresh) == ""


def test_tables_of_one_log_are_not_mixed_with_another_s(kafka: Broker, tmp_path: Path) -> None:
    happenings, partitions = simulated(2)
    names = on_kafka(kafka, happenings, partitions)
    projected(tmp_path, log=source(kafka, names))
    other = source(kafka, asyncio.run(fresh_topics(kafka, partitions)))
    store = Store(tables_of(tmp_path))
    with pytest.raises(SourceError, match="choose another folder"):
        Projector(other, store)
    store.close()
    with pytest.raises(SourceError, match="choose another folder"):
        rebuild(tables_of(tmp_path), other)
    other.close()


@asynccontextmanager
async def keeping(c: Cluster, folder: Path) -> AsyncGenerator[tuple[str, int]]:
    """Run ``stepfold projections run``; give its address and process id."""
    command = [sys.executable, "-m", "stepfold.command", "projections", "run"]
    command += ["--data", str(folder), "--port", "0", "--kafka", c.broker.servers]
    command += ["--namespace", c.names.namespace, "--events-prefix", c.names.events_prefix]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = b"-"
    while line and not line.startswith(b"http://"):
        line = await process.stdout.readline()
    assert line, "it ended"
    yield line.decode().strip(), process.pid
    process.terminate()
    assert await process.wait() == 0


async def asked(url: str, sql: str) -> list[Row]:
    try:
        return (await asyncio.to_thread(Engine(url).ask, sql)).rows()
    except QueryError as error:
        assert error.status == 503, error  # noqa: PT017 - it is waited for
        return []


async def when(url: str, sql: str, count: int) -> list[Row]:
    """Ask until there are as many rows as expected."""
    while len(rows := await asked(url, sql)) < count:
        await asyncio.sleep(0.1)
    return rows


ENDED = "SELECT * FROM runs WHERE status = 'completed' AND function = 'k-order'"


def test_a_process_of_its_own_answers_about_all_processes(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        tables = tmp_path / "tables"
        async with cluster(kafka, tmp_path) as c, keeping(c, tables) as (url, pid):
            await c.start()
            await c.start()
            await c.publish(range(1, 21))
            await c.log.append(EVENTS, 0, [NewRecord(b"nothing that is an event")])
            await when(url, ENDED, 10)
            (projector,) = psutil.Process(pid).children()
            os.kill(projector.pid, signal.SIGKILL)
            await c.publish(range(21, 41))
            await c.until(c.ended(40))
            await when(url, ENDED, 40)
            await when(url, "SELECT * FROM dead_letters", 1)
            copy = await copied(c, tmp_path / "copy")
            served = await fetched(url)
            assert differences(copy, served) == ""
            # The same folder's tables, asked from the command line while somebody keeps them.
            done = await command(
                "sql", f"SELECT count(*) AS n FROM ({ENDED})", "--data", str(tables), "-o", "csv"
            )
            assert done == (0, "n\n40\n")
        # And when nobody does, as they were left.
        done = await command(
            "sql", f"SELECT count(*) AS n FROM ({ENDED})", "--data", str(tables), "-o", "csv"
        )
        assert done == (0, "n\n40\n")

    run(main)


async def command(*args: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stepfold.command", *args, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def copied(c: Cluster, folder: Path) -> Tables:
    """Return the tables of a copy of the log."""
    given = ["--kafka", c.broker.servers, "--namespace", c.names.namespace]
    given += ["--events-prefix", c.names.events_prefix]
    status, _ = await command("log", "copy", str(folder), *given)
    assert status == 0
    return await asyncio.to_thread(projected, folder)


async def fetched(url: str) -> Tables:
    """Return the tables that a process serves."""
    return {name: await asked(url, f"SELECT * FROM {name}") for name in COMPARED}


def test_processes_that_run_functions_answer_from_one_folder(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            given = ("--port", "0", "--projections", str(tmp_path / "tables"))
            one, two = await c.start("", *given), await c.start("", *given)
            urls = [await c.url(one), await c.url(two)]
            await c.publish(range(1, 9))
            for url in urls:  # one of them keeps the tables, the other passes questions on
                await when(url, ENDED, 8)
            one.terminate()
            assert await one.wait() == 0
            await c.publish(range(9, 13))
            await when(urls[1], ENDED, 12)
            status = await asyncio.to_thread(refused, urls[1])
            assert status == 400

    run(main)


def refused(url: str) -> int:
    body = json.dumps({"sql": "SELECT * FROM read_text('/etc/passwd')"}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v1/sql", body) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
