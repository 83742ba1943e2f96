"""From a syntax tree to a Python function that evaluates it.

Every node becomes a closure over its children's closures once; an evaluation only calls them.
Names and functions are resolved here, so that an expression which compiles can only fail for the
values it meets.
"""

import operator
from collections.abc import Callable
from typing import cast

from stepfold_engine.expressions import arithmetic, syntax
from stepfold_engine.expressions.folds import fold
from stepfold_engine.expressions.functions import FUNCTIONS, METHODS, WHOLE, Function
from stepfold_engine.expressions.regexes import searcher
from stepfold_engine.expressions.syntax import Node
from stepfold_engine.expressions.tokens import UnreadableError
from stepfold_engine.expressions.values import (
    MISSING,
    EvaluationError,
    Fields,
    Scope,
    child,
    compare,
    equal,
    is_list,
    is_map,
    is_number,
    kind,
    truthy,
)

Evaluator = Callable[[Scope], object]

NAME_SHOWN_CHARS = 40
"""How much of a name a message shows."""

SHORT_TEXT_CHARS = 1_000
"""Texts up to here are compared without being counted as work."""

Variables = tuple[str, ...]


def evaluator(node: Node, variables: Variables = ()) -> Evaluator:  # noqa: C901 - one short case per node
    """A function that gives the node's value, or MISSING.

    Args:
        node: the tree.
        variables: the macros' variables around it, the outermost first.

    Raises:
        UnreadableError: it uses a name or a function that does not exist.
    """
    match node:
        case syntax.Literal(value):
            return lambda _: value
        case syntax.Name() | syntax.Select() | syntax.Index():
            return _reading(node, variables)
        case syntax.Call():
            return _calling(node, variables)
        case syntax.ListOf(items):
            parts = [evaluator(item, variables) for item in items]
            return lambda scope: [_present(part(scope)) for part in parts]
        case syntax.MapOf(entries):
            return _mapping(entries, variables)
        case syntax.Unary(sign, operand):
            return _unary(sign, evaluator(operand, variables))
        case syntax.Binary():
            return _binary(node, variables)
        case syntax.Logical(sign, parts):
            choose = _any_of if sign == "||" else _all_of
            return choose([evaluator(part, variables) for part in parts])
        case syntax.Conditional(condition, then, otherwise):
            asked = evaluator(condition, variables)
            yes, no = evaluator(then, variables), evaluator(otherwise, variables)
            return lambda scope: yes(scope) if truthy(asked(scope)) else no(scope)
        case syntax.Has(operand, field):
            above = evaluator(operand, variables)
            return lambda scope: child(above(scope), field) is not MISSING
        case syntax.Fold(_, source, variable, body, condition):
            inner = (*variables, variable)
            tests = None if condition is None else evaluator(condition, inner)
            work = 2 + syntax.size(body) + (syntax.size(condition) if condition else 0)
            each = evaluator(body, inner)
            return fold(node.kind, evaluator(source, variables), each, tests, work)


def _present(value: object) -> object:
    return None if value is MISSING else value


def _reading(node: Node, variables: Variables) -> Evaluator:
    for root, start in _ROOTS.items():
        keys = syntax.path(node, root)
        if keys is not None:
            return _path(start, keys)
    match node:
        case syntax.Name(name, place):
            return _variable(name, place, variables)
        case syntax.Select(operand, field):
            above = evaluator(operand, variables)
            return lambda scope: child(above(scope), field)
        case syntax.Index(operand, index):
            above, position = evaluator(operand, variables), evaluator(index, variables)
            return lambda scope: _item(above(scope), position(scope))
        case _:
            raise AssertionError(node)


_ROOTS: dict[str, Evaluator] = {
    syntax.EVENT: lambda scope: scope.event,
    syntax.CANDIDATE: lambda scope: scope.candidate,
    syntax.VARS: lambda _: MISSING,
}


def _path(start: Evaluator, keys: tuple[str, ...]) -> Evaluator:
    def read(scope: Scope) -> object:
        value = start(scope)
        for key in keys:
            # A dict is by far the most frequent, and asking for exactly it the cheapest.
            if type(value) is dict:
                value = cast("Fields", value).get(key, MISSING)
            elif is_map(value):
                value = value.get(key, MISSING)
            else:
                return MISSING
        return value

    return read


def _variable(name: str, place: syntax.Place, variables: Variables) -> Evaluator:
    if name not in variables:
        there_is_no = f"there is no {name[:NAME_SHOWN_CHARS]!r}"
        raise UnreadableError(f"{there_is_no}; an expression reads event and async", place)
    index = len(variables) - 1 - variables[::-1].index(name)
    return lambda scope: scope.names[index]


def _item(value: object, position: object) -> object:
    if is_map(value) and isinstance(position, str):
        return value.get(position, MISSING)
    if value is None or value is MISSING or position is None or position is MISSING:
        return MISSING
    if is_list(value) and is_number(position):
        # A list that is too short is like a path that is not there.
        within = 0 <= position < len(value) and position == int(position)
        return value[int(position)] if within else MISSING
    raise EvaluationError(f"{kind(value)} cannot be indexed with {kind(position)}")


def _calling(node: syntax.Call, variables: Variables) -> Evaluator:
    table = FUNCTIONS if node.target is None else METHODS
    function = table.get(node.function)
    written = node.arguments if node.target is None else (node.target, *node.arguments)
    called = f"{'' if node.target is None else '.'}{node.function[:NAME_SHOWN_CHARS]}()"
    if function is None:
        raise UnreadableError(f"there is no {called}", node.place)
    if len(written) != function.arguments:
        implied = 0 if node.target is None else 1
        wanted, given = function.arguments - implied, len(written) - implied
        reason = f"{called} takes {wanted} argument{'' if wanted == 1 else 's'}, not {given}"
        raise UnreadableError(reason, node.place)
    arguments = [evaluator(argument, variables) for argument in written]
    pattern = written[1] if node.function == "matches" else None
    if isinstance(pattern, syntax.Literal) and isinstance(pattern.value, str):
        # Compiled once, and refused now rather than when an event comes.
        try:
            search = searcher(pattern.value)
        except ValueError as error:
            raise UnreadableError(str(error), node.place) from error
        arguments[1] = lambda _: search
    return _call(called, function, arguments)


def _call(called: str, function: Function, arguments: list[Evaluator]) -> Evaluator:
    call, of_missing = function.call, function.of_missing

    def evaluate(scope: Scope) -> object:
        values = [argument(scope) for argument in arguments]
        if MISSING in values:
            return of_missing
        try:
            return call(scope, *values)
        except EvaluationError as error:
            raise EvaluationError(f"{called}: {error}") from None
        except (ArithmeticError, ValueError, RecursionError) as error:
            raise EvaluationError(f"{called}: {error}") from error

    return evaluate


def _mapping(entries: tuple[tuple[Node, Node], ...], variables: Variables) -> Evaluator:
    pairs = [(evaluator(key, variables), evaluator(value, variables)) for key, value in entries]

    def evaluate(scope: Scope) -> object:
        fields: Fields = {}
        for key_of, value_of in pairs:
            key = key_of(scope)
            if not isinstance(key, str):
                raise EvaluationError(f"a map's key is a text here, not {kind(key)}")
            fields[key] = _present(value_of(scope))
        return fields

    return evaluate


def _unary(sign: str, operand: Evaluator) -> Evaluator:
    if sign == "-":
        return _guarded(lambda value, _, __: arithmetic.negate(value), operand, operand)

    def negation(scope: Scope) -> object:
        value = operand(scope)
        if value is MISSING:
            return False
        if isinstance(value, bool):
            return not value
        raise EvaluationError(f"! takes a bool, not {kind(value)}")

    return negation


def _binary(node: syntax.Binary, variables: Variables) -> Evaluator:
    left, right = evaluator(node.left, variables), evaluator(node.right, variables)
    match node.operator:
        case "==":
            return _equality(left, right)
        case "!=":
            same = _equality(left, right)
            return lambda scope: not same(scope)
        case "<" | "<=" | ">" | ">=":
            return _ordering(_ORDERINGS[node.operator], left, right)
        case "in":
            return lambda scope: _contained(left(scope), right(scope), scope)
        case "/" if _is_whole(node.left) and _is_whole(node.right):
            return _guarded(lambda a, b, _: arithmetic.divide_whole(a, b), left, right)
        case other:
            return _guarded(_OPERATIONS[other], left, right)


_ORDERINGS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_OPERATIONS: dict[str, Callable[[object, object, Scope], object]] = {
    "+": arithmetic.add,
    "-": lambda left, right, _: arithmetic.subtract(left, right),
    "*": lambda left, right, _: arithmetic.multiply(left, right),
    "/": lambda left, right, _: arithmetic.divide(left, right),
    "%": lambda left, right, _: arithmetic.remainder(left, right),
}


def _equality(left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(scope: Scope) -> bool:
        a, b = left(scope), right(scope)
        # Almost every equality is between two short texts.
        if type(a) is str and type(b) is str and len(a) < SHORT_TEXT_CHARS:
            return a == b
        return equal(a, b, scope)

    return evaluate


def _ordering(holds: Callable[[int, int], bool], left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(scope: Scope) -> bool:
        order = compare(left(scope), right(scope), scope)
        return order is not None and holds(order, 0)

    return evaluate


def _contained(value: object, container: object, scope: Scope) -> bool:
    if value is MISSING or container is MISSING or container is None:
        return False
    if is_list(container):
        scope.spend(2 * len(container))
        return any(equal(value, item, scope) for item in container)
    if is_map(container):
        return isinstance(value, str) and value in container
    raise EvaluationError(f"'in' takes a list or a map, not {kind(container)}")


def _is_whole(node: Node) -> bool:
    """Whether the node's value is a whole number, whatever the events are."""
    match node:
        case syntax.Literal(value):
            return type(value) is int
        case syntax.Call(function):
            return function in WHOLE
        case syntax.Unary("-", operand):
            return _is_whole(operand)
        case syntax.Binary("+" | "-" | "*" | "/" | "%", left, right):
            return _is_whole(left) and _is_whole(right)
        case _:
            return False


def _guarded(
    operation: Callable[[object, object, Scope], object], left: Evaluator, right: Evaluator
) -> Evaluator:
    def evaluate(scope: Scope) -> object:
        try:
            return operation(left(scope), right(scope), scope)
        except ZeroDivisionError:
            raise EvaluationError("a division by 0") from None
        except (ArithmeticError, ValueError) as error:
            raise EvaluationError(str(error)) from error

    return evaluate


def _any_of(parts: list[Evaluator]) -> Evaluator:
    """``||``: the first part that is true in JavaScript's sense, else the last one."""

    def evaluate(scope: Scope) -> object:
        value: object = False
        failure: EvaluationError | None = None
        for part in parts:
            try:
                value = part(scope)
            except EvaluationError as error:
                failure = error
            else:
                if value is True or truthy(value):
                    return value
        if failure is not None:
            raise failure
        return False if value is MISSING else value

    return evaluate


def _all_of(parts: list[Evaluator]) -> Evaluator:
    """``&&``: the first part that is false in JavaScript's sense, else the last one."""

    def evaluate(scope: Scope) -> object:
        value: object = True
        failure: EvaluationError | None = None
        for part in parts:
            try:
                value = part(scope)
            except EvaluationError as error:
                failure = error
            else:
                if value is not True and not truthy(value):
                    return False if value is MISSING else value
        if failure is not None:
            raise failure
        return value

    return evaluate
