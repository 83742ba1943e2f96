"""A schema registry, asked for schemas by their ids (``formats.confluent.Schemas``).

It speaks the REST API of Confluent's registry, which Karapace and Apicurio speak as well. What
was learned is kept: a schema of an id never changes. A registry that does not answer, or refuses
this client, is asked until it answers; only "there is no such id" is an answer that ends it.
"""

import asyncio
import base64
import http.client
import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote, urlsplit

from stepfold_engine.errors import LogSettingError
from stepfold_engine.formats.confluent import Registered
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.web import Server, json_object
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.foreign import foreign_schema

_log = logging.getLogger("stepfold")

URL = "schema.registry.url"
USER_INFO = "basic.auth.user.info"
SOURCE = "basic.auth.credentials.source"
TOKEN = "bearer.auth.token"  # noqa: S105 - a property's name
ANSWER_BYTES_MAX = 16 << 20
AGAIN_S = 0.2
AGAIN_S_MAX = 10.0
UNKNOWN_KEPT_S = 60.0
"""How long an id that is unknown is not asked for again."""

UNKNOWN_MAX = 1_000
_NO_SUCH_SCHEMA = 40403
_NO_SUCH_SUBJECT = (40401, 40402)


class RegistryError(Exception):
    """The registry gives no answer that can be used now; the message names the property."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a registry is: the parts of its URL."""

    secure: bool
    host: str
    port: int | None
    path: str

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"http{'s' if self.secure else ''}://{self.host}{port}{self.path}"


class SchemaRegistry:
    """One registry, at one or more addresses.

    Args:
        properties: with ``schema.registry.url``.

    Raises:
        LogSettingError: a property cannot be used.
    """

    def __init__(self, properties: ClientProperties) -> None:
        urls = [url.strip() for url in properties.text(URL).split(",") if url.strip()]
        self._places = [_place(url) for url in urls]
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if said := _authorization(properties, urls):
            self._headers["Authorization"] = said
        self._tls = _tls(properties)
        self._known: dict[int, Registered] = {}
        self._unknown: OrderedDict[int, tuple[float, str]] = OrderedDict()
        self._learning: dict[int, asyncio.Lock] = {}

    # What readers ask.

    def known(self, number: int) -> Registered:
        """Return a schema that was asked for; see the port."""
        found = self._known.get(number)
        if found is None:
            _, why = self._unknown.get(number, (0.0, "it was not asked for"))
            raise UndecodableError(f"schema {number}: {why}")
        return found

    def settled(self, number: int) -> bool:
        """Say whether the registry has answered what this schema is, not too long ago."""
        return number in self._known or self._is_unknown(number)

    async def learn(self, number: int) -> None:
        """Ask for a schema until the registry answers, however long that takes."""
        if self.settled(number):
            return
        lock = self._learning.setdefault(number, asyncio.Lock())
        async with lock:
            wait_s = AGAIN_S
            while not self.settled(number):
                try:
                    self._take(number, await asyncio.to_thread(self._fetch, number))
                except RegistryError as error:
                    _log.warning("records of schema %d wait for the registry: %s", number, error)
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, AGAIN_S_MAX)
        self._learning.pop(number, None)

    async def check(self) -> None:
        """Look whether the registry can be used; one that cannot be reached now is only reported.

        Raises:
            LogSettingError: it refuses this client.
        """
        try:
            status, _ = await asyncio.to_thread(self._ask, "/schemas/types")
        except RegistryError as error:
            _log.warning("%s; records that need it wait", error)
            return
        if status in (401, 403):
            raise LogSettingError(USER_INFO, f"{self._all} refuses it (status {status})")

    # What it answers.

    @property
    def _all(self) -> str:
        return ", ".join(map(str, self._places))

    def _is_unknown(self, number: int) -> bool:
        at_s, _ = self._unknown.get(number, (float("-inf"), ""))
        return time.monotonic() - at_s < UNKNOWN_KEPT_S

    def _take(self, number: int, found: Registered | str) -> None:
        if isinstance(found, Registered):
            self._known[number] = found
            return
        self._unknown[number] = (time.monotonic(), found)
        self._unknown.move_to_end(number)
        if len(self._unknown) > UNKNOWN_MAX:
            self._unknown.popitem(last=False)

    def _fetch(self, number: int) -> Registered | str:
        """Return a schema, or why there is none that can be used."""
        status, body = self._ask(f"/schemas/ids/{number}")
        if status == 404 and body.get("error_code") == _NO_SUCH_SCHEMA:
            return f"the registry ({self._all}) knows no schema of this id"
        self._check(status, f"/schemas/ids/{number}", body)
        kind = body.get("schemaType", "AVRO")
        if kind == "JSON":
            return Registered(number, None)
        if kind != "AVRO":
            return f"it is {kind}; AVRO and JSON can be read"
        try:
            references = self._referenced(body, set())
            return Registered(number, foreign_schema(str(body.get("schema")), references))
        except UndecodableError as error:
            return f"the registry's answer is {error}"

    def _referenced(self, body: Mapping[str, object], met: set[tuple[str, str]]) -> list[str]:
        """Return the schemas that one names, each behind those that it names itself."""
        found: list[str] = []
        for reference in cast("list[Mapping[str, object]]", body.get("references") or []):
            subject, version = str(reference.get("subject")), str(reference.get("version"))
            if (subject, version) in met:
                continue
            met.add((subject, version))
            path = f"/subjects/{quote(subject, safe='')}/versions/{quote(version, safe='')}"
            status, named = self._ask(path)
            if status == 404 and named.get("error_code") in _NO_SUCH_SUBJECT:
                raise UndecodableError(f"it names {subject} version {version}, which is missing")
            self._check(status, path, named)
            found += [*self._referenced(named, met), str(named.get("schema"))]
        return found

    def _check(self, status: int, path: str, body: Mapping[str, object]) -> None:
        if status in (401, 403):
            raise RegistryError(f"{self._all} refuses {USER_INFO} (status {status})")
        if status == 404:
            raise RegistryError(f"{self._all} is no schema registry ({URL}): it has no {path}")
        if status != 200:
            said = str(body.get("message", ""))[:200]
            raise RegistryError(f"{self._all} answers with status {status} ({URL}) {said}".rstrip())

    def _ask(self, path: str) -> tuple[int, Mapping[str, object]]:
        """Ask each address until one answers."""
        reasons: list[str] = []
        for place in self._places:
            try:
                status, data = self._get(place, path)
            except ssl.SSLCertVerificationError as error:
                reasons.append(f"{place}: not trusted (schema.registry.ssl.ca.location): {error}")
            except (OSError, http.client.HTTPException) as error:
                reasons.append(f"{place}: {type(error).__name__} {error}")
            else:
                if status < 500 or place is self._places[-1]:
                    return status, json_object(data)
                reasons.append(f"{place}: status {status}")
        raise RegistryError(f"the schema registry cannot be reached ({URL}): {'; '.join(reasons)}")

    def _get(self, place: _Place, path: str) -> tuple[int, bytes]:
        server = Server(place.host, place.port, self._tls if place.secure else None)
        return server.ask("GET", place.path + path, self._headers, bytes_max=ANSWER_BYTES_MAX)


def registry_of(properties: ClientProperties) -> SchemaRegistry | None:
    """Return the registry that properties name, None if they name none.

    Raises:
        LogSettingError: a property cannot be used.
    """
    if properties.text(URL):
        return SchemaRegistry(properties)
    for name in properties.values:
        if name.startswith(("schema.registry.", "basic.auth.", "bearer.auth.")):
            raise LogSettingError(URL, f"it is missing; {name} needs it")
    return None


def _place(url: str) -> _Place:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LogSettingError(URL, f"{_shown(url)!r} is not http://HOST:PORT or https://HOST:PORT")
    try:
        port = parts.port
    except ValueError as error:
        raise LogSettingError(URL, f"{_shown(url)!r}: {error}") from error
    return _Place(parts.scheme == "https", parts.hostname, port, parts.path.rstrip("/"))


def _shown(url: str) -> str:
    """Return a URL without what may be a password."""
    return url.rpartition("@")[2] if "@" in url else url


def _authorization(properties: ClientProperties, urls: list[str]) -> str:
    """Return the header that says who this client is, "" if nobody asks."""
    token = properties.text(TOKEN)
    source = properties.text(SOURCE, "USER_INFO" if properties.text(USER_INFO) else "URL").upper()
    match source:
        case "USER_INFO":
            user = properties.text(USER_INFO)
            if ":" not in user:
                raise LogSettingError(USER_INFO, f"it is not USER:PASSWORD; {SOURCE} asks for it")
        case "SASL_INHERIT":
            user = f"{properties.text('sasl.username')}:{properties.text('sasl.password')}"
            if user.startswith(":") or user.endswith(":"):
                text = "it needs sasl.username and sasl.password"
                raise LogSettingError(SOURCE, f"SASL_INHERIT: {text}")
        case "URL":
            parts = urlsplit(urls[0])
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        case _:
            raise LogSettingError(SOURCE, f"{source!r} is not USER_INFO, URL or SASL_INHERIT")
    if user == ":":
        return f"Bearer {token}" if token else ""
    if token:
        raise LogSettingError(TOKEN, "give it, or a user and password, not both")
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _tls(properties: ClientProperties) -> ssl.SSLContext:
    """Return what connections by https are checked by."""
    names = [f"schema.registry.ssl.{n}" for n in ("ca", "certificate", "key")]
    ca, certificate, key = (properties.text(f"{name}.location") for name in names)
    for name, path in zip(names, (ca, certificate, key), strict=True):
        if path and not Path(path).is_file():
            raise LogSettingError(f"{name}.location", f"there is no file {path}")
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        text = f"{ca} is no PEM file of certificates: {error}"
        raise LogSettingError(f"{names[0]}.location", text) from error
    if certificate:
        password = properties.text("schema.registry.ssl.key.password")
        try:
            context.load_cert_chain(certificate, key or None, password)
        except (OSError, ssl.SSLError) as error:
            text = f"it cannot be used with {names[2]}.location: {error}"
            raise LogSettingError(f"{names[1]}.location", text) from error
    return context
