"""An AsyncAPI 3.0 document of a namespace's topics, made of the schemas themselves.

What may be written to ``events`` and what can be read from ``events``, ``journal`` and
``dead-letters``; the inbox is the engine's own. Source: the AsyncAPI specification 3.0 and its
Kafka binding 0.5.0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stepfold_engine.kafka.topics import Layout, TopicNames, settings_of
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, JOURNAL
from stepfold_schemas import codec

AVRO = "application/vnd.apache.avro;version=1.9.0"
BINDING = "0.5.0"

_CLOUD = {
    name: {"type": "string", "description": text}
    for name, text in (
        ("ce_specversion", "1.0"),
        ("ce_type", "The event's name."),
        ("ce_source", "With ce_id, the event's id."),
        ("ce_id", "Unique for its source."),
        ("ce_time", "When it happened, RFC 3339."),
        ("content-type", "Of the value; application/json is best."),
    )
}
_PLAIN = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "maxLength": 255, "description": "Such as shop/order.paid."},
        "data": {"type": "object"},
        "id": {"type": "string", "description": "Sent again with it, it starts nothing twice."},
        "ts": {"type": "integer", "description": "When it happened, milliseconds since 1970."},
        "user": {"type": "object"},
    },
}


def document(names: TopicNames, servers: Sequence[str], release: str) -> dict[str, Any]:
    """Return the document, as plain values.

    Args:
        names: of the topics.
        servers: brokers as ``host:port``; may be empty.
        release: of stepfold.
    """
    newest = _newest()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"stepfold, namespace {names.namespace}",
            "version": release,
            "description": (
                "Anyone may write events, and read events, journals and dead letters. Every value"
                " of stepfold's own is Avro in single-object encoding: the marker C3 01, the"
                " schema's CRC-64-AVRO fingerprint (little endian), the value."
            ),
        },
        "defaultContentType": "avro/binary",
        "servers": {
            f"broker{number}": {"host": host, "protocol": "kafka"}
            for number, host in enumerate(servers, 1)
        },
        "channels": {
            "events": _channel(names, EVENTS, ["PlainEvent", "CloudEvent", "Event"]),
            "journal": _channel(names, JOURNAL, ["Decision"]),
            "deadLetters": _channel(names, DEAD_LETTERS, ["DeadLetter"]),
        },
        "operations": {
            "publishEvent": _operation("receive", "events", "Events that anyone may publish."),
            "readEvents": _operation("send", "events", "All events."),
            "readJournal": _operation(
                "send", "journal", "What was decided, partition by partition."
            ),
            "readDeadLetters": _operation("send", "deadLetters", "What could not be read."),
        },
        "components": {
            "messages": _messages(newest),
            "schemas": {
                name: {"schemaFormat": AVRO, "schema": schema}
                for name, schema in (newest | _older()).items()
            },
        },
    }


def _older() -> dict[str, dict[str, Any]]:
    """Return the schemas that a journal may still hold values of, by class and version."""
    newest = _newest().values()
    return {name: schema for name, schema in codec.schema_files().items() if schema not in newest}


def _newest() -> dict[str, dict[str, Any]]:
    """Return the newest schema of each class."""
    versions: dict[str, tuple[int, dict[str, Any]]] = {}
    for name, schema in codec.schema_files().items():
        class_name, _, version = name.partition(".v")
        versions[class_name] = max(
            versions.get(class_name, (0, {})), (int(version), schema), key=lambda known: known[0]
        )
    return {name: schema for name, (_, schema) in sorted(versions.items())}


def _channel(names: TopicNames, topic: str, messages: Sequence[str]) -> dict[str, Any]:
    settings = settings_of(topic, Layout())
    shown = {
        "cleanup.policy": [settings["cleanup.policy"]],
        "retention.ms": int(settings["retention.ms"]),
        "max.message.bytes": int(settings["max.message.bytes"]),
    }
    return {
        "address": names.of(topic),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"topicConfiguration": shown, "bindingVersion": BINDING}},
    }


def _operation(action: str, channel: str, text: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": text}


def _messages(newest: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    entries = ", ".join(name for name in newest if name not in ("Decision", "Event", "Letter"))
    return {
        "PlainEvent": {
            "summary": "An event as JSON, with any key.",
            "contentType": "application/json",
            "payload": _PLAIN,
        },
        "CloudEvent": {
            "summary": "A CloudEvent 1.0 in binary mode; structured JSON is taken as well.",
            "contentType": "application/json",
            "headers": {
                "type": "object",
                "required": ["ce_specversion", "ce_type", "ce_source", "ce_id"],
                "properties": _CLOUD,
            },
            "payload": {},
        },
        "Event": _own(
            "An event as stepfold writes it, keyed by its id; also a CloudEvent in binary mode"
            " whose data is the whole event. traceparent (W3C) names the run that sent it.",
            "Event",
            _texts("name", "id", *_CLOUD, "traceparent"),
        ),
        "Decision": _own(
            "One decision. Its entries are themselves in single-object encoding, of the schemas"
            f" {entries}. A record counts only if its epoch is the current one and its seq the"
            " next; a PartitionClaimed of the next epoch begins a term.",
            "Decision",
            _texts("seq"),
        ),
        "DeadLetter": {
            "summary": "The record that could not be read, byte for byte.",
            "headers": _texts("stepfold.error", "stepfold.source"),
            "payload": {},
        },
    }


def _own(text: str, schema: str, headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": text,
        "contentType": "avro/binary",
        "headers": headers,
        "payload": {"$ref": f"#/components/schemas/{schema}"},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": BINDING}},
    }


def _texts(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}
