"""Values of Avro schemas that are others', as Confluent's clients write them."""

# As in ``codec``: what fastavro returns has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import fastavro

from stepfold_schemas.codec import UndecodableError


class ForeignSchema:
    """An Avro schema of somebody else's. Make it with ``foreign_schema``.

    Attributes:
        name: its full name, or its type if it has none.
    """

    def __init__(self, parsed: Any) -> None:
        self.parsed = parsed
        self.name = str(parsed.get("name", parsed["type"]) if isinstance(parsed, dict) else parsed)


def foreign_schema(text: str, references: Sequence[str] = ()) -> ForeignSchema:
    """Read a schema; ``references`` are others that it names, each after those that it names.

    Raises:
        UndecodableError: it is no Avro schema.
    """
    named: dict[str, Any] = {}
    try:
        for reference in references:
            fastavro.parse_schema(json.loads(reference), named_schemas=named)
        return ForeignSchema(fastavro.parse_schema(json.loads(text), named_schemas=named))
    except Exception as error:
        raise UndecodableError(f"no Avro schema: {type(error).__name__}: {error}") from error


def decode_foreign(schema: ForeignSchema, data: bytes) -> object:
    """Read a value of somebody else's schema.

    Raises:
        UndecodableError: the bytes are not such a value.
    """
    source = BytesIO(data)
    try:
        value: object = fastavro.schemaless_reader(source, schema.parsed, None)
    except Exception as error:
        text = f"damaged {schema.name}: {type(error).__name__}: {error}"
        raise UndecodableError(text) from error
    if left := len(data) - source.tell():
        raise UndecodableError(f"damaged {schema.name}: {left} bytes too many")
    return value
