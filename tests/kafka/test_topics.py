"""``stepfold topics``: what it makes, what it finds, what it says."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepfold_engine.kafka.connection import connected_admin
from stepfold_engine.kafka.topics import Found, Layout, TopicNames, describe, settings_of
from stepfold_engine.log.base import TOPICS
from tests.parts.broker import Broker, free_port
from tests.parts.topics import client_properties

_count = itertools.count()


def fresh() -> str:
    return f"c{time.time_ns() // 1_000_000}-{os.getpid()}-{next(_count)}"


def topics(*args: str, **environment: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "stepfold.command", "topics", *args]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("STEPFOLD_")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=clean | environment
    )
    return done.returncode, done.stdout, done.stderr


def found(broker: Broker, word: str) -> Found:
    async def main() -> Found:
        admin = await connected_admin(client_properties(broker))
        try:
            return await describe(admin, TopicNames(word, word))
        finally:
            await admin.close()

    return asyncio.run(main())


def make_badly(broker: Broker, word: str, bad: dict[str, tuple[int, dict[str, str]]]) -> None:
    async def main() -> None:
        admin = await connected_admin(client_properties(broker))
        try:
            for topic, (partitions, settings) in bad.items():
                assert not await admin.make(f"{word}.{topic}", partitions, 1, settings)
        finally:
            await admin.close()

    asyncio.run(main())


def test_topics_are_made_once_with_explicit_settings(kafka: Broker) -> None:
    word = fresh()
    where = ["--kafka", kafka.servers, "--namespace", word, "--events-prefix", word]
    made = ["--partitions", "3", "--events-partitions", "2", "--keep-days", "7", "--replicas", "1"]
    code, out, err = topics("create", *where, *made)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{word}.{topic}: made" for topic in TOPICS]
    there = found(kafka, word)
    counts = {name.removeprefix(f"{word}."): len(r) for name, r in there.replicas.items()}
    assert counts == {"events": 2, "inbox": 3, "journal": 3, "dead-letters": 3}
    week = str(7 * 86_400_000)
    kept = {name: there.settings[f"{word}.{name}"]["retention.ms"] for name in TOPICS}
    assert kept == {"events": week, "inbox": "-1", "journal": "-1", "dead-letters": week}
    assert topics("create", *where)[1].splitlines() == [f"{word}.{t}: was there" for t in TOPICS]
    assert found(kafka, word).partitions(f"{word}.journal") == 3
    code, out, err = topics("check", *where)
    assert (code, out, err) == (0, "all topics are as they should be\n", "")
    code, out, _ = topics("describe", *where)
    assert f"{word}.journal: 3 partitions, 1 replicas" in out
    assert "  cleanup.policy=delete" in out


def test_what_differs_is_said_exactly(kafka: Broker) -> None:
    word = fresh()
    good = settings_of("journal", Layout(1, 1, 1))
    make_badly(
        kafka,
        word,
        {
            "events": (
                1,
                {
                    "message.timestamp.type": "CreateTime",
                    "min.insync.replicas": "1",
                    "retention.ms": "3600000",
                    "retention.bytes": "1000000",
                },
            ),
            "journal": (2, {**good, "cleanup.policy": "compact"}),
            "inbox": (3, {**good, "retention.ms": "604800000", "max.message.bytes": "1000012"}),
        },
    )
    where = ["--kafka", kafka.servers, "--namespace", word, "--events-prefix", word]
    code, out, err = topics("check", *where)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"{word}.events: max.message.bytes is 1048588, it should be 10485760 or more (advice)",
        f"{word}.events: message.timestamp.type is CreateTime,"
        " it should be LogAppendTime, for waits that look back (advice)",
        f"{word}.events: retention.ms is 3600000, it should be 86400000 or more:"
        " what is older is lost to a namespace without a process for that long (advice)",
        f"{word}.events: retention.bytes is 1000000, it should be -1:"
        " the oldest records of a partition that is larger are removed, read or not (advice)",
        f"{word}.inbox: it has 3 partitions, {word}.journal has 2",
        f"{word}.inbox: retention.ms is 604800000, it should be -1: its owner trims it",
        f"{word}.inbox: max.message.bytes is 1000012, it should be 10485760 or more",
        f"{word}.journal: cleanup.policy is compact, it should be delete",
        f"{word}.dead-letters: there is no such topic",
    ]


def test_what_there_is_must_have_the_partitions_that_are_asked_for(kafka: Broker) -> None:
    word = fresh()
    make_badly(
        kafka,
        word,
        {
            "events": (2, settings_of("events", Layout(1, 1, 1))),
            "journal": (3, settings_of("journal", Layout(1, 1, 1))),
        },
    )
    where = ["--kafka", kafka.servers, "--namespace", word, "--events-prefix", word]
    asked = ["--partitions", "4", "--events-partitions", "5", "--keep-days", "3"]
    code, out, err = topics("create", *where, *asked)
    assert (code, out) == (1, "")
    assert err.strip() == (
        f"{word}.events: the number of partitions is 2, 5 was asked for;"
        f" {word}.journal: the number of partitions is 3, 4 was asked for."
        " No topic was made. Ask for what is there, or make another namespace"
    )
    assert set(found(kafka, word).replicas) == {f"{word}.events", f"{word}.journal"}
    code, out, err = topics("create", *where, "--keep-days", "3")
    assert (code, out.count("made")) == (0, 2)
    assert err.strip() == (
        f"{word}.events: retention.ms is {30 * 86_400_000}, {3 * 86_400_000} was asked for (advice)"
    )
    assert found(kafka, word).partitions(f"{word}.inbox") == 3, "as many as the journal has"
    assert topics("check", *where, "--partitions", "3", "--events-partitions", "2")[0] == 0
    code, _, err = topics("check", *where, "--partitions", "3", "--events-partitions", "1")
    assert code == 1
    assert err.strip() == f"{word}.events: the number of partitions is 2, 1 was asked for"


def test_properties_come_from_a_file_the_environment_and_flags(
    kafka: Broker, tmp_path: Path
) -> None:
    word = fresh()
    names = ["--namespace", word, "--events-prefix", word]
    file = tmp_path / "client.properties"
    file.write_text(f"bootstrap.servers=127.0.0.1:{free_port()}\nclient.id=me\n")
    here = {"STEPFOLD_KAFKA_CONFIG": str(file)}
    assert topics("create", *names, **here, STEPFOLD_KAFKA_BOOTSTRAP_SERVERS=kafka.servers)[0] == 0
    assert topics("check", *names, "-X", f"bootstrap.servers={kafka.servers}", **here)[0] == 0
    code, _, err = topics("check", *names, **here)
    assert code == 1
    assert "nothing answers there (bootstrap.servers)" in err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--namespace", "a"], 2, "bootstrap.servers: it is missing"),
        (["--namespace", "a", "--kafka", "h:1", "-X", "acks=1"], 2, "acks: it is not taken"),
        (["--namespace", "a b", "--kafka", "h:1"], 2, "namespace: 'a b'"),
        (["--kafka", "h:1"], 2, "--namespace"),
    ],
)
def test_wrong_usage_says_what(args: list[str], code: int, said: str) -> None:
    ended, _, err = topics("check", *args)
    assert ended == code
    assert said in err
