"""The topics: their names, the settings they are made with, and what differs from these.

Nothing here changes a topic that there is. The inbox and the journal are trimmed by their owner,
never by the broker's clock; events and dead letters are kept as long as their topic says.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stepfold_engine.errors import LogError, LogSettingError
from stepfold_engine.kafka.client import Admin, KafkaError
from stepfold_engine.log.base import (
    DEAD_LETTERS,
    EVENTS,
    INBOX,
    JOURNAL,
    RECORD_BYTES_MAX,
    TOPICS,
)

EVENTS_PREFIX = "stepfold"
"""Events are shared by all apps of a cluster, so their topic is not named by the namespace."""

DAY_MS = 86_400_000
KEEP_MS = 30 * DAY_MS
KEEP_MS_MIN = DAY_MS
"""Events that are kept shorter are lost to who is away for a night, and ids are known as long."""

PARTITIONS = 12
REPLICAS = 3
BATCH_BYTES_MAX = RECORD_BYTES_MAX + (1 << 20)
"""The ``max.message.bytes`` of a topic: the largest record, and room for what is around it."""

READY_S = 30.0
SETTLE_LOOKS = 4
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,200}")


@dataclass(frozen=True, slots=True)
class TopicNames:
    """What the topics of a namespace are called.

    Attributes:
        namespace: one app's.
        events_prefix: what the name of the events' topic begins with.
    """

    namespace: str
    events_prefix: str = EVENTS_PREFIX

    def __post_init__(self) -> None:
        for what, name in (("namespace", self.namespace), ("events prefix", self.events_prefix)):
            if not _NAME.fullmatch(name) or name in (".", ".."):
                text = f"{name!r}: letters, digits, '.', '_' and '-', at most 200"
                raise LogSettingError(what, text)

    def of(self, topic: str) -> str:
        """Return a topic's name in Kafka.

        >>> TopicNames("shop").of("journal"), TopicNames("shop").of("events")
        ('shop.journal', 'stepfold.events')
        """
        return f"{self.events_prefix if topic == EVENTS else self.namespace}.{topic}"

    @property
    def group(self) -> str:
        """The consumer group that shares the partitions out."""
        return self.namespace

    @property
    def all(self) -> list[str]:
        """All names."""
        return [self.of(topic) for topic in TOPICS]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something about a topic that is not as it should be.

    Attributes:
        fatal: the engine must not use the topic as it is.
    """

    topic: str
    what: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How topics are made.

    Attributes:
        partitions: of the inbox, the journal and the dead letters; fixed from then on.
        events: partitions of the events.
        replicas: of each partition.
        keep_ms: how long events and dead letters are kept.
    """

    partitions: int = PARTITIONS
    events: int = PARTITIONS
    replicas: int = REPLICAS
    keep_ms: int = KEEP_MS

    def partitions_of(self, topic: str) -> int:
        """Return how many partitions a topic is made with."""
        return self.events if topic == EVENTS else self.partitions


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants of a ``Layout``; None is whatever is there, or the usual."""

    partitions: int | None = None
    events: int | None = None
    replicas: int | None = None
    keep_ms: int | None = None

    def layout(self, found: "Found", names: TopicNames, brokers: int) -> Layout:
        """Return how topics that are missing are made, beside those that there are."""
        there = [found.partitions(names.of(topic)) for topic in (JOURNAL, INBOX, DEAD_LETTERS)]
        return Layout(
            self.partitions or next(filter(None, there), PARTITIONS),
            self.events or PARTITIONS,
            self.replicas or min(REPLICAS, brokers),
            self.keep_ms or KEEP_MS,
        )


def settings_of(topic: str, layout: Layout) -> dict[str, str]:
    """Return the settings that a topic is made with."""
    kept = -1 if topic in (INBOX, JOURNAL) else layout.keep_ms
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(kept),
        "retention.bytes": "-1",
        "max.message.bytes": str(BATCH_BYTES_MAX),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if layout.replicas > 1 else "1",
        "unclean.leader.election.enable": "false",
    }


async def create(admin: Admin, names: TopicNames, asked: Asked) -> list[str]:
    """Make the topics that are missing; return the names of those that were made.

    Raises:
        LogError: those that there are have other numbers of partitions than was asked, and nothing
            was made; or the broker refuses one, or they are not ready in time.
    """
    found = await describe(admin, names)
    if others := [str(d) for d in unlike(found, names, asked) if d.fatal]:
        hint = "No topic was made. Ask for what is there, or make another namespace"
        raise LogError(f"{'; '.join(others)}. {hint}")
    try:
        layout = asked.layout(found, names, await admin.brokers())
        made: list[str] = []
        for topic in TOPICS:
            name = names.of(topic)
            if name in found.replicas:
                continue
            count, settings = layout.partitions_of(topic), settings_of(topic, layout)
            refusal = await admin.make(name, count, layout.replicas, settings)
            if refusal:
                raise LogError(f"{name} was not made: {refusal}")
            made.append(name)
        await settle(admin, names)
    except KafkaError as error:
        raise LogError(f"the topics cannot be made: {error!r}") from error
    return made


async def settle(admin: Admin, names: TopicNames) -> None:
    """Wait until all brokers know topics that were just made: each is told in its own time.

    Raises:
        LogError: one does not.
    """
    try:
        async with asyncio.timeout(READY_S):
            # Any broker may answer, so it is asked often enough to have met them all.
            for _ in range(SETTLE_LOOKS * await admin.brokers()):
                while len(await admin.replicas(names.all)) < len(TOPICS):  # noqa: ASYNC110 - asked
                    await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise LogError(f"the topics are not ready after {READY_S:.0f} s") from error


@dataclass(frozen=True, slots=True)
class Found:
    """The topics as they are.

    Attributes:
        replicas: of each partition, by topic; only topics that there are.
        settings: by topic.
    """

    replicas: Mapping[str, Sequence[int]]
    settings: Mapping[str, Mapping[str, str]]

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has, 0 if there is none."""
        return len(self.replicas.get(topic, ()))


async def describe(admin: Admin, names: TopicNames) -> Found:
    """Look at the topics.

    Raises:
        LogError: the broker does not say.
    """
    try:
        replicas = await admin.replicas(names.all)
        settings = await admin.settings(sorted(replicas)) if replicas else {}
    except KafkaError as error:
        raise LogError(f"the topics cannot be looked at: {error!r}") from error
    return Found(replicas, settings)


def differences(found: Found, names: TopicNames) -> list[Difference]:
    """Say what is not as it should be."""
    journal = found.partitions(names.of(JOURNAL))
    said: list[Difference] = []
    for topic in TOPICS:
        name = names.of(topic)
        count = found.partitions(name)
        if not count:
            said.append(Difference(name, "there is no such topic", fatal=True))
            continue
        if topic in (INBOX, DEAD_LETTERS) and journal and count != journal:
            what = f"it has {count} partitions, {names.of(JOURNAL)} has {journal}"
            said.append(Difference(name, what, fatal=True))
        replicas = min(found.replicas[name])
        settings = found.settings.get(name, {})
        said += _setting_differences(topic, name, settings, replicas)
        if topic in (EVENTS, DEAD_LETTERS):
            said += _kept_briefly(topic, name, settings)
    return said


def unlike(found: Found, names: TopicNames, asked: Asked) -> list[Difference]:
    """Say what topics that there are have not as it was asked; numbers of partitions are fatal."""
    said: list[Difference] = []

    def compare(topic: str, what: str, has: object, wanted: object, *, fatal: bool) -> None:
        if wanted is not None and str(has) != str(wanted):
            text = f"{what} is {has}, {wanted} was asked for"
            said.append(Difference(names.of(topic), text, fatal))

    for topic in TOPICS:
        name = names.of(topic)
        if name not in found.replicas:
            continue
        count = asked.events if topic == EVENTS else asked.partitions
        compare(topic, "the number of partitions", found.partitions(name), count, fatal=True)
        compare(
            topic, "the number of replicas", min(found.replicas[name]), asked.replicas, fatal=False
        )
        if topic in (EVENTS, DEAD_LETTERS):
            kept = found.settings.get(name, {}).get("retention.ms")
            compare(topic, "retention.ms", kept, asked.keep_ms, fatal=False)
    return said


def _setting_differences(
    topic: str, name: str, settings: Mapping[str, str], replicas: int
) -> list[Difference]:
    said: list[Difference] = []

    def differs(setting: str, wanted: str, *, fatal: bool) -> None:
        what = f"{setting} is {settings.get(setting, 'not known')}, it should be {wanted}"
        said.append(Difference(name, what, fatal))

    owned = topic in (INBOX, JOURNAL)
    if settings.get("cleanup.policy") != "delete":
        differs("cleanup.policy", "delete", fatal=True)
    for setting in ("retention.ms", "retention.bytes") if owned else ():
        if settings.get(setting) != "-1":
            differs(setting, "-1: its owner trims it", fatal=True)
    if _number(settings, "max.message.bytes") < BATCH_BYTES_MAX:
        # Of events it limits only what may be sent.
        differs("max.message.bytes", f"{BATCH_BYTES_MAX} or more", fatal=topic != EVENTS)
    if settings.get("unclean.leader.election.enable") != "false":
        differs("unclean.leader.election.enable", "false", fatal=True)
    in_sync = _number(settings, "min.insync.replicas")
    if replicas > 1 and in_sync < 2:
        differs("min.insync.replicas", "2 or more", fatal=True)
    if in_sync > replicas:
        differs("min.insync.replicas", f"{replicas} or less: there are no more", fatal=True)
    if topic == EVENTS and settings.get("message.timestamp.type") != "LogAppendTime":
        differs("message.timestamp.type", "LogAppendTime, for waits that look back", fatal=False)
    return said


def _kept_briefly(topic: str, name: str, settings: Mapping[str, str]) -> list[Difference]:
    """Say which settings may remove what nobody has read."""
    lost = "is lost to a namespace without a process for that long"
    if topic == DEAD_LETTERS:
        lost = "can no longer be redriven"
    said: list[str] = []
    kept, size = _number(settings, "retention.ms"), _number(settings, "retention.bytes")
    if 0 <= kept < KEEP_MS_MIN:
        said.append(
            f"retention.ms is {kept}, it should be {KEEP_MS_MIN} or more: what is older {lost}"
        )
    if size >= 0:
        removed = "the oldest records of a partition that is larger are removed, read or not"
        said.append(f"retention.bytes is {size}, it should be -1: {removed}")
    return [Difference(name, text, fatal=False) for text in said]


def _number(settings: Mapping[str, str], name: str) -> int:
    value = settings.get(name, "")
    return int(value) if value.lstrip("-").isdecimal() else 0


async def check(admin: Admin, names: TopicNames) -> tuple[Found, list[Difference]]:
    """Look at the topics and refuse those that must not be used; return the rest that differs.

    Raises:
        LogError: one is missing, or must not be used; the message says all that differs.
    """
    found = await describe(admin, names)
    said = differences(found, names)
    if any(d.fatal for d in said):
        text = "; ".join(str(d) for d in said if d.fatal)
        hint = f"stepfold topics create --namespace {names.namespace} makes what is missing"
        raise LogError(f"{text}. {hint}")
    return found, said


async def existing_topics(admin: Admin, topics: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of topics that others made.

    Raises:
        LogError: one is missing.
    """
    wanted = sorted(set(topics))
    if not wanted:
        return {}
    try:
        found = await admin.replicas(wanted)
    except KafkaError as error:
        raise LogError(f"the source topics cannot be looked at: {error!r}") from error
    if missing := [topic for topic in wanted if topic not in found]:
        raise LogError(f"there is no topic {', '.join(missing)}; the sources file names it")
    return {topic: len(found[topic]) for topic in wanted}
