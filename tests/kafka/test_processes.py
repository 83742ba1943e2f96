"""Several processes on one broker: events are published, processes die, every run ends once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]

from stepfold_engine.log.base import EVENTS, JOURNAL, NewRecord
from stepfold_engine.readers import event_record
from stepfold_schemas.entries import RunCompleted
from stepfold_schemas.events import Event
from tests.parts.broker import Broker, pause
from tests.parts.cluster import PARTITIONS, PROGRAM, cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def test_a_process_is_killed_and_every_run_ends_once(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start("first")
            second = await c.start()
            await c.publish(range(1, 101))
            await c.until(lambda: len(c.orders()) > 20)
            first.kill()
            await first.wait()
            await c.publish(range(101, 201))
            await c.until(c.ended(200))
            third = await c.start("third")
            await c.publish(range(201, 251))
            await c.until(c.ended(250))
            c.check(range(1, 251))
            workers = {line.split()[3] for line in (tmp_path / "bodies").read_text().splitlines()}
            assert workers >= {str(first.pid), str(second.pid)}
            for process in (second, third):
                process.terminate()
                assert await process.wait() == 0
            assert "Traceback" not in c.said(1) + c.said(2)

    run(main)


def test_a_process_that_was_stopped_wakes_and_does_not_duel(kafka: Broker, tmp_path: Path) -> None:
    """S5, S21: it is fenced, asks the group, and what it had under way counts once."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            zombie = await c.start()
            await c.start()
            await c.publish(range(1, 51))
            await c.until(lambda: len(c.orders()) > 10)
            zombie.send_signal(signal.SIGSTOP)
            await c.publish(range(51, 101))
            await c.until(c.ended(100))
            zombie.send_signal(signal.SIGCONT)
            await c.publish(range(101, 151))
            await c.until(c.ended(150))
            c.check(range(1, 151))

    run(main)


def test_the_older_of_two_processes_of_one_name_ends(kafka: Broker, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            older = await c.start("same")
            await c.publish(range(1, 11))
            await c.until(c.ended(10))
            await c.start("same")
            assert await older.wait() == 1
            assert "another process has joined the group" in c.said(0)
            assert "this process's name 'same'" in c.said(0)
            await c.publish(range(11, 21))
            await c.until(c.ended(20))
            c.check(range(1, 21))

    run(main)


def test_a_process_that_was_replaced_while_it_was_stopped_ends(
    kafka: Broker, tmp_path: Path
) -> None:
    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            older = await c.start("same")
            await c.start("other")
            await c.publish(range(1, 11))
            await c.until(c.ended(10))
            pause(older.pid)
            newer = await c.start("same")
            older.send_signal(signal.SIGCONT)
            assert await older.wait() == 1
            assert "this process's name 'same'" in c.said(0)
            await c.publish(range(11, 21))
            await c.until(c.ended(20))
            c.check(range(1, 21))
            assert newer.returncode is None

    run(main)


def test_a_timeout_is_decided_behind_the_marks_of_transactions(
    kafka: Broker, tmp_path: Path
) -> None:
    """The last offsets of the events hold no data; all inputs have been read all the same."""

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            await c.start()
            producer = AIOKafkaProducer(
                bootstrap_servers=kafka.servers, transactional_id=c.names.namespace
            )
            await producer.start()
            record = event_record(Event("k/patient", b"{}", "patient-1"))
            for where in range(PARTITIONS):
                async with producer.transaction():
                    await send(producer, c.names.of(EVENTS), where, record)
            await producer.stop()
            await c.until(lambda: len(c.ends) == 1)
            (end,) = c.ends.values()
            assert isinstance(end, RunCompleted)
            assert json.loads(end.data) == "nothing came"

    run(main)


async def send(producer: AIOKafkaProducer, topic: str, where: int, record: NewRecord) -> None:
    headers = list(record.headers)
    await producer.send_and_wait(topic, record.value, record.key, where, headers=headers)


def test_topics_that_are_missing_end_the_command_with_a_hint(kafka: Broker) -> None:
    command = [sys.executable, "-m", "stepfold.command", "run", str(PROGRAM)]
    done = subprocess.run(
        [*command, "--kafka", kafka.servers, "--namespace", "nobody"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"BODIES": os.devnull},
        timeout=60,
    )
    assert done.returncode == 1
    assert "stepfold topics create --namespace nobody makes what is missing" in done.stderr
    assert JOURNAL in done.stderr
