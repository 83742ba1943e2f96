"""TLS and SASL against a real broker, and what is said of one that cannot be used."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trustme

from stepfold_engine.errors import LogError, RecordTooLargeError
from stepfold_engine.kafka.connection import connected_admin
from stepfold_engine.kafka.log import KafkaLog
from stepfold_engine.kafka.properties import properties_of
from stepfold_engine.kafka.topics import TopicNames
from stepfold_engine.log.base import EVENTS, INBOX, JOURNAL, NewRecord
from tests.parts.broker import PASSWORD, USER, Broker, free_port
from tests.parts.tokens import CLIENT, SECRET, endpoint
from tests.parts.topics import client_properties, fresh_topics, now_ms

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await main()

    return asyncio.run(bounded())


@pytest.fixture
def secured(kafka: Broker) -> Broker:
    if not kafka.sasl:
        pytest.skip("only a broker that the tests start has listeners for SASL and TLS")
    return kafka


def sasl(broker: Broker, mechanism: str, password: str = PASSWORD) -> dict[str, str]:
    return {
        "bootstrap.servers": broker.sasl,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": USER,
        "sasl.password": password,
    }


def tls(broker: Broker, **more: str) -> dict[str, str]:
    given = {
        "bootstrap.servers": broker.tls,
        "security.protocol": "SSL",
        "ssl.ca.location": broker.authorities,
    }
    return given | {name.replace("_", "."): value for name, value in more.items()}


async def works(given: dict[str, str], names: TopicNames) -> None:
    """Write, read, ask and trim: producers, consumers and the admin client all get in."""
    log = await KafkaLog.connect(properties_of(given), names, now_ms)
    try:
        reading = asyncio.ensure_future(log.read(INBOX, 0, 1, wait_ms=30_000))
        assert await log.append(INBOX, 0, [NewRecord(b"one")]) == 0
        assert await log.append(INBOX, 0, [NewRecord(b"two")]) == 1
        assert [r.value for r in (await reading).records] == [b"two"]
        assert (await log.read(INBOX, 0, 0)).records[0].value == b"one"
        await log.trim(INBOX, 0, 1)
        assert (await log.bounds(INBOX, 0)).start == 1
    finally:
        await log.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_password_lets_in(secured: Broker, mechanism: str) -> None:
    async def main() -> None:
        await works(sasl(secured, mechanism), await fresh_topics(secured))

    run(main)


def bearer(broker: Broker, url: str, **more: str) -> dict[str, str]:
    given = {
        "bootstrap.servers": broker.sasl,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.token.endpoint.url": url,
        "sasl.oauthbearer.client.id": CLIENT,
        "sasl.oauthbearer.client.secret": SECRET,
    }
    return given | {f"sasl.oauthbearer.{name}": value for name, value in more.items()}


def test_a_token_lets_in(secured: Broker) -> None:
    async def main() -> None:
        with endpoint() as tokens:
            given = bearer(secured, tokens.url, scope="kafka", extensions="traceId=7, a=b")
            await works(given, await fresh_topics(secured))
            assert tokens.given >= 1
            assert set(tokens.scopes) == {"kafka"}

    run(main)


def test_a_token_that_is_refused_or_not_given_is_said_and_no_secret_shown(
    secured: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with endpoint() as tokens:
        wrong = bearer(secured, tokens.url) | {"sasl.oauthbearer.client.secret": "wrong-horse"}
        said = refused(wrong)
        assert "refuses sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret" in said
        assert "invalid_client" in said
        tokens.life_s = -100
        said += (late := refused(bearer(secured, tokens.url)))
        assert "it refused the token (sasl.oauthbearer.*)" in late
        gone = tokens.url
    said += (down := refused(bearer(secured, gone)))
    assert "does not answer (sasl.oauthbearer.token.endpoint.url)" in down
    assert "wrong-horse" not in said + caplog.text
    assert SECRET not in said + caplog.text


def test_tls_with_an_authority_of_ones_own(secured: Broker) -> None:
    async def main() -> None:
        await works(tls(secured), await fresh_topics(secured))

    run(main)


def refused(given: dict[str, str]) -> str:
    async def main() -> str:
        with pytest.raises(LogError) as told:
            await connected_admin(properties_of(given, {"request.timeout.ms": "2000"}))
        return str(told.value)

    return run(main)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password_is_said_and_not_shown(
    secured: Broker, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = refused(sasl(secured, mechanism, "wrong-horse"))
    assert "refused sasl.username and sasl.password" in said
    assert "wrong-horse" not in said + caplog.text


def test_an_authority_that_is_not_known_names_the_setting(
    secured: Broker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert "not trusted (ssl.ca.location)" in refused(tls(secured, ssl_ca_location=str(other)))


def test_another_security_protocol_than_the_ports_is_suspected(secured: Broker) -> None:
    for given in (
        {"bootstrap.servers": secured.tls},
        {"bootstrap.servers": secured.sasl},
        tls(secured, bootstrap_servers=secured.servers),
    ):
        assert "security.protocol" in refused(given)


def test_a_broker_that_is_not_there_is_named() -> None:
    server = f"127.0.0.1:{free_port()}"
    said = refused({"bootstrap.servers": server})
    assert said.startswith(f"no broker can be used. {server}: nothing answers there")
    assert "bootstrap.servers" in said


def test_a_missing_topic_is_named_with_the_command_that_makes_it(kafka: Broker) -> None:
    async def main() -> None:
        with pytest.raises(LogError, match=r"nobody\.journal: there is no such topic.*create"):
            await KafkaLog.connect(client_properties(kafka), TopicNames("nobody"), now_ms)

    run(main)


def test_a_topic_that_takes_too_little_is_refused_and_an_event_too_large_for_its(
    kafka: Broker,
) -> None:
    async def main() -> None:
        small = {"max.message.bytes": "100000"}
        names = await fresh_topics(kafka, settings=small)
        with pytest.raises(LogError, match=r"max\.message\.bytes is 100000, it should be"):
            await KafkaLog.connect(client_properties(kafka), names, now_ms)
        good = await fresh_topics(kafka)
        names = TopicNames(good.namespace, names.events_prefix)
        log = await KafkaLog.connect(client_properties(kafka), names, now_ms)
        try:
            with pytest.raises(
                RecordTooLargeError, match=r"max\.message\.bytes of the topic is 100"
            ):
                await log.append(EVENTS, 0, [NewRecord(b"x" * 100_001)])
            assert await log.append(EVENTS, 0, [NewRecord(b"x" * 99_000)]) == 0
            large = [NewRecord(b"x" * 60_000) for _ in range(40)]
            assert await log.append(EVENTS, 0, large) == 1
            assert await log.append(JOURNAL, 0, [NewRecord(b"x" * (9 << 20))]) == 0
            assert len((await log.read(JOURNAL, 0, 0)).records[0].value) == 9 << 20
        finally:
            await log.close()

    run(main)
