"""Tokens for SASL/OAUTHBEARER: fetched with a client's credentials, kept until they are old.

Source: RFC 6749, sections 2.3.1, 4.4 and 5; the properties are named as librdkafka names them.
"""

import base64
import http.client
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import quote, urlencode, urlsplit

from stepfold_engine.errors import LogSettingError
from stepfold_engine.kafka.client import TokenError
from stepfold_engine.kafka.properties import ClientProperties
from stepfold_engine.kafka.web import Server, json_object

URL = "sasl.oauthbearer.token.endpoint.url"
CLIENT = "sasl.oauthbearer.client.id"
SECRET = "sasl.oauthbearer.client.secret"  # noqa: S105 - a property's name
EXTENSIONS = "sasl.oauthbearer.extensions"
AUTHORITIES = "https.ca.location"
LIFE_S = 300.0
"""How long a token is taken to live that does not say it."""

USED_SHARE = 0.8
"""The share of its life after which a token is replaced: no broker is to meet one that is over."""


class TokenSource:
    """Gives tokens, to any thread.

    Args:
        properties: with those of ``sasl.oauthbearer``.
        now_s: a clock that only goes on, in seconds.

    Raises:
        LogSettingError: a property is missing, or cannot be used.
    """

    def __init__(
        self, properties: ClientProperties, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        method = properties.text("sasl.oauthbearer.method", "oidc").lower()
        if method != "oidc":
            raise LogSettingError("sasl.oauthbearer.method", f"{method!r} is not oidc")
        for name in (URL, CLIENT, SECRET):
            if not properties.text(name):
                raise LogSettingError(name, "it is missing; OAUTHBEARER needs it")
        parts = urlsplit(properties.text(URL))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LogSettingError(URL, "it is not an address that begins with https:// or http://")
        tls = _tls(properties.text(AUTHORITIES)) if parts.scheme == "https" else None
        try:
            self._server = Server(parts.hostname, parts.port, tls)
        except ValueError as error:
            raise LogSettingError(URL, f"its port cannot be used: {error}") from error
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        pair = f"{quote(properties.text(CLIENT), '')}:{quote(properties.text(SECRET), '')}"
        self._authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._body = {"grant_type": "client_credentials"}
        if scope := properties.text("sasl.oauthbearer.scope"):
            self._body["scope"] = scope
        self.extensions = _extensions(properties.text(EXTENSIONS))
        self._now_s = now_s
        self._lock = threading.Lock()
        self._token, self._until_s = "", 0.0

    def token(self) -> str:
        """Return a token that is good for a while; ask for one if need be.

        Raises:
            TokenError: none is given now; the message names the property.
        """
        with self._lock:
            if self._now_s() >= self._until_s:
                asked_s = self._now_s()
                self._token, life_s = self._ask()
                self._until_s = asked_s + USED_SHARE * life_s
            return self._token

    def _ask(self) -> tuple[str, float]:
        try:
            status, data = self._post()
        except ssl.SSLCertVerificationError as error:
            text = f"{self._where}: its certificate is not trusted ({AUTHORITIES}): {error}"
            raise TokenError(text) from error
        except (OSError, http.client.HTTPException) as error:
            text = f"{self._where} does not answer ({URL}): {type(error).__name__} {error}"
            raise TokenError(text) from error
        said = json_object(data)
        token = said.get("access_token")
        if status == 200 and isinstance(token, str) and token:
            life = said.get("expires_in")
            return token, float(life) if isinstance(life, int | float) else LIFE_S
        why = f"status {status} {str(said.get('error', ''))[:100]}".rstrip()
        if status in (400, 401, 403):
            raise TokenError(f"{self._where} refuses {CLIENT} and {SECRET}: {why}")
        raise TokenError(f"{self._where} gives no token ({URL}): {why}")

    @property
    def _where(self) -> str:
        port = f":{self._server.port}" if self._server.port else ""
        return f"the token endpoint {self._server.host}{port}"

    def _post(self) -> tuple[int, bytes]:
        headers = {
            "Authorization": self._authorization,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        return self._server.ask("POST", self._path, headers, body=urlencode(self._body))


def _extensions(text: str) -> dict[str, str]:
    """Read ``name=value`` pairs with commas between them."""
    found: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise LogSettingError(EXTENSIONS, f"{pair!r} is not name=value")
        found[name] = value
    return found


def _tls(authorities: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authorities or None)
    except (OSError, ssl.SSLError) as error:
        text = f"{authorities} is no PEM file of certificates: {error}"
        raise LogSettingError(AUTHORITIES, text) from error
