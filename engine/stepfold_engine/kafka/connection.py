"""A connection to a cluster: what clients are made with, and why one cannot be made.

Every error names the property that is to be changed.
"""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path

from stepfold_engine.errors import LogError, LogSettingError
from stepfold_engine.kafka.client import (
    Admin,
    KafkaError,
    NoBrokerAliveError,
    TokenError,
    Tokens,
    connect_once,
)
from stepfold_engine.kafka.oauth import TokenSource
from stepfold_engine.kafka.properties import ClientProperties

REQUEST_MS = 10_000
REACH_MS_MAX = 10_000
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def client_arguments(properties: ClientProperties) -> dict[str, object]:
    """Return what every client of aiokafka is made with.

    Raises:
        LogSettingError: a property cannot be used.
    """
    protocol = properties.text("security.protocol", "PLAINTEXT").upper()
    if protocol not in PROTOCOLS:
        raise LogSettingError("security.protocol", f"{protocol!r} is not one of {_or(PROTOCOLS)}")
    arguments: dict[str, object] = {
        "bootstrap_servers": properties.servers,
        "client_id": properties.text("client.id", "stepfold"),
        "security_protocol": protocol,
        "request_timeout_ms": properties.number("request.timeout.ms", REQUEST_MS),
        "retry_backoff_ms": properties.number("retry.backoff.ms", 100),
        "metadata_max_age_ms": properties.number("metadata.max.age.ms", 300_000),
        "connections_max_idle_ms": properties.number("connections.max.idle.ms", 540_000),
    }
    if protocol.startswith("SASL"):
        arguments |= _sasl(properties)
    elif any(name.startswith("sasl.") for name in properties.values):
        text = f"it is {protocol}; sasl.* properties need SASL_SSL or SASL_PLAINTEXT"
        raise LogSettingError("security.protocol", text)
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = _tls(properties)
    elif any(name.startswith("ssl.") for name in properties.values):
        text = f"it is {protocol}; ssl.* properties need SSL or SASL_SSL"
        raise LogSettingError("security.protocol", text)
    return arguments


def _sasl(properties: ClientProperties) -> dict[str, object]:
    mechanism = properties.text("sasl.mechanism", "PLAIN").upper()
    if mechanism not in MECHANISMS:
        raise LogSettingError("sasl.mechanism", f"{mechanism!r} is not one of {_or(MECHANISMS)}")
    if mechanism == "OAUTHBEARER":
        source = TokenSource(properties)
        tokens = Tokens(source.token, source.extensions)
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": tokens}
    for name in ("sasl.username", "sasl.password"):
        if not properties.text(name):
            raise LogSettingError(name, f"it is missing; {mechanism} needs it")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": properties.text("sasl.username"),
        "sasl_plain_password": properties.text("sasl.password"),
    }


def _tls(properties: ClientProperties) -> ssl.SSLContext:
    checked = properties.text("ssl.endpoint.identification.algorithm", "https").lower()
    if checked not in ("https", "none", ""):
        text = f"{checked!r} is not https or none"
        raise LogSettingError("ssl.endpoint.identification.algorithm", text)
    authorities = properties.text("ssl.ca.location")
    _readable(properties, "ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
    try:
        context = ssl.create_default_context(cafile=authorities or None)
    except (OSError, ssl.SSLError) as error:
        text = f"{authorities} is no PEM file of certificates: {error}"
        raise LogSettingError("ssl.ca.location", text) from error
    context.check_hostname = checked == "https"
    if certificate := properties.text("ssl.certificate.location"):
        key = properties.text("ssl.key.location") or None
        password = properties.text("ssl.key.password")
        try:
            # A password is always given: else OpenSSL asks on the terminal.
            context.load_cert_chain(certificate, key, password)
        except (OSError, ssl.SSLError) as error:
            text = "it cannot be used with ssl.key.location and ssl.key.password"
            raise LogSettingError("ssl.certificate.location", f"{text}: {error}") from error
    return context


def _readable(properties: ClientProperties, *names: str) -> None:
    for name in names:
        path = properties.text(name)
        if path and not Path(path).is_file():
            raise LogSettingError(name, f"there is no file {path}")


async def connected_admin(properties: ClientProperties) -> Admin:
    """Return an admin client that is connected.

    Raises:
        LogError: no broker can be used; the message says why, for each.
    """
    arguments = client_arguments(properties)
    reasons: list[str] = []
    for server in properties.servers:
        try:
            await _reach(server, arguments)
        except (OSError, ssl.SSLError, KafkaError, TimeoutError) as error:
            reasons.append(f"{server}: {_why(error, properties)}")
        else:
            break
    else:
        raise LogError("no broker can be used. " + "; ".join(reasons))
    admin = Admin(arguments)
    try:
        await admin.start()
    except NoBrokerAliveError as error:
        await admin.close()
        raise LogError(f"{server}: {error.args[0]}") from error
    except (OSError, KafkaError, TimeoutError) as error:
        await admin.close()
        text = "the broker closed the connection; does that port want another security.protocol"
        protocol = arguments["security_protocol"]
        raise LogError(f"{server}: {text} than {protocol}? ({error})") from error
    return admin


async def _reach(server: str, arguments: Mapping[str, object]) -> None:
    host, _, port = server.rpartition(":")
    limit = min(int(str(arguments["request_timeout_ms"])), REACH_MS_MAX)
    async with asyncio.timeout(2 * limit / 1000):
        given = {**arguments, "request_timeout_ms": limit}
        await connect_once(host.strip("[]"), int(port), given)


def _why(error: BaseException, properties: ClientProperties) -> str:
    """Say what is wrong, naming the property."""
    name = type(error).__name__
    protocol = properties.text("security.protocol", "PLAINTEXT")
    match error:
        case ssl.SSLCertVerificationError() if "hostname" in str(error).lower():
            return f"its certificate is of another host (bootstrap.servers): {error}"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted (ssl.ca.location): {error}"
        case ssl.SSLError():
            return f"no TLS there (security.protocol is {protocol}): {error}"
        case TokenError():
            return str(error.args[0])
        case _ if "Mechanism" in name:
            return f"it does not take this sasl.mechanism: {error}"
        case KafkaError() if properties.text("sasl.mechanism").upper() == "OAUTHBEARER":
            return f"it refused the token (sasl.oauthbearer.*), or wants none: {error}"
        case _ if "Authentication" in name or "Sasl" in name:
            return f"it refused sasl.username and sasl.password: {error}"
        case KafkaError() | TimeoutError() | ConnectionResetError() | ConnectionAbortedError():
            text = "it does not speak as expected; is the security.protocol another one than"
            return f"{text} {protocol}? ({name}: {error})"
        case _:
            return f"nothing answers there (bootstrap.servers): {name} {error}"


def _or(values: tuple[str, ...]) -> str:
    return ", ".join(values)
