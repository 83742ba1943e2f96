"""Tokens are asked for once, and again before they are over; what is missing is named."""

import pytest

from stepfold_engine.errors import LogSettingError
from stepfold_engine.kafka.oauth import TokenSource
from stepfold_engine.kafka.properties import ClientProperties, properties_of
from tests.parts.tokens import CLIENT, SECRET, endpoint


def properties(url: str, **more: str) -> ClientProperties:
    given = {
        "bootstrap.servers": "localhost:9092",
        "sasl.oauthbearer.token.endpoint.url": url,
        "sasl.oauthbearer.client.id": CLIENT,
        "sasl.oauthbearer.client.secret": SECRET,
    }
    changed = {f"sasl.oauthbearer.{name.replace('_', '.')}": value for name, value in more.items()}
    return properties_of(given, changed)


def test_a_token_is_kept_until_it_is_old() -> None:
    now_s = 1_000.0
    with endpoint() as tokens:
        tokens.life_s = 100
        source = TokenSource(properties(tokens.url), lambda: now_s)
        first = source.token()
        now_s += 79
        assert source.token() == first
        assert tokens.given == 1
        now_s += 2
        source.token()
        assert tokens.given == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"client_secret": ""}, r"sasl\.oauthbearer\.client\.secret: it is missing"),
        ({"method": "default"}, r"sasl\.oauthbearer\.method: 'default' is not oidc"),
        ({"token_endpoint_url": "localhost"}, r"token\.endpoint\.url: it is not an address"),
        ({"token_endpoint_url": "http://h:x/t"}, r"token\.endpoint\.url: its port cannot be used"),
        ({"extensions": "a"}, r"sasl\.oauthbearer\.extensions: 'a' is not name=value"),
    ],
)
def test_what_cannot_be_used_is_named(more: dict[str, str], says: str) -> None:
    with pytest.raises(LogSettingError, match=says):
        TokenSource(properties("http://localhost:1/token", **more))


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(properties("http://localhost:1/token"))
