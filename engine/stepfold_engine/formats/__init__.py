"""Events as anybody may write them: our Avro, CloudEvents, Confluent's format, plain JSON.

They are told apart by record.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from stepfold_engine.formats import cloud, plain
from stepfold_engine.formats.confluent import Schemas, is_framed, read_event_framed
from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.events import Event, InvalidEventError

Headers = Sequence[tuple[str, bytes]]


def read_event(value: bytes, headers: Headers = (), schemas: Schemas | None = None) -> Event:
    """Read an event from a record of the ``events`` topic.

    What its format cannot say is left out: id "", ts 0. ``schemas`` are those of a registry, if
    one is used.

    Raises:
        UndecodableError: it is none of the formats, or damaged, or something is missing.
    """
    if codec.is_ours(value):
        return codec.decode_event(value)
    said = dict(headers)
    try:
        if cloud.VERSION_HEADER in said:
            return cloud.of_headers(said, value)
        if is_framed(value):
            return read_event_framed(value, schemas)
        return _of_json(value, said)
    except InvalidEventError as error:
        raise UndecodableError(str(error)) from error


def _of_json(value: bytes, headers: Mapping[str, bytes]) -> Event:
    try:
        given: object = plain.parse_json(value)
    except ValueError as error:
        raise UndecodableError(
            f"neither an Avro event of stepfold, nor a CloudEvent, nor JSON: {error}"
        ) from error
    kind = headers.get("content-type", b"").decode(errors="replace")
    if not isinstance(given, dict):
        return plain.event_of(given, 0)
    known = cast("dict[str, object]", given)
    if "specversion" in known or kind.startswith(cloud.STRUCTURED):
        return cloud.of_json(known)
    if "name" not in {str(name).lower() for name in known}:
        raise UndecodableError(
            "JSON without a name; an event is"
            ' {"name": "shop/order.created", "data": {…}}, or a CloudEvent'
        )
    return plain.event_of(known, 0)
