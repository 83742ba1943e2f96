"""The syntax tree of an expression, and where it reads the trigger and the candidate.

Trees are immutable and as deep as ``parsing`` allows (``NESTING_MAX``), so that walking one by
recursion is safe.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal as OneOf

EVENT, CANDIDATE, VARS = "event", "async", "vars"
"""The three names an expression may begin with; ``vars`` is always empty."""

FoldKind = OneOf["all", "exists", "exists_one", "filter", "map"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the text, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    value: str | int | float | bool | bytes | None


@dataclass(frozen=True, slots=True)
class Name:
    """A variable: one of the three roots, or a macro's."""

    name: str
    place: Place


@dataclass(frozen=True, slots=True)
class Select:
    """``operand.field``."""

    operand: "Node"
    field: str


@dataclass(frozen=True, slots=True)
class Index:
    """``operand[index]``."""

    operand: "Node"
    index: "Node"


@dataclass(frozen=True, slots=True)
class Call:
    """A function, or a method if it has a target."""

    function: str
    target: "Node | None"
    arguments: "tuple[Node, ...]"
    place: Place


@dataclass(frozen=True, slots=True)
class ListOf:
    """``[a, b]``."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class MapOf:
    """``{"a": b}``."""

    entries: "tuple[tuple[Node, Node], ...]"


@dataclass(frozen=True, slots=True)
class Unary:
    """``!a`` or ``-a``."""

    operator: str
    operand: "Node"


@dataclass(frozen=True, slots=True)
class Binary:
    """A comparison, an arithmetical operation, or ``in``."""

    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Logical:
    """``a && b && c`` or ``a || b || c``: a chain is one node, however long."""

    operator: str
    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Conditional:
    """``condition ? then : otherwise``."""

    condition: "Node"
    then: "Node"
    otherwise: "Node"


@dataclass(frozen=True, slots=True)
class Has:
    """``has(operand.field)``."""

    operand: "Node"
    field: str


@dataclass(frozen=True, slots=True)
class Fold:
    """A macro over a list's items or a map's keys; ``condition`` is asked before ``body``."""

    kind: FoldKind
    source: "Node"
    variable: str
    body: "Node"
    condition: "Node | None" = None


Node = (
    Literal
    | Name
    | Select
    | Index
    | Call
    | ListOf
    | MapOf
    | Unary
    | Binary
    | Logical
    | Conditional
    | Has
    | Fold
)


@dataclass(frozen=True, slots=True)
class Read:
    """A place that an expression reads: the keys below the root.

    Attributes:
        keys: from the root downwards; () is the whole of it.
        tested: only whether it is there is asked, with ``has``.
    """

    keys: tuple[str, ...]
    tested: bool = False


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below, from left to right."""
    match node:
        case Literal() | Name():
            return ()
        case Select(operand, _) | Unary(_, operand) | Has(operand, _):
            return (operand,)
        case Index(left, right) | Binary(_, left, right):
            return (left, right)
        case Call(_, target, arguments, _):
            return arguments if target is None else (target, *arguments)
        case ListOf(items):
            return items
        case MapOf(entries):
            return tuple(part for entry in entries for part in entry)
        case Logical(_, parts):
            return parts
        case Conditional(condition, then, otherwise):
            return (condition, then, otherwise)
        case Fold(_, source, _, body, condition):
            return (source, body) if condition is None else (source, body, condition)


def size(node: Node) -> int:
    """How many nodes the tree has."""
    return 1 + sum(size(child) for child in children(node))


def path(node: Node, root: str) -> tuple[str, ...] | None:
    """The keys, if the node does nothing but follow constant keys down from the root."""
    match node:
        case Name(name):
            return () if name == root else None
        case Select(operand, key) | Index(operand, Literal(str() as key)):
            above = path(operand, root)
            return None if above is None else (*above, key)
        case _:
            return None


def reads(node: Node, root: str) -> Iterator[Read]:
    """Every place below the root that the expression reads, as narrow as the text shows it."""
    keys = path(node, root)
    if keys is not None:
        yield Read(_dotted(keys))
        return
    if isinstance(node, Has):
        above = path(node.operand, root)
        if above is not None:
            yield Read(_dotted((*above, node.field)), tested=True)
            return
    for child in children(node):
        yield from reads(child, root)


def conjuncts(node: Node) -> Iterator[Node]:
    """The parts that must all hold for the expression to hold."""
    if isinstance(node, Logical) and node.operator == "&&":
        for part in node.parts:
            yield from conjuncts(part)
    else:
        yield node


def is_dotted(keys: tuple[str, ...]) -> bool:
    """Whether the keys can be written as a dotted path and read back."""
    return all(key and "." not in key for key in keys)


def _dotted(keys: tuple[str, ...]) -> tuple[str, ...]:
    """As much of the keys as a dotted path can say: what is above the first other key."""
    for i in range(len(keys)):
        if not is_dotted(keys[i : i + 1]):
            return keys[:i]
    return keys
