# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeArgument=false
"""From an expression's text to its syntax tree, by celpy's grammar.

The only importer of celpy, and of lark, which runs the grammar. The tree is built without
recursion and refused if it is deeper than ``NESTING_MAX``, so that everything after may recurse.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

from celpy.celparser import CELParser
from lark import Lark, Token
from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedToken, VisitError
from lark.visitors import Transformer_NonRecursive

from stepfold_engine.expressions import syntax
from stepfold_engine.expressions.syntax import Node, Place
from stepfold_engine.expressions.tokens import (
    UnreadableError,
    check_tokens,
    decode_bytes,
    decode_double,
    decode_text,
    decode_whole,
    place_at,
)

TEXT_CHARS_MAX = 4_096
"""The longest expression. Longer ones are a program, and belong into the function."""

NESTING_MAX = 64
"""The deepest tree; chains of ``&&`` and ``||`` count as one level."""

_TYPES_OF_FOLD: dict[str, syntax.FoldKind] = {
    "all": "all",
    "exists": "exists",
    "exists_one": "exists_one",
    "filter": "filter",
    "map": "map",
}


def parse(text: str) -> Node:
    """The text's syntax tree.

    Raises:
        UnreadableError: the text is no expression of the dialect, or too large for one.
    """
    if len(text) > TEXT_CHARS_MAX:
        raise UnreadableError(
            f"it has {len(text)} characters; at most {TEXT_CHARS_MAX} are allowed"
        )
    check_tokens(text)
    try:
        tree = _grammar().parse(text)
        grown = _Builder().transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, UnreadableError):
            raise error.orig_exc from None
        raise
    except LarkError as error:
        raise _explained(text, error) from None
    return grown.node


@cache
def _grammar() -> Lark:
    CELParser()
    grammar = CELParser.CEL_PARSER
    assert grammar is not None
    return grammar


def _explained(text: str, error: LarkError) -> UnreadableError:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        token = error.token
        return UnreadableError(f"unexpected {str(token)[:40]!r}", _place(token))
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
        return UnreadableError(f"unexpected {text[at : at + 1]!r}", place_at(text, at))
    return UnreadableError("it ends too early")


def _place(token: Token) -> Place:
    return Place(token.line or 1, token.column or 1)


class _Grown(NamedTuple):
    """A node and how deep it is, so that the depth need not be found by recursion."""

    node: Node
    depth: int


class _Pending(NamedTuple):
    """A binary operation that still waits for its right side."""

    operator: str
    left: _Grown


def _grow(node: Node, *below: _Grown) -> _Grown:
    depth = 1 + max((part.depth for part in below), default=0)
    if depth > NESTING_MAX:
        raise UnreadableError(f"it is nested deeper than {NESTING_MAX} levels")
    return _Grown(node, depth)


def _waits(operator: str) -> Callable[[Any, list[_Grown]], _Pending]:
    return lambda _, children: _Pending(operator, children[0])


def _sign(operator: str) -> Callable[[Any, list[Any]], str]:
    return lambda _, __: operator


class _Builder(Transformer_NonRecursive[Token, _Grown]):
    """Makes a node of each rule's match; the methods are named after the rules."""

    def expr(self, children: list[_Grown]) -> _Grown:
        if len(children) == 1:
            return children[0]
        condition, then, otherwise = children
        node = syntax.Conditional(condition.node, then.node, otherwise.node)
        return _grow(node, *children)

    def conditionalor(self, children: list[_Grown]) -> _Grown:
        return _logical("||", children)

    def conditionaland(self, children: list[_Grown]) -> _Grown:
        return _logical("&&", children)

    def binary(self, children: list[Any]) -> _Grown:
        if len(children) == 1:
            return cast("_Grown", children[0])
        pending, right = cast("tuple[_Pending, _Grown]", children)
        node = syntax.Binary(pending.operator, pending.left.node, right.node)
        return _grow(node, pending.left, right)

    relation = addition = multiplication = binary
    relation_lt, relation_le = _waits("<"), _waits("<=")
    relation_gt, relation_ge = _waits(">"), _waits(">=")
    relation_eq, relation_ne, relation_in = _waits("=="), _waits("!="), _waits("in")
    addition_add, addition_sub = _waits("+"), _waits("-")
    multiplication_mul, multiplication_div = _waits("*"), _waits("/")
    multiplication_mod = _waits("%")

    unary_not, unary_neg = _sign("!"), _sign("-")

    def unary(self, children: list[Any]) -> _Grown:
        if len(children) == 1:
            return cast("_Grown", children[0])
        operator, operand = cast("tuple[str, _Grown]", children)
        return _grow(syntax.Unary(operator, operand.node), operand)

    def only(self, children: list[_Grown]) -> _Grown:
        return children[0]

    member = primary = paren_expr = only

    def member_dot(self, children: list[Any]) -> _Grown:
        operand, field = cast("tuple[_Grown, Token]", children)
        return _grow(syntax.Select(operand.node, str(field)), operand)

    def member_dot_arg(self, children: list[Any]) -> _Grown:
        target, name = cast("_Grown", children[0]), cast("Token", children[1])
        arguments = cast("list[_Grown]", children[2]) if len(children) > 2 else []
        kind = _TYPES_OF_FOLD.get(name)
        if kind is not None:
            return _fold(kind, target, arguments, _place(name))
        nodes = tuple(argument.node for argument in arguments)
        call = syntax.Call(str(name), target.node, nodes, _place(name))
        return _grow(call, target, *arguments)

    def member_index(self, children: list[_Grown]) -> _Grown:
        operand, index = children
        return _grow(syntax.Index(operand.node, index.node), *children)

    def member_object(self, _: list[Any]) -> _Grown:
        raise UnreadableError("there are no message types here; write a map as {'key': value}")

    def ident(self, children: list[Token]) -> _Grown:
        return _grow(syntax.Name(str(children[0]), _place(children[0])))

    dot_ident = ident

    def ident_arg(self, children: list[Any]) -> _Grown:
        name = cast("Token", children[0])
        arguments = cast("list[_Grown]", children[1]) if len(children) > 1 else []
        if name == "has":
            return _has(arguments, _place(name))
        nodes = tuple(argument.node for argument in arguments)
        return _grow(syntax.Call(str(name), None, nodes, _place(name)), *arguments)

    dot_ident_arg = ident_arg

    def exprlist(self, children: list[_Grown]) -> list[_Grown]:
        return children

    mapinits = exprlist

    def list_lit(self, children: list[list[_Grown]]) -> _Grown:
        items = children[0] if children else []
        return _grow(syntax.ListOf(tuple(item.node for item in items)), *items)

    def map_lit(self, children: list[list[_Grown]]) -> _Grown:
        parts = children[0] if children else []
        nodes = [part.node for part in parts]
        return _grow(syntax.MapOf(tuple(zip(nodes[::2], nodes[1::2], strict=True))), *parts)

    def literal(self, children: list[Token]) -> _Grown:
        token = children[0]
        try:
            return _grow(syntax.Literal(_DECODERS[token.type](str(token))))
        except UnreadableError as error:
            raise UnreadableError(error.reason, _place(token)) from None


_DECODERS: dict[str, Callable[[str], str | int | float | bool | bytes | None]] = {
    "BOOL_LIT": "true".__eq__,
    "BYTES_LIT": decode_bytes,
    "FLOAT_LIT": decode_double,
    "INT_LIT": decode_whole,
    "MLSTRING_LIT": decode_text,
    "NULL_LIT": lambda _: None,
    "STRING_LIT": decode_text,
    "UINT_LIT": decode_whole,
}


def _logical(operator: str, children: list[_Grown]) -> _Grown:
    if len(children) == 1:
        return children[0]
    left, right = children
    before = left.node
    if isinstance(before, syntax.Logical) and before.operator == operator:
        # The chain grows by a part and not by a level.
        deepest = max(left.depth, right.depth + 1)
        return _Grown(syntax.Logical(operator, (*before.parts, right.node)), deepest)
    return _grow(syntax.Logical(operator, (before, right.node)), left, right)


def _has(arguments: list[_Grown], place: Place) -> _Grown:
    selected = arguments[0].node if len(arguments) == 1 else None
    match selected:
        case syntax.Select(operand, field) | syntax.Index(operand, syntax.Literal(str() as field)):
            return _grow(syntax.Has(operand, field), arguments[0])
        case _:
            raise UnreadableError("has() takes one path, as in has(event.data.id)", place)


def _fold(kind: syntax.FoldKind, source: _Grown, arguments: list[_Grown], place: Place) -> _Grown:
    counts = (2, 3) if kind == "map" else (2,)
    variable = arguments[0].node if arguments else None
    if len(arguments) not in counts or not isinstance(variable, syntax.Name):
        raise UnreadableError(f"{kind}() takes a name and what to do, as in {kind}(x, x.id)", place)
    if variable.name in (syntax.EVENT, syntax.CANDIDATE, syntax.VARS):
        raise UnreadableError(f"{variable.name!r} is taken; choose another name", variable.place)
    condition = arguments[1].node if len(arguments) == 3 else None
    node = syntax.Fold(kind, source.node, variable.name, arguments[-1].node, condition)
    return _grow(node, source, *arguments)
