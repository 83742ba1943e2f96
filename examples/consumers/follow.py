"""Print a namespace's events and journal as JSON lines, knowing nothing but its AsyncAPI document.

    pip install confluent-kafka fastavro
    stepfold topics asyncapi --namespace shop --kafka kafka-1:9092 > shop.json
    python follow.py shop.json [--until-end] [-X security.protocol=SSL …]

Nothing of stepfold is imported here: what anyone may read takes no more than this.
"""

# pyright: basic
# What comes out of Avro and JSON has no types, and the two libraries have them only in part.

import argparse
import base64
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from fastavro.schema import fingerprint, to_parsing_canonical_form

MARKER = b"\xc3\x01"  # Avro's single-object encoding


class Schemas:
    """The document's schemas, found by the fingerprint that precedes every value."""

    def __init__(self, document):
        self._known = {}
        for found in document["components"]["schemas"].values():
            canonical = to_parsing_canonical_form(found["schema"])
            mark = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
            self._known[mark] = fastavro.parse_schema(found["schema"])

    def read(self, data):
        """Return a value's type and its fields; what is in it in the same encoding is read, too."""
        schema = self._known.get(data[2:10])
        if schema is None:
            return "unknown", {"fingerprint": data[2:10].hex()}
        fields = fastavro.schemaless_reader(io.BytesIO(data[10:]), schema, None)
        return schema["name"].rpartition(".")[2], self._plain(fields)

    def _plain(self, value):
        match value:
            case dict():
                return {name: self._plain(part) for name, part in value.items()}
            case list():
                return [self._plain(part) for part in value]
            case bytes() if value.startswith(MARKER):
                name, fields = self.read(value)
                return {name: fields}
            case bytes():
                return json_or_base64(value)
            case _:
                return value


def json_or_base64(value):
    """Bytes are JSON (what events and steps carry), or an id."""
    try:
        return json.loads(value) if value else None
    except ValueError:
        return {"base64": base64.b64encode(value).decode()}


@dataclass
class Term:
    """Which records of a journal's partition count: only those that its owner wrote as its owner.

    A claim counts if its epoch is the current one plus 1; a decision counts if its epoch is the
    current one and its seq the next; after a hole, nothing of that epoch counts.
    """

    epoch: int = 0
    seq: int = 0
    broken: bool = False

    def counts(self, decision):
        epoch, seq = decision["epoch"], decision["seq"]
        names = [name for entry in decision["entries"] for name in entry]
        if self.epoch == 0 and names[:1] == ["PartitionRestated"]:
            self.epoch, self.seq = epoch, seq - 1  # a journal that was trimmed begins with a round
        if names[:1] == ["PartitionClaimed"]:
            if epoch != self.epoch + 1:
                return False
            self.epoch, self.broken = epoch, False
            return True
        if epoch != self.epoch or self.broken or seq != self.seq + 1:
            self.broken |= epoch == self.epoch and seq > self.seq + 1
            return False
        self.seq = seq
        return True


def shown(schemas, terms, is_journal, message):
    """Return what is printed of a record."""
    value = message.value() or b""
    where = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
    if not value.startswith(MARKER):  # an event of another producer: JSON, a CloudEvent, …
        headers = {
            name: (text or b"").decode("utf8", "replace") for name, text in message.headers() or ()
        }
        return where | {"headers": headers, "value": json_or_base64(value)}
    name, fields = schemas.read(value)
    if is_journal:
        where["counts"] = terms.setdefault(message.partition(), Term()).counts(fields)
    return where | {name: fields}


def follow(document, properties, until_end):
    """Yield what is in events and journal, from the beginning."""
    addresses = {name: channel["address"] for name, channel in document["channels"].items()}
    servers = ",".join(server["host"] for server in document["servers"].values())
    # No offsets are committed, so the group is never made: it only has to have a name.
    defaults = {"bootstrap.servers": servers, "group.id": "follow", "enable.auto.commit": False}
    consumer = Consumer(defaults | properties | {"enable.partition.eof": True})
    schemas, terms = Schemas(document), {}
    places = []
    for topic in (addresses["events"], addresses["journal"]):
        found = consumer.list_topics(topic, timeout=30).topics[topic]
        if found.error is not None:
            sys.exit(f"{topic}: {found.error}")
        places += [TopicPartition(topic, number, OFFSET_BEGINNING) for number in found.partitions]
    consumer.assign(places)
    unread = {(place.topic, place.partition) for place in places}
    while unread or not until_end:
        message = consumer.poll(1)
        if message is None:
            continue
        if (error := message.error()) is None:
            yield shown(schemas, terms, message.topic() == addresses["journal"], message)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            unread.discard((message.topic(), message.partition()))
        else:
            sys.exit(str(error))
    consumer.close()


def main():
    parser = argparse.ArgumentParser(description="Print events and journal as JSON lines.")
    parser.add_argument("document", type=Path, help="what `stepfold topics asyncapi` printed")
    parser.add_argument("--until-end", action="store_true", help="stop at what is there now")
    parser.add_argument("-X", dest="properties", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    properties = dict(pair.split("=", 1) for pair in args.properties)
    for line in follow(json.loads(args.document.read_text()), properties, args.until_end):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
