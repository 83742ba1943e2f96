"""Existing topics as sources: each record starts its runs once, whatever happens to processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stepfold_engine.log.base import EVENTS, NewRecord
from stepfold_schemas.codec import decode_event
from stepfold_schemas.entries import RunCompleted
from tests.parts.broker import Broker
from tests.parts.cluster import PARTITIONS, PROGRAM, cluster, run
from tests.parts.existing import Writer, existing_topic, produce
from tests.parts.registry import registry
from tests.parts.topics import fresh_topics

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
NUMBER = {"type": "record", "name": "Number", "fields": [{"name": "number", "type": "long"}]}


def source(topic: str, more: str = "") -> str:
    return f'[[source]]\ntopic = "{topic}"\nname = "k/order"\ndata.n = "value.number"\n{more}\n'


def number(n: int) -> str:
    return json.dumps({"number": n})


def records(numbers: range, partitions: int) -> list[dict[str, object]]:
    return [
        {"value": number(n), "key": f"customer-{n % 7}", "partition": n % partitions}
        for n in numbers
    ]


def command(url: str, *words: str) -> str:
    whole = [sys.executable, "-m", "stepfold.command", "dead-letters", *words, "--url", url]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def got(url: str) -> str:
    def ask() -> str:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.read().decode()

    return await asyncio.to_thread(ask)


def test_records_of_a_topic_start_their_runs_once_through_kills_and_zombies(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = existing_topic(kafka, 3)
    mapping = tmp_path / "sources.toml"
    mapping.write_text(source(topic))
    produce(kafka, topic, records(range(1, 101), 3))

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            dies = await c.start("", "--sources", str(mapping))
            zombie = await c.start("", "--sources", str(mapping))
            await c.until(lambda: len(c.orders()) > 20)
            zombie.send_signal(signal.SIGSTOP)
            produce(kafka, topic, records(range(101, 201), 3))
            await c.until(lambda: len(c.orders()) > 120)
            dies.kill()
            third = await c.start("", "--sources", str(mapping))
            produce(kafka, topic, records(range(201, 251), 3))
            await c.until(c.ended(250))
            zombie.send_signal(signal.SIGCONT)
            produce(kafka, topic, records(range(251, 301), 3))
            await c.until(c.ended(300))
            c.check(range(1, 301))
            # A run's identity is where its record lies.
            by_offset = {f"k-order {topic}-{p}-{o}" for p in range(3) for o in range(100)}
            assert {name for name in c.starts if name.startswith("k-order ")} == by_offset
            third.terminate()
            assert await third.wait() == 0
            assert "Traceback" not in c.said(-1)

    run(main)


def test_what_cannot_be_read_is_a_dead_letter_and_can_be_mended(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = existing_topic(kafka, 1)
    mapping = tmp_path / "sources.toml"
    mapping.write_text(source(topic, 'empty = "skip"'))
    bad = {"value": b'{"nr": 2}', "key": b"\xff\x01", "headers": [("trace", b"abc")]}
    tombstone = {"value": None, "key": "gone"}
    produce(kafka, topic, [{"value": '{"number": 1}'}, bad, tombstone, {"value": '{"number": 3}'}])

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            url = await c.url(await c.start("", "--port", "0", "--sources", str(mapping)))
            await c.until(lambda: len(c.orders()) == 2)

            async def letters(*words: str) -> str:
                return await asyncio.to_thread(command, url, *words)

            while not (rows := (await letters("list", "--json")).splitlines()):
                await asyncio.sleep(0.1)
            (row,) = map(json.loads, rows)
            assert row["source"] == f"{topic}-0-1"
            assert "there is no value.number (there are nr)" in row["error"]
            shown = json.loads(await letters("show", row["id"], "--json"))
            assert (shown["key"], shown["headers"]) == ("/wE=", [["trace", "YWJj"]])
            assert await letters("show", row["id"], "--raw") == '{"nr": 2}'
            with pytest.raises(AssertionError, match="cannot be read yet"):
                await letters("redrive", row["id"])
            mended = tmp_path / "mended"
            mended.write_text('{"number": 2}')
            for _ in range(2):
                assert "is sent again as events-" in await letters(
                    "redrive", row["id"], "--value", str(mended)
                )
            produce(kafka, topic, [{"value": '{"number": 4}'}])
            await c.until(lambda: len(c.orders()) == 4)
            await c.until(c.ended(4))
            c.check(range(1, 5))
            assert c.starts[f"k-order {topic}-0-1"] == 1
            for partition in range(PARTITIONS):
                assert f'partition="{partition}",topic="{topic}"' in await got(f"{url}/metrics")

    run(main)


def test_only_what_came_from_a_time_on_is_read(kafka: Broker, tmp_path: Path) -> None:
    topic = existing_topic(kafka, 2, retention_ms="-1")  # else what is old may be gone
    mapping = tmp_path / "sources.toml"
    mapping.write_text(source(topic, 'from = "2026-11-01T00:00:00Z"\nid = "{value.number}"'))
    old, new = 1_790_000_000_000, 1_793_600_000_000
    produce(
        kafka,
        topic,
        [{"value": number(n), "timestamp": old, "partition": n % 2} for n in (1, 2)]
        + [{"value": number(n), "timestamp": new, "partition": n % 2} for n in (3, 4)]
        + [{"value": number(3), "timestamp": new, "partition": 0}],
    )

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            await c.start("", "--sources", str(mapping))
            await c.until(c.ended(2))
            produce(kafka, topic, records(range(5, 6), 2))
            await c.until(c.ended(3))
            c.check([3, 4, 5])  # the second 3 has the first one's id

    run(main)


def test_a_wait_is_woken_by_a_source_and_times_out_only_behind_it(
    kafka: Broker, tmp_path: Path
) -> None:
    """An event that a source holds while no process runs wins over the timeout it is older than."""
    topic = existing_topic(kafka, 2)
    mapping = tmp_path / "sources.toml"
    mapping.write_text(f'[[source]]\ntopic = "{topic}"\nname = "k/never"\n')

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            first = await c.start("", "--sources", str(mapping))
            record = NewRecord(b'{"name": "k/patient", "id": "p"}')
            await c.log.append(EVENTS, 0, [record])
            await c.until(lambda: len(c.runs) == 1)
            first.kill()
            await first.wait()
            produce(kafka, topic, [{"value": "{}", "partition": 1}])
            await asyncio.sleep(1.2)  # the wait's timeout passes while nobody runs
            await c.start("", "--sources", str(mapping))
            await c.until(lambda: len(c.ends) == 1)
            (end,) = c.ends.values()
            assert isinstance(end, RunCompleted)
            assert json.loads(end.data) == "something came"

    run(main)


def test_confluents_avro_is_read_while_its_registry_comes_and_goes(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = existing_topic(kafka, 2)
    mapping = tmp_path / "sources.toml"
    mapping.write_text(source(topic, 'format = "avro"'))
    event = {
        "type": "record",
        "name": "Event",
        "fields": [
            {"name": "name", "type": "string"},
            {"name": "data", "type": {"type": "map", "values": "long"}},
        ],
    }

    async def main() -> None:
        with registry("shop:hunter-2") as server:
            config = tmp_path / "kafka.properties"
            config.write_text(
                f"schema.registry.url={server.url}\nbasic.auth.credentials.source=USER_INFO\n"
                "schema.registry.basic.auth.user.info=shop:hunter-2\n"
            )
            given = ("--sources", str(mapping), "--kafka-config", str(config))
            write = Writer(server, topic, json.dumps(NUMBER))
            produce(
                kafka,
                topic,
                [{"value": write({"number": n}), "partition": n % 2} for n in range(1, 41)]
                + [{"value": b"\x00\x00\x00\x03\xe7x", "partition": 0}],
            )
            async with cluster(kafka, tmp_path) as c:
                server.stop()
                url = await c.url(await c.start("", "--port", "0", *given))
                while c.said(-1).count("records of schema 1 wait for the registry") < 3:
                    await asyncio.sleep(0.05)
                assert not c.runs
                assert command(url, "list", "--json") == ""  # a good record is no dead letter
                server.start()
                await c.until(c.ended(40))
                while not (rows := await asyncio.to_thread(command, url, "list", "--json")):
                    await asyncio.sleep(0.1)
                letter = json.loads(rows)
                assert letter["source"] == f"{topic}-0-20"
                assert "schema 999: the registry" in letter["error"]
                assert "knows no schema of this id" in letter["error"]
                # In events, Avro of any schema with an event's fields is an event.
                framed = Writer(server, "events", json.dumps(event))
                value = framed({"name": "k/order", "data": {"n": 41}})
                await c.log.append(EVENTS, 1, [NewRecord(value)])
                await c.until(c.ended(41))
                c.check(range(1, 42))
                rows = await asyncio.to_thread(command, url, "list", "--json")
                assert len(rows.splitlines()) == 1
                assert "hunter-2" not in c.said(-1)
                events = json.loads(await got(f"{url}/v1/events"))["data"]
                assert [event["name"] for event in events].count("k/order") == 1

    run(main)


def start(kafka: Broker, tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    names = asyncio.run(fresh_topics(kafka, 1))
    whole = [sys.executable, "-m", "stepfold.command", "run", str(PROGRAM)]
    whole += ["--kafka", kafka.servers, "--namespace", names.namespace]
    whole += ["--events-prefix", names.events_prefix, *more]
    environment = os.environ | {"BODIES": str(tmp_path / "bodies")}
    return subprocess.run(
        whole, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


@pytest.mark.parametrize("what", ["no topic", "no registry", "wrong password", "wrong file"])
def test_what_a_source_lacks_is_said_at_the_start(what: str, kafka: Broker, tmp_path: Path) -> None:
    mapping = tmp_path / "sources.toml"
    topic = "legacy.nowhere" if what == "no topic" else existing_topic(kafka, 1)
    mapping.write_text(source(topic, "" if what == "no topic" else 'format = "avro"'))
    with registry("shop:right") as server:
        more = {
            "no topic": (),
            "no registry": (),
            "wrong password": (
                "-X", f"schema.registry.url={server.url}", "-X", "basic.auth.user.info=shop:wrong-1"
            ),
            "wrong file": ("--sources", str(tmp_path / "none.toml")),
        }[what]  # fmt: skip
        done = start(kafka, tmp_path, "--sources", str(mapping), *more)
    says = {
        "no topic": "there is no topic legacy.nowhere; the sources file names it",
        "no registry": f"schema.registry.url: it is missing; the source {topic} is avro",
        "wrong password": "basic.auth.user.info: ",
        "wrong file": "none.toml: it cannot be read",
    }[what]
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong-1" not in done.stderr + done.stdout


def test_events_are_ours_again_where_they_are_sent_again(kafka: Broker, tmp_path: Path) -> None:
    """A dead letter of a source goes to ``events``: its own topic is others'."""
    topic = existing_topic(kafka, 1)
    mapping = tmp_path / "sources.toml"
    mapping.write_text(source(topic))
    produce(kafka, topic, [{"value": b"{"}])

    async def main() -> None:
        async with cluster(kafka, tmp_path) as c:
            url = await c.url(await c.start("", "--port", "0", "--sources", str(mapping)))
            while not (rows := await asyncio.to_thread(command, url, "list", "--json")):
                await asyncio.sleep(0.1)
            (tmp_path / "mended").write_text('{"number": 1}')
            letter = json.loads(rows)["id"]
            said = await asyncio.to_thread(
                command, url, "redrive", letter, "--value", str(tmp_path / "mended")
            )
            _, partition, offset = said.split()[-1].split("-")
            found = (await c.log.read(EVENTS, int(partition), int(offset))).records[0]
            event = decode_event(found.value)
            assert (event.name, event.id) == ("k/order", f"{topic}-0-0")
            await c.until(c.ended(1))
            c.check([1])

    run(main)
