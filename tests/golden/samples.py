"""Makes the golden bytes: one value of every schema. Existing lines are never changed.

Run ``python tests/golden/samples.py`` after adding a schema file; commit what it adds.
"""

import json
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from stepfold_schemas import codec, entries, events, messages, runfile

GOLDEN = Path(__file__).with_name("schemas.json")


def classes() -> dict[str, type]:
    """Return every class that is written down, by name."""
    found = [
        *typing.get_args(entries.Entry),
        *typing.get_args(messages.Message),
        entries.Decision,
        messages.Letter,
        events.Event,
        runfile.ExportedRun,
    ]
    return {c.__name__: c for c in found}


def sample(hint: Any, name: str) -> Any:
    """Make a value of a field's type; different fields get different values."""
    number = sum(name.encode())
    plain: dict[object, object] = {
        int: number * 1_000_003,
        str: f"{name} é",
        bytes: name.encode() + b"\x00\xff",
        bool: bool(number % 2),
        float: number / 8,
    }
    if hint in plain:
        return plain[hint]
    if hint == entries.Entry:
        return entries.SleepEnded(b"r" * 16, b"s" * 20)
    if isinstance(hint, types.UnionType):
        return sample(next(a for a in typing.get_args(hint) if a is not type(None)), name)
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return [sample(inner, name), sample(inner, name + "2")]
    assert is_dataclass(hint), hint
    return make(typing.cast("type", hint))


def make(cls: type) -> Any:
    """Make a value of a class, the same one every time."""
    hints = typing.get_type_hints(cls)
    return cls(*(sample(hints[f.name], f.name) for f in fields(cls)))


def main() -> None:
    """Add what is missing to the golden file."""
    golden: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for name in codec.schema_files():
        if name not in golden:
            value = make(classes()[name.partition(".v")[0]])
            golden[name] = {"bytes": codec.encode(value).hex(), "value": repr(value)}
    GOLDEN.write_text(json.dumps(dict(sorted(golden.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
