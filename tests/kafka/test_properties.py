"""Client properties: what is taken, from where, and what is said of what is not."""

from pathlib import Path

import pytest

from stepfold_engine.errors import LogSettingError
from stepfold_engine.kafka.connection import client_arguments
from stepfold_engine.kafka.properties import (
    from_environment,
    from_file,
    from_pairs,
    properties_of,
)

SERVER = {"bootstrap.servers": "kafka-1:9092, kafka-2:9092"}


def test_the_later_source_wins_and_other_clients_names_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text(
        "# of the cluster\n\nmetadata.broker.list = old:9092\n"
        "sasl.mechanisms=PLAIN\n! so\nsasl.password=a=b\nclient.id=file\n"
    )
    environment = {"STEPFOLD_KAFKA_CLIENT_ID": "env", "STEPFOLD_KAFKA_SASL_USERNAME": "u", "X": ""}
    found = properties_of(
        from_file(file), from_environment(environment), SERVER, from_pairs(["client.id=flag"])
    )
    assert found.values == {
        **SERVER,
        "sasl.mechanism": "PLAIN",
        "sasl.username": "u",
        "sasl.password": "a=b",
        "client.id": "flag",
    }
    assert found.servers == ["kafka-1:9092", "kafka-2:9092"]


def test_secrets_do_not_show() -> None:
    found = properties_of(SERVER, {"sasl.password": "secret-1", "ssl.key.password": "secret-2"})
    assert "secret" not in repr(found)
    assert "sasl.password" in repr(found)
    with pytest.raises(LogSettingError) as told:
        from_pairs(["sasl.password:secret-3"])
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sasl.pasword": "x"}, "sasl.pasword: there is no such property; is it sasl.password?"),
        ({"sasl.jaas.config": "x"}, "sasl.jaas.config: .* give sasl.username and sasl.password"),
        ({"ssl.truststore.location": "x"}, "ssl.truststore.location: .* ssl.ca.location"),
        ({"acks": "1"}, "acks: it is not taken: it is always all"),
        ({"bootstrap.servers": "kafka"}, "bootstrap.servers: 'kafka' is not host:port"),
        ({"bootstrap.servers": " "}, "bootstrap.servers: it is missing"),
        ({"request.timeout.ms": "10s"}, "request.timeout.ms: '10s' is not a number above zero"),
        ({"security.protocol": "TLS"}, "security.protocol: 'TLS' is not one of PLAINTEXT, SSL"),
        ({"sasl.username": "u"}, "security.protocol: it is PLAINTEXT; sasl"),
        ({"ssl.ca.location": "ca.pem"}, "security.protocol: it is PLAINTEXT; ssl"),
        (
            {"security.protocol": "SSL", "ssl.ca.location": "/no/ca.pem"},
            "ssl.ca.location: there is no file /no/ca.pem",
        ),
        (
            {"security.protocol": "SSL", "ssl.ca.location": __file__},
            "ssl.ca.location: .* is no PEM file",
        ),
        (
            {"security.protocol": "SSL", "ssl.certificate.location": __file__},
            "ssl.certificate.location: it cannot be used",
        ),
        (
            {"security.protocol": "SSL", "ssl.endpoint.identification.algorithm": "ldap"},
            "ssl.endpoint.identification.algorithm: 'ldap'",
        ),
        ({"security.protocol": "SASL_SSL"}, "sasl.username: it is missing; PLAIN needs it"),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"},
            "sasl.mechanism: 'GSSAPI' is not one of PLAIN",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_used_is_an_error_that_names_it(given: dict[str, str], said: str) -> None:
    with pytest.raises(LogSettingError, match=said):
        client_arguments(properties_of(SERVER, given))


def test_an_unknown_variable_and_an_unreadable_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(LogSettingError, match="STEPFOLD_KAFKA_SASL_PASWORD"):
        from_environment({"STEPFOLD_KAFKA_SASL_PASWORD": "x"})
    with pytest.raises(LogSettingError, match="cannot be read"):
        from_file(tmp_path / "none")
    with pytest.raises(LogSettingError, match="it is not name=value"):
        from_pairs(["name"])
