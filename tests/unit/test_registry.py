"""The schema registry: what it knows, does not know, or will not say."""

import asyncio
import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from stepfold_engine.errors import LogSettingError
from stepfold_engine.formats import read_event
from stepfold_engine.formats.confluent import read_framed
from stepfold_engine.kafka.properties import ClientProperties, properties_of
from stepfold_engine.kafka.registry import SchemaRegistry, registry_of
from stepfold_schemas.codec import UndecodableError
from tests.parts.existing import Writer
from tests.parts.registry import BILL, EVENT, MONEY, Registry, registry

USER_INFO = "shop:hunter-2"
ORDER = json.dumps(
    {
        "type": "record",
        "name": "com.shop.Order",
        "fields": [
            {"name": "id", "type": "long"},
            {"name": "note", "type": ["null", "string"], "default": None},
            {
                "name": "total",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            },
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "raw", "type": "bytes"},
        ],
    }
)
VALUE = {"id": 7, "note": None, "total": Decimal("9.90"), "at": 1_790_000_000_000, "raw": b"\x00"}


def properties(**given: str) -> ClientProperties:
    more = {name.replace("_", "."): value for name, value in given.items()}
    return properties_of({"bootstrap.servers": "localhost:9092"}, more)


@pytest.fixture
def server() -> Iterator[Registry]:
    with registry(USER_INFO) as running:
        yield running


def asker(server: Registry, user_info: str = USER_INFO) -> SchemaRegistry:
    given = {"schema.registry.url": server.url, "basic.auth.user.info": user_info}
    found = registry_of(properties(**{k.replace(".", "_"): v for k, v in given.items()}))
    assert found is not None
    return found


def learned(asked: SchemaRegistry, number: int) -> SchemaRegistry:
    asyncio.run(asked.learn(number))
    return asked


def test_what_confluents_serializer_writes_is_read_as_json(server: Registry) -> None:
    data = Writer(server, "orders", ORDER)(VALUE)
    asked = learned(asker(server), 1)
    assert read_framed(data, asked) == {
        "id": 7,
        "note": None,
        "total": "9.90",
        "at": "2026-09-21T14:13:20Z",
        "raw": "AA==",
    }
    before = len(server.asked)
    learned(asked, 1)
    assert len(server.asked) == before  # a schema of an id never changes


def test_an_event_may_be_avro_of_any_schema_with_its_fields(server: Registry) -> None:
    data = Writer(server, "events", json.dumps(EVENT))({"name": "t/x", "data": {"n": 1}})
    event = read_event(data, (), learned(asker(server), 1))
    assert (event.name, event.id, json.loads(event.data)) == ("t/x", "", {"n": 1})
    fields = [EVENT["fields"][0], {"name": "data", "type": "bytes"}]
    packed = Writer(server, "packed", json.dumps(EVENT | {"name": "P", "fields": fields}))
    good = packed({"name": "t/x", "data": b'{"n": 2}'})
    asked = learned(asker(server), 2)
    event = read_event(good, (), asked)
    assert json.loads(event.data) == {"n": 2}
    with pytest.raises(UndecodableError, match="data is neither an object nor JSON"):
        read_event(packed({"name": "t/x", "data": b"{"}), (), asked)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x00\x00\x00\x00\x01" + b"\x00", "schema 1 .*damaged com.shop.Order|damaged com.shop.O"),
        (b"\x00\x00\x00\x00\x09" + b"x", "schema 9: the registry .* knows no schema of this id"),
        (b"\x00\x00", "not in Confluent's wire format .it begins with 0000."),
        (b'{"id": 7}', "not in Confluent's wire format"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, says: str, server: Registry) -> None:
    Writer(server, "orders", ORDER)(VALUE)
    asked = learned(learned(asker(server), 1), 9)
    with pytest.raises(UndecodableError, match=says):
        read_framed(data, asked)


def test_a_record_that_is_no_event_says_which_fields_it_has(server: Registry) -> None:
    data = Writer(server, "orders", ORDER)(VALUE)
    with pytest.raises(UndecodableError, match=r"has no field name \(it has at, id, note, raw"):
        read_event(data, (), learned(asker(server), 1))
    with pytest.raises(UndecodableError, match=r"schema 1; set schema\.registry\.url to read it"):
        read_event(data)


def test_schemas_may_name_others_and_be_json_schemas(server: Registry) -> None:
    server.register("money", {"schema": json.dumps(MONEY)})
    named = [{"name": "com.shop.Money", "subject": "money", "version": 1}]
    number = server.register("bill", {"schema": json.dumps(BILL), "references": named})
    assert read_framed(b"\x00\x00\x00\x00\x02\x0e", learned(asker(server), number)) == {
        "sum": {"n": 7}
    }
    number = server.register("j", {"schema": "{}", "schemaType": "JSON"})
    framed = b"\x00\x00\x00\x00\x03" + b'{"a": 1}'
    assert read_framed(framed, learned(asker(server), number)) == {"a": 1}
    number = server.register("p", {"schema": "x", "schemaType": "PROTOBUF"})
    with pytest.raises(UndecodableError, match="schema 4: it is PROTOBUF; AVRO and JSON can be"):
        read_framed(b"\x00\x00\x00\x00\x04", learned(asker(server), number))
    lost = [{"name": "com.shop.Money", "subject": "mony", "version": 1}]
    number = server.register("lost", {"schema": json.dumps(BILL), "references": lost})
    with pytest.raises(UndecodableError, match="mony version 1, which is missing"):
        read_framed(b"\x00\x00\x00\x00\x05", learned(asker(server), number))


@pytest.mark.parametrize("how", ["down", "broken", "refusing", "another server"])
def test_a_registry_that_gives_no_answer_is_asked_until_it_does(
    how: str, server: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    data = Writer(server, "orders", ORDER)(VALUE)
    asked = asker(server)

    async def main() -> None:
        says = {
            "down": ("cannot be reached (schema.registry.url)", server.stop, server.start),
            "broken": (
                "answers with status 503 (schema.registry.url) the backend store failed",
                lambda: setattr(server, "broken", 503),
                lambda: setattr(server, "broken", 0),
            ),
            "refusing": (
                "refuses basic.auth.user.info (status 401)",
                lambda: setattr(server, "user_info", "other:one"),
                lambda: setattr(server, "user_info", USER_INFO),
            ),
            "another server": (
                "is no schema registry (schema.registry.url)",
                lambda: setattr(server, "broken", 404),
                lambda: setattr(server, "broken", 0),
            ),
        }
        text, spoil, mend = says[how]
        spoil()
        learning = asyncio.create_task(asked.learn(1))
        while caplog.text.count(text) < 2:
            await asyncio.sleep(0.02)
        assert not learning.done()
        mend()
        await learning

    with caplog.at_level(logging.WARNING, "stepfold"):
        asyncio.run(asyncio.wait_for(main(), 60))
    assert isinstance(read_framed(data, asked), dict)
    assert "hunter-2" not in caplog.text
    assert "records of schema 1 wait for the registry" in caplog.text


def test_the_next_address_is_asked_if_one_does_not_answer(server: Registry) -> None:
    Writer(server, "orders", ORDER)(VALUE)
    urls = f"http://127.0.0.1:1, {server.url.replace('//', f'//{USER_INFO}@')}"
    given = properties(schema_registry_url=urls, basic_auth_user_info=USER_INFO)
    asked = learned(SchemaRegistry(given), 1)
    assert asked.known(1).title == "schema 1 (com.shop.Order)"


def test_a_wrong_password_is_refused_at_the_start(server: Registry) -> None:
    with pytest.raises(LogSettingError, match=r"basic\.auth\.user\.info: .* \(status 401\)") as e:
        asyncio.run(asker(server, "shop:wrong-1").check())
    assert "wrong-1" not in str(e.value)
    asyncio.run(asker(server).check())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema_registry_url": "localhost:8081"}, r"schema\.registry\.url: 'localhost:8081' is not"),
    ({"schema_registry_url": "http://u:hunter-2@h:x"}, r"schema\.registry\.url: 'h:x'"),
    ({"basic_auth_user_info": "a:hunter-2"}, r"schema\.registry\.url: it is missing"),
    (
        {"schema_registry_url": "http://h", "basic_auth_user_info": "hunter-2"},
        "basic.auth.user.info: it is not USER:PASSWORD",
    ),
    (
        {"schema_registry_url": "http://h", "basic_auth_credentials_source": "SASL_INHERIT"},
        "it needs sasl.username and sasl.password",
    ),
    (
        {"schema_registry_url": "http://h", "basic_auth_credentials_source": "FILE"},
        "'FILE' is not USER_INFO, URL or SASL_INHERIT",
    ),
    (
        {"schema_registry_url": "https://h", "schema_registry_ssl_ca_location": "/no/such.pem"},
        r"schema\.registry\.ssl\.ca\.location: there is no file",
    ),
    (
        {
            "schema_registry_url": "http://h",
            "basic_auth_user_info": "a:hunter-2",
            "bearer_auth_token": "hunter-2",
        },
        "bearer.auth.token: give it, or a user and password",
    ),
]


@pytest.mark.parametrize(("given", "says"), WRONG)
def test_a_property_that_cannot_be_used_is_named_and_secrets_are_not(
    given: dict[str, str], says: str
) -> None:
    found = properties(**given)
    with pytest.raises(LogSettingError, match=says) as caught:
        registry_of(found)
    assert "hunter-2" not in str(caught.value)
    assert "hunter-2" not in repr(found)
