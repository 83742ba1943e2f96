"""aiokafka's producers and its admin client, with types, and what needs their insides.

Consumers are in ``consumers``. Each is behind a small protocol; all errors are ``KafkaError``.
"""

# aiokafka has no types of its own.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportPrivateUsage=false

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.errors import (
    CorruptRecordException,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    for_code,
)
from aiokafka.protocol.admin import ApiVersionRequest

__all__ = [
    "Admin",
    "KafkaError",
    "NoBrokerAliveError",
    "Producer",
    "TokenError",
    "Tokens",
    "TopicPartition",
    "abandon",
    "connect_once",
    "is_corrupt",
    "is_too_large",
    "knowing",
    "may_pass",
]

LOOK_S = 0.1
"""How long after it named no broker a cluster is asked again."""

FENCED_S = 10.0
"""How long the controller may take to count brokers in that have just come back."""

LET_END_S = 1.0
"""How long a connection that nobody wants any more may take to be made."""

STOP_S = 5.0
"""How long a client that is let go of may take before it is torn down."""


class Written(Protocol):
    """What a broker says of a batch that it wrote; ``offset`` is -1 if it has forgotten."""

    offset: int


class Batch(Protocol):
    """Records that are sent as one."""

    def append(
        self,
        *,
        timestamp: int,
        key: bytes | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes]],
    ) -> object | None:
        """Add a record; None says that it does not fit."""
        ...


class Producer(Protocol):
    """A producer that has been started."""

    def create_batch(self) -> Batch:
        """Return an empty batch."""
        ...

    async def send_batch(
        self, batch: Batch, topic: str, *, partition: int
    ) -> asyncio.Future[Written]:
        """Hand a batch over. Once this returns, it may be written."""
        ...

    async def stop(self) -> None:
        """Send what was handed over, and close."""
        ...


class TokenError(KafkaConnectionError):  # type: ignore[misc] # it has no types
    """There is no token to connect with now; clients try again."""


class NoBrokerAliveError(KafkaConnectionError):  # type: ignore[misc] # it has no types
    """A broker answers, and names none that is alive, not even itself."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc] # it has no types
    """Gives the clients of any loop their tokens.

    Args:
        fetch: returns one, and may block for some time; raises ``TokenError``.
        extensions: what is sent beside it.
    """

    def __init__(self, fetch: Callable[[], str], extensions: Mapping[str, str]) -> None:
        self._fetch, self._extensions = fetch, dict(extensions)

    async def token(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] # its body is empty
        """Return a token."""
        return await asyncio.to_thread(self._fetch)

    def extensions(self) -> dict[str, str]:
        """Return what is sent beside it."""
        return self._extensions


class Admin:
    """Looks at topics, makes them, and trims them."""

    def __init__(self, arguments: Mapping[str, object]) -> None:
        self._client: Any = AIOKafkaAdminClient(**cast("dict[str, Any]", dict(arguments)))
        knowing(self._client._client)  # noqa: SLF001 - no other way

    async def start(self) -> None:
        """Connect."""
        await self._client.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def replicas(self, topics: Sequence[str]) -> dict[str, list[int]]:
        """Return the number of replicas of each partition, for the topics that there are."""
        found: dict[str, list[int]] = {}
        for topic in await self._client.describe_topics(list(topics)):
            if topic["error_code"] == 0:
                parts = sorted(topic["partitions"], key=lambda p: int(p["partition"]))
                found[str(topic["topic"])] = [len(p["replicas"]) for p in parts]
        return found

    async def brokers(self) -> int:
        """Return how many brokers there are."""
        return len((await self._client.describe_cluster())["brokers"])

    async def cluster(self) -> str:
        """Return the cluster's id."""
        return str((await self._client.describe_cluster())["cluster_id"])

    async def settings(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of topics, defaults included."""
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        found: dict[str, dict[str, str]] = {}
        for response in await self._client.describe_configs(wanted):
            for code, message, _, name, entries in response.resources:
                if code:
                    raise for_code(code)(message)
                found[name] = {str(entry[0]): str(entry[1]) for entry in entries}
        return found

    async def make(
        self, topic: str, partitions: int, replicas: int, settings: Mapping[str, str]
    ) -> str:
        """Make a topic; return why the broker refused, "" if it did not.

        For some seconds, brokers are waited for that have just come back.
        """
        new = NewTopic(topic, partitions, replicas, topic_configs=dict(settings))
        until_s = asyncio.get_running_loop().time() + FENCED_S
        while True:
            response = await self._client.create_topics([new])
            refusals = [
                (code, str((rest and rest[0]) or for_code(code).__name__))
                for _, code, *rest in response.topic_errors
                if code
            ]
            if not refusals:
                return ""
            code, text = refusals[0]
            passing = code == InvalidReplicationFactorError.errno and "fenced" in text
            if not passing or asyncio.get_running_loop().time() > until_s:
                return text
            await asyncio.sleep(LOOK_S)

    async def trim(self, partition: TopicPartition, before: int) -> None:
        """Remove records below an offset."""
        await self._client.delete_records({partition: RecordsToDelete(before)})


def knowing(client: Any) -> None:
    """Let a client start only once it knows a broker, and leave nothing open if it is given up.

    A cluster names none for a moment when all of its brokers have just been started, or were too
    slow to say that they are alive. aiokafka begins nevertheless, with the one connection it came
    by; if that ends, it never asks anybody again.
    """
    begin, limit_s = client.bootstrap, client._request_timeout_ms / 1000  # noqa: SLF001 - as set

    async def bootstrap() -> None:
        until_s = asyncio.get_running_loop().time() + limit_s
        while True:
            await _to_its_end(begin())
            if client.cluster.brokers():
                return
            came_by = client._conns.pop(("bootstrap", ConnectionGroup.DEFAULT), None)  # noqa: SLF001
            if came_by is not None:
                came_by.close()
            if asyncio.get_running_loop().time() > until_s:
                text = f"the cluster has named no broker that is alive for {limit_s:g} s"
                raise NoBrokerAliveError(f"{text} (request.timeout.ms)")
            await asyncio.sleep(LOOK_S)

    client.bootstrap = bootstrap


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await what would leave a connection open if it were cancelled; give it up a little later."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=LET_END_S)
        if not task.cancel() and not task.cancelled():
            task.exception()
        raise


async def start_producer(arguments: Mapping[str, object]) -> Producer:
    """Return a producer that is connected; it keeps order and writes nothing twice."""
    given = cast("dict[str, Any]", dict(arguments))
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, linger_ms=0, **given)
    knowing(producer.client)
    try:
        await producer.start()
    except BaseException:
        await abandon(cast("Producer", producer))
        raise
    return cast("Producer", producer)


async def abandon(producer: Producer) -> None:
    """Let go of a producer without waiting for what was handed to it; that may still be written.

    ``stop`` waits for it, for ever if need be.
    """
    inner = cast("Any", producer)
    sender: asyncio.Task[None] | None = inner._sender.sender_task  # noqa: SLF001 - no other way
    if sender is not None:
        sender.cancel()
    await inner.client.close()
    if sender is not None:
        # The first cancellation lets requests end that are under way, the next ones do not.
        for _ in range(5):
            await asyncio.wait({sender}, timeout=STOP_S / 5)
            if sender.done():
                break
            sender.cancel()
        if sender.done() and not sender.cancelled():
            sender.exception()
    _forget_batches(inner._message_accumulator)  # noqa: SLF001 - as above
    with contextlib.suppress(KafkaError):
        await inner.stop()


def _forget_batches(accumulator: Any) -> None:
    """Fail what was not written, and fetch the errors that nobody else will."""
    batches = [*accumulator._pending_batches]  # noqa: SLF001 - what `flush` looks at
    batches += [b for queue in accumulator._batches.values() for b in queue]  # noqa: SLF001 - too
    # A batch that waits to be sent again is not pending, but its end takes it from what is.
    accumulator._pending_batches.update(batches)  # noqa: SLF001 - too
    accumulator.fail_all(KafkaError("the producer was abandoned"))
    for batch in batches:
        for future in (batch.future, batch._drain_waiter):  # noqa: SLF001 - too
            if future.done() and not future.cancelled():
                future.exception()


async def connect_once(host: str, port: int, arguments: Mapping[str, object]) -> None:
    """Connect to one broker, and close again.

    Raises:
        OSError: nothing answers there.
        ssl.SSLError: something else than TLS, or a certificate that is not trusted.
        KafkaError: the broker refused, or does not answer.
    """
    taken = {"bootstrap_servers", "metadata_max_age_ms", "retry_backoff_ms"}
    given: dict[str, Any] = {k: v for k, v in arguments.items() if k not in taken}
    given["max_idle_ms"] = given.pop("connections_max_idle_ms")
    connection = await create_conn(host, port, **given)
    try:
        # That a token was not taken is said in answer to the next request only.
        answer: Any = await connection.send(ApiVersionRequest())
        if answer.error_code:
            raise for_code(answer.error_code)("the broker did not let this client in")
    finally:
        connection.close()


def is_too_large(error: BaseException) -> bool:
    """Say whether a broker refused a batch for its size: nothing of it was written."""
    return isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)


def may_pass(error: KafkaError) -> bool:
    """Say whether the same question may be answered a little later."""
    return error.retriable or isinstance(error, KafkaTimeoutError)


def is_corrupt(error: BaseException) -> bool:
    """Say whether stored bytes are not what was written."""
    return isinstance(error, CorruptRecordException)
