"""The file that says which existing topics are events, and how: TOML, a table for each topic.

    [[source]]
    topic = "legacy.orders"
    format = "json"                     # or "avro" (Confluent's wire format), or "text"
    from = "earliest"                   # or a time: 2026-11-01T00:00:00Z
    name = "shop/order.{value.status}"
    id = "{value.order_id}"             # without it, the place of the record

    [source.data]
    order = "value.order_id"
    total = "value.amounts.0.total"
    customer = "key"

What is not known here is an error, and every error names the file, the source and the field.
"""

import difflib
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from stepfold_engine.errors import LogSettingError
from stepfold_engine.formats.mapping import EARLIEST, FORMATS, Fields, Source
from stepfold_engine.formats.paths import Template, parse_path, parse_template
from stepfold_engine.kafka.topics import TopicNames
from stepfold_schemas.events import RESERVED_PREFIXES

FIELDS = ("topic", "format", "key_format", "name", "id", "data", "user", "ts", "from", "empty")
EMPTY = ("dead-letter", "skip")


def sources_from(path: Path, names: TopicNames) -> list[Source]:
    """Read the file.

    Raises:
        LogSettingError: it cannot be read, or something in it cannot be used.
    """
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LogSettingError(str(path), f"it cannot be read: {error}") from error
    _known(given, ("source",), str(path))
    tables = given.get("source")
    if not isinstance(tables, list) or not tables:
        raise LogSettingError(str(path), "it names no topic: [[source]] begins one")
    found: list[Source] = []
    for number, table in enumerate(cast("list[object]", tables), 1):
        if not isinstance(table, dict):
            raise LogSettingError(str(path), f"source {number} is no table: [[source]] begins one")
        fields = cast("dict[str, object]", table)
        where = f"{path}: source {number} ({fields.get('topic', 'no topic')})"
        _known(fields, FIELDS, where)
        found.append(_source(fields, where))
    topics = [source.topic for source in found]
    for topic in topics:
        if topic in names.all:
            text = f"{topic} is a topic of this namespace, which is read anyway"
            raise LogSettingError(str(path), text)
        if topics.count(topic) > 1:
            raise LogSettingError(str(path), f"{topic} is named twice")
    return found


def _known(given: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; is it {near[0]}?" if near else f"; it may have {', '.join(known)}"
            raise LogSettingError(where, f"there is no {name!r} here{hint}")


def _source(given: Mapping[str, object], where: str) -> Source:
    kind = _choice(given, "format", FORMATS, where)
    template = _template(given, "name", where)
    if template is None:
        raise LogSettingError(where, "name is missing: what its events are called")
    if template.text.lower().startswith(RESERVED_PREFIXES):
        raise LogSettingError(where, f"the name {template.text!r} is reserved")
    ts = _text(given, "ts", where)
    data = _fields(given, "data", where)
    try:
        return Source(
            topic=_text(given, "topic", where) or _missing(where, "topic"),
            value_format=kind,
            key_format=_choice(given, "key_format", ("text", "json", "avro"), where),
            name=template,
            id=_template(given, "id", where),
            data=data if data is not None else parse_path("value"),
            user=_fields(given, "user", where),
            ts=parse_path(ts) if ts else None,
            begin_ms=_begin_ms(given.get("from", "earliest"), where),
            skip_empty=_choice(given, "empty", EMPTY, where) == "skip",
        )
    except ValueError as error:
        raise LogSettingError(where, f"ts: {error}") from error


def _missing(where: str, field: str) -> str:
    raise LogSettingError(where, f"{field} is missing")


def _text(given: Mapping[str, object], field: str, where: str) -> str:
    value = given.get(field, "")
    if not isinstance(value, str):
        raise LogSettingError(where, f"{field} is not a text: {value!r}")
    return value


def _choice(given: Mapping[str, object], field: str, known: tuple[str, ...], where: str) -> str:
    value = given.get(field, known[0])
    if not isinstance(value, str) or value not in known:
        raise LogSettingError(where, f"{field} is {value!r}; it is one of {', '.join(known)}")
    return value


def _template(given: Mapping[str, object], field: str, where: str) -> Template | None:
    text = _text(given, field, where)
    try:
        return parse_template(text) if text else None
    except ValueError as error:
        raise LogSettingError(where, f"{field}: {error}") from error


def _fields(given: Mapping[str, object], field: str, where: str) -> Fields | None:
    """Return the path of a whole object, or those of its fields."""
    value = given.get(field)
    try:
        if value is None:
            return None
        if isinstance(value, str):
            return parse_path(value)
        if isinstance(value, dict):
            fields = cast("dict[str, object]", value)
            return {name: parse_path(_text(fields, name, where)) for name in fields}
    except ValueError as error:
        raise LogSettingError(where, f"{field}: {error}") from error
    raise LogSettingError(where, f"{field} is neither a path nor a table of paths: {value!r}")


def _begin_ms(value: object, where: str) -> int:
    if value == "earliest":
        return EARLIEST
    if value == "latest":
        text = "from is latest, which every process would take for another moment; give a time"
        raise LogSettingError(where, f"{text}: {datetime.now(UTC).isoformat(timespec='seconds')}")
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        at = None
    if not isinstance(at, datetime):
        text = "is neither earliest nor a time such as 2026-11-01T00:00:00Z"
        raise LogSettingError(where, f"from {value!r} {text}")
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)
