"""The AsyncAPI document: made of the schemas, and whole."""

import json
from collections.abc import Iterator
from typing import Any

from typer.testing import CliRunner

from stepfold_engine.cli.program import program
from stepfold_schemas import codec


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_the_document_names_the_topics_and_every_schema() -> None:
    options = ["--namespace", "shop", "--kafka", "a:9092,b:9092"]
    result = CliRunner().invoke(program, ["topics", "asyncapi", *options])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    addresses = {channel["address"] for channel in found["channels"].values()}
    assert addresses == {"stepfold.events", "shop.journal", "shop.dead-letters"}
    assert [server["host"] for server in found["servers"].values()] == ["a:9092", "b:9092"]
    schemas = found["components"]["schemas"]
    newest = {name.partition(".v")[0] for name in codec.schema_files()}
    assert newest <= set(schemas)
    # What an older release wrote can be read with it, too.
    known = [schema["schema"] for schema in schemas.values()]
    assert sorted(map(str, known)) == sorted(map(str, codec.schema_files().values()))
    assert schemas["RunRequested"]["schema"] == codec.schema_files()["RunRequested.v3"]
    for reference in set(references(found)):
        part = found
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
        assert part
