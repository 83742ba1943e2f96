"""Events as anybody may write them, told apart record by record."""

import json
from typing import Any

import pytest

from stepfold_engine.formats import read_event
from stepfold_engine.readers import event_record
from stepfold_engine.spans import traceparent
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import Event
from stepfold_schemas.ids import run_id, ulid_text

ORDER = {"order": 7}
CLOUD = {"specversion": "1.0", "type": "shop/order", "source": "/shop", "id": "7"}


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def ce_headers(**more: str) -> list[tuple[str, bytes]]:
    return [(f"ce_{name}", text.encode()) for name, text in (CLOUD | more).items()]


def test_our_own_avro() -> None:
    event = Event("shop/order", b'{"order":7}', "7")
    assert read_event(codec.encode(event)) == event


def test_plain_json() -> None:
    value = as_json(name="shop/order", data=ORDER, id="7", ts=1_800_000_000_000, user={"id": 1})
    expected = Event("shop/order", b'{"order":7}', "7", 1_800_000_000_000, b'{"id":1}')
    assert read_event(value) == expected
    assert read_event(as_json(name="shop/order")) == Event("shop/order", b"{}")


def test_cloudevents_in_headers() -> None:
    headers = [
        *ce_headers(time="2027-01-15T08:00:00Z", subject="customer/3", traceparent="00-ab-cd-01"),
        ("content-type", b"application/json; charset=utf-8"),
    ]
    event = read_event(b'{"order": 7}', headers)
    assert (event.name, event.id, event.ts) == ("shop/order", "/shop/7", 1_800_000_000_000)
    assert json.loads(event.data) == ORDER
    more = json.loads(event.user)["cloudevent"]
    assert more["subject"] == "customer/3"
    assert more["source"] == "/shop"
    assert more["traceparent"] == "00-ab-cd-01"


@pytest.mark.parametrize(
    "headers", [[], [("content-type", b"application/cloudevents+json; charset=UTF-8")]]
)
def test_cloudevents_as_json(headers: list[tuple[str, bytes]]) -> None:
    event = read_event(as_json(**CLOUD, data=ORDER, sequence=3), headers)
    assert (event.name, event.id, json.loads(event.data)) == ("shop/order", "/shop/7", ORDER)
    assert json.loads(event.user)["cloudevent"]["sequence"] == "3"


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        ("application/json", b"[1, 2]", {"value": [1, 2]}),
        ("application/vnd.shop+json", b'{"a": 1}', {"a": 1}),
        ("text/plain", b"hello", {"value": "hello"}),
        ("application/octet-stream", b"\xff\x00", {"base64": "/wA="}),
        ("", b'{"a": 1}', {"a": 1}),
        ("", b"no json", {"base64": "bm8ganNvbg=="}),
        ("application/json", b"", {}),
    ],
)
def test_any_data_of_a_cloudevent_becomes_an_object(kind: str, value: bytes, data: object) -> None:
    headers = [*ce_headers(), *([("content-type", kind.encode())] if kind else [])]
    assert json.loads(read_event(value, headers).data) == data


def test_binary_data_of_a_structured_cloudevent() -> None:
    given = as_json(**CLOUD, datacontenttype="application/json", data_base64="eyJhIjogMX0=")
    assert json.loads(read_event(given).data) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "headers", "says"),
    [
        (b"\x00\x01", [], "neither an Avro event of stepfold, nor a CloudEvent, nor JSON"),
        (b"[1]", [], "an event is a JSON object"),
        (b'{"data": {}}', [], "JSON without a name"),
        (b'{"name": 3}', [], "event name is not a string"),
        (b'{"name": "a", "data": [1]}', [], "data is a JSON array, it must be an object"),
        (b'{"name": "a", "ts": "now"}', [], "ts is not a number"),
        (as_json(specversion="1.0", type="a"), [], "without source, id"),
        (as_json(**(CLOUD | {"specversion": "0.3"})), [], "specversion '0.3'"),
        (as_json(**CLOUD, time="noon"), [], "'noon' is no RFC 3339 time"),
        (as_json(**CLOUD, data_base64="%"), [], "data_base64 is not base64"),
        (b"{}", ce_headers()[:2], "without source, id"),
        (b"{", [*ce_headers(), ("content-type", b"application/json")], "data is not JSON"),
        (b"{}", [*ce_headers()[:3], ("ce_id", b"\xff")], "header ce_id is not UTF-8"),
    ],
)
def test_what_is_no_event_is_refused_with_the_reason(
    value: bytes, headers: list[tuple[str, bytes]], says: str
) -> None:
    with pytest.raises(UndecodableError, match=says):
        read_event(value, headers)


def test_what_stepfold_writes_is_a_cloudevent_too() -> None:
    """Read here it is what was written; to others its headers say what it is, and who sent it."""
    run = run_id(1_800_000_000_000, bytes(10))
    key = "ab" * 20
    event = Event("a/b", b'{"n":1}', f"{ulid_text(run)}:{key}:0", 1_800_000_000_000)
    record = event_record(event)
    assert read_event(record.value, record.headers) == event
    headers = {name: content.decode() for name, content in record.headers}
    assert headers == {
        "name": "a/b",
        "id": event.id,
        "ce_specversion": "1.0",
        "ce_type": "a/b",
        "ce_source": "stepfold",
        "ce_id": event.id,
        "ce_time": "2027-01-15T08:00:00+00:00",
        "content-type": "application/avro",
        "traceparent": traceparent(run),
    }
    as_data = read_event(b'{"n":1}', [(n, c) for n, c in record.headers if n != "content-type"])
    assert (as_data.name, as_data.ts) == ("a/b", event.ts)


@pytest.mark.parametrize("given", ["order-7", "x:y:0", f"{'0' * 26}:{'ab' * 20}:x", ""])
def test_who_did_not_send_it_is_not_named(given: str) -> None:
    event = Event("a/b", b"{}", given, 0, internal="01M8F43Q8X000Y5MD4AA694SVA")
    assert not {"traceparent", "ce_time"} & dict(event_record(event).headers).keys()
