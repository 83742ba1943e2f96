"""Client properties, under the names that Kafka's own clients use.

They come from a file (``name=value`` lines), from the environment (``sasl.password`` is
``STEPFOLD_KAFKA_SASL_PASSWORD``) and from the command line; the later one wins. Names that are not
known are errors: a setting that is silently ignored is worse than none. Secrets are never shown.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepfold_engine.errors import LogSettingError

ENVIRONMENT = "STEPFOLD_KAFKA_"

KNOWN = {
    "bootstrap.servers": "brokers to begin with, host:port, comma-separated",
    "client.id": "how brokers name this client in their logs and metrics",
    "client.rack": "the rack of this client: it reads from replicas near by",
    "security.protocol": "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    "sasl.mechanism": "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
    "sasl.username": "",
    "sasl.password": "",
    "sasl.oauthbearer.method": "oidc: a token is asked for with the client's credentials",
    "sasl.oauthbearer.token.endpoint.url": "where it is asked for",
    "sasl.oauthbearer.client.id": "who asks",
    "sasl.oauthbearer.client.secret": "",
    "sasl.oauthbearer.scope": "what is asked for",
    "sasl.oauthbearer.extensions": "sent beside the token: name=value, comma-separated",
    "https.ca.location": "a PEM file of the authorities that the token endpoint is checked by",
    "ssl.ca.location": "a PEM file of the authorities that brokers' certificates are checked by",
    "ssl.certificate.location": "a PEM file of this client's certificate",
    "ssl.key.location": "a PEM file of its key",
    "ssl.key.password": "of that key",
    "ssl.endpoint.identification.algorithm": "https, or none: host names are not checked",
    "request.timeout.ms": "how long a broker may take to answer",
    "delivery.timeout.ms": "how long an append may take, tried again and again",
    "retry.backoff.ms": "the pause before something is tried again",
    "metadata.max.age.ms": "how often the cluster is looked at",
    "connections.max.idle.ms": "when a connection that is not used is closed",
    "compression.type": "of what is written: none or gzip",
    "session.timeout.ms": "how long a process may be silent before others get its partitions",
    "heartbeat.interval.ms": "how often a process says that it lives",
    "schema.registry.url": "of a schema registry; several, comma-separated, are tried in turn",
    "basic.auth.credentials.source": "of the registry: USER_INFO, URL or SASL_INHERIT",
    "basic.auth.user.info": "of the registry: USER:PASSWORD",
    "bearer.auth.token": "of the registry, in place of a user and password",
    "schema.registry.ssl.ca.location": "a PEM file of the authorities that it is checked by",
    "schema.registry.ssl.certificate.location": "a PEM file of this client's certificate for it",
    "schema.registry.ssl.key.location": "a PEM file of that certificate's key",
    "schema.registry.ssl.key.password": "of that key",
}

ALIASES = {
    "metadata.broker.list": "bootstrap.servers",
    "sasl.mechanisms": "sasl.mechanism",
    "compression.codec": "compression.type",
    "message.timeout.ms": "delivery.timeout.ms",
    "schema.registry.basic.auth.user.info": "basic.auth.user.info",
    "schema.registry.basic.auth.credentials.source": "basic.auth.credentials.source",
}

_INSTEAD = {
    "sasl.jaas.config": "give sasl.username and sasl.password",
    "ssl.truststore.location": "give ssl.ca.location, a PEM file",
    "ssl.keystore.location": "give ssl.certificate.location and ssl.key.location, PEM files",
    "schema.registry.ssl.truststore.location": "give schema.registry.ssl.ca.location, a PEM file",
    "group.instance.id": "it is the name of the node",
    "group.id": "it follows from the namespace",
    "acks": "it is always all",
    "enable.idempotence": "it is always true",
    "max.request.size": "it follows from the topics' max.message.bytes",
}

SECRETS = frozenset(
    {
        "sasl.password",
        "sasl.oauthbearer.client.secret",
        "ssl.key.password",
        "schema.registry.url",  # it may hold a password
        "basic.auth.user.info",
        "bearer.auth.token",
        "schema.registry.ssl.key.password",
    }
)


@dataclass(frozen=True, slots=True)
class ClientProperties:
    """Properties by name; only known ones.

    Attributes:
        values: as they were given. Their secrets do not show in ``repr``.
    """

    values: Mapping[str, str] = field(repr=False)

    def __repr__(self) -> str:
        shown = {k: "***" if k in SECRETS else v for k, v in sorted(self.values.items())}
        return f"ClientProperties({shown})"

    def text(self, name: str, default: str = "") -> str:
        """Return a property's value."""
        return self.values.get(name, default)

    def number(self, name: str, default: int) -> int:
        """Return a property that is a number.

        Raises:
            LogSettingError: it is none, or less than one.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not value.isdecimal() or int(value) < 1:
            raise LogSettingError(name, f"{value!r} is not a number above zero")
        return int(value)

    @property
    def servers(self) -> list[str]:
        """The brokers to begin with."""
        return [s.strip() for s in self.text("bootstrap.servers").split(",") if s.strip()]


def properties_of(*sources: Mapping[str, str]) -> ClientProperties:
    """Return the properties of several sources; the later one wins.

    Raises:
        LogSettingError: a name is not known, or there is no broker to begin with.
    """
    values: dict[str, str] = {}
    for source in sources:
        for given, value in source.items():
            values[_known(given)] = value.strip()
    found = ClientProperties(values)
    if not found.servers:
        raise LogSettingError("bootstrap.servers", "it is missing: host:port of a broker")
    for server in found.servers:
        _, colon, port = server.rpartition(":")
        if not colon or not port.isdecimal():
            raise LogSettingError("bootstrap.servers", f"{server!r} is not host:port")
    return found


def _known(given: str) -> str:
    name = ALIASES.get(given, given)
    if name in KNOWN:
        return name
    if name in _INSTEAD:
        raise LogSettingError(given, f"it is not taken: {_INSTEAD[name]}")
    near = difflib.get_close_matches(name, KNOWN, n=1)
    hint = f"; is it {near[0]}?" if near else ""
    raise LogSettingError(given, f"there is no such property{hint}")


def from_file(path: Path) -> dict[str, str]:
    """Read ``name=value`` lines; ``#`` and ``!`` begin comments.

    Raises:
        LogSettingError: the file cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LogSettingError(str(path), f"the file cannot be read: {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return from_pairs(
        (line for _, line in stripped if line and line[0] not in "#!"), f"{path}: a line"
    )


def from_pairs(pairs: Iterable[str], where: str = "a property") -> dict[str, str]:
    """Read ``name=value`` texts.

    Raises:
        LogSettingError: one is something else. What it holds is not shown: it may be a secret.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise LogSettingError(where, "it is not name=value")
        found[name.strip()] = value.strip()
    return found


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the properties that the environment sets.

    Raises:
        LogSettingError: a variable with the prefix names no property.
    """
    names = {variable_of(name): name for name in (*KNOWN, *ALIASES)}
    found: dict[str, str] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT):
            continue
        if variable not in names:
            raise LogSettingError(variable, "there is no property for this variable")
        found[names[variable]] = value
    return found


def variable_of(name: str) -> str:
    """Return the environment variable of a property.

    >>> variable_of("sasl.password")
    'STEPFOLD_KAFKA_SASL_PASSWORD'
    """
    return ENVIRONMENT + name.upper().replace(".", "_")
