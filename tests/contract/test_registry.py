"""A real schema registry, and Confluent's own serializers: what they write is read."""

import asyncio
import json
from contextlib import closing

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient

from stepfold_engine.formats import read_event
from stepfold_engine.formats.confluent import number_in, read_framed
from stepfold_engine.kafka.properties import properties_of
from stepfold_engine.kafka.registry import SchemaRegistry
from stepfold_schemas.codec import UndecodableError
from tests.parts.apicurio import real_registry
from tests.parts.existing import Writer
from tests.parts.registry import BILL, EVENT, MONEY

__all__ = ["real_registry"]

pytestmark = [
    pytest.mark.registry,
    pytest.mark.xdist_group("registry"),
    pytest.mark.timeout(400),
]


def learned(url: str, *numbers: int) -> SchemaRegistry:
    given = {"bootstrap.servers": "localhost:9092", "schema.registry.url": url}
    asked = SchemaRegistry(properties_of(given, {}))

    async def learn() -> None:
        await asked.check()
        for number in numbers:
            await asked.learn(number)

    asyncio.run(learn())
    return asked


def test_an_event_that_confluents_serializer_wrote(real_registry: str) -> None:
    with closing(Writer(real_registry, "events", json.dumps(EVENT))) as write:
        data = write({"name": "t/x", "data": {"n": 1}})
    event = read_event(data, (), learned(real_registry, number_in(data)))
    assert (event.name, event.id, json.loads(event.data)) == ("t/x", "", {"n": 1})


def test_a_schema_that_names_another(real_registry: str) -> None:
    named = [SchemaReference("com.shop.Money", "money", 1)]
    with closing(SchemaRegistryClient({"url": real_registry})) as client:
        client.register_schema("money", Schema(json.dumps(MONEY), "AVRO"))
        number = client.register_schema("bill", Schema(json.dumps(BILL), "AVRO", named))
    framed = b"\x00" + number.to_bytes(4, "big") + b"\x0e"
    assert read_framed(framed, learned(real_registry, number)) == {"sum": {"n": 7}}


def test_a_json_schema(real_registry: str) -> None:
    schema = {"title": "note", "type": "object", "properties": {"a": {"type": "integer"}}}
    with closing(SchemaRegistryClient({"url": real_registry})) as client:
        number = client.register_schema("notes", Schema(json.dumps(schema), "JSON"))
    framed = b"\x00" + number.to_bytes(4, "big") + b'{"a": 1}'
    assert read_framed(framed, learned(real_registry, number)) == {"a": 1}


def test_an_id_that_it_does_not_know(real_registry: str) -> None:
    framed = b"\x00" + (999_999).to_bytes(4, "big") + b"x"
    with pytest.raises(UndecodableError, match=r"schema 999999: the registry .* knows no schema"):
        read_framed(framed, learned(real_registry, 999_999))
