"""Field paths of a record, ``value.customer.id``, and texts with paths in braces.

A path begins with ``value``, ``key``, ``headers``, ``timestamp``, ``topic``, ``partition`` or
``offset``. Behind it, names go into objects and numbers into lists; a name with a dot stands in
double quotes. A path that ends with ``?`` may lead nowhere: then it is null.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

ROOTS = ("value", "key", "headers", "timestamp", "topic", "partition", "offset")
_NAME = re.compile(r'"([^"]+)"|([^."?{}]+)')

Roots = Mapping[str, Callable[[], object]]
"""What each root means for a record; asked only for what is used."""


class MissingError(ValueError):
    """A path leads nowhere in a record."""


@dataclass(frozen=True, slots=True)
class Path:
    """A path that was read. ``names`` are what follows the root."""

    text: str
    root: str
    names: tuple[str, ...]
    optional: bool

    def of(self, roots: Roots) -> object:
        """Return what lies there.

        Raises:
            MissingError: nothing does.
        """
        at = roots[self.root]()
        for name in self.names:
            found = _into(at, name)
            if not found:
                if self.optional:
                    return None
                raise MissingError(f"there is no {self.text} ({_shape(at)})")
            at = found[0]
        return at


def _into(at: object, name: str) -> Sequence[object]:
    """Return what lies under a name, in a list; an empty one if nothing does."""
    if isinstance(at, dict):
        fields = cast("dict[str, object]", at)
        return [fields[name]] if name in fields else []
    if isinstance(at, list) and name.isdecimal():
        items = cast("list[object]", at)
        return items[int(name) : int(name) + 1]
    return []


def _shape(at: object) -> str:
    if isinstance(at, dict):
        names = sorted(map(str, cast("dict[str, object]", at)))
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        return f"there are {shown}" if names else "the object there is empty"
    if isinstance(at, list):
        return f"the list there has {len(cast('list[object]', at))} items"
    return f"there is {type(at).__name__}" if at is not None else "there is null"


def parse_path(text: str) -> Path:
    """Read a path.

    >>> parse_path('value.items.0."unit.price"?').names
    ('items', '0', 'unit.price')

    Raises:
        ValueError: it is none.
    """
    bare, optional = text.removesuffix("?"), text.endswith("?")
    names: list[str] = []
    at = 0
    while at <= len(bare):
        found = _NAME.match(bare, at)
        if found is None or bare[found.end() : found.end() + 1] not in ("", "."):
            raise ValueError(f"{text!r} is not a path such as value.customer.id")
        names.append(found[1] or found[2])
        at = found.end() + 1
    if names[0] not in ROOTS:
        raise ValueError(f"the path {text!r} does not begin with one of {', '.join(ROOTS)}")
    if names[0] not in ("value", "key", "headers") and names[1:]:
        raise ValueError(f"the path {text!r}: nothing lies under {names[0]}")
    return Path(bare, names[0], tuple(names[1:]), optional)


@dataclass(frozen=True, slots=True)
class Template:
    """A text with paths in it."""

    text: str
    parts: tuple[str | Path, ...]

    @property
    def constant(self) -> str | None:
        """The text, if no path is in it."""
        return self.text if all(isinstance(part, str) for part in self.parts) else None

    def of(self, roots: Roots) -> str:
        """Return the text for a record.

        Raises:
            MissingError: a path leads nowhere, or to what is no text, number or truth value.
        """
        return "".join(
            part if isinstance(part, str) else _text(part, part.of(roots)) for part in self.parts
        )


def _text(path: Path, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise MissingError(f"{path.text} is {_shape(value).removeprefix('there is ')}, not a text")


def parse_template(text: str) -> Template:
    """Read a text with paths in braces.

    >>> parse_template("order-{value.id}").constant is None, parse_template("order").constant
    (True, 'order')

    Raises:
        ValueError: what stands in braces is no path, or a brace is alone.
    """
    parts: list[str | Path] = []
    for number, part in enumerate(re.split(r"\{([^{}]*)\}", text)):
        if number % 2:
            parts.append(parse_path(part))
        elif "{" in part or "}" in part:
            raise ValueError(f"a brace is alone in {text!r}")
        elif part:
            parts.append(part)
    return Template(text, tuple(parts))
