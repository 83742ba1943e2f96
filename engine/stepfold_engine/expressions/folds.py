"""The macros: ``all``, ``exists``, ``exists_one``, ``filter`` and ``map``."""

from collections.abc import Callable

from stepfold_engine.expressions.syntax import FoldKind
from stepfold_engine.expressions.values import (
    MISSING,
    EvaluationError,
    Items,
    Scope,
    is_list,
    is_map,
    kind,
    truthy,
)

Evaluator = Callable[[Scope], object]


class _Each:
    """Evaluates a body for each item, with the item as the innermost variable."""

    __slots__ = ("_source", "_work")

    def __init__(self, source: Evaluator, work: int) -> None:
        self._source, self._work = source, work

    def items(self, scope: Scope) -> Items | None:
        """The items to go through, or None if there is nothing to go through."""
        source = self._source(scope)
        if source is MISSING or source is None:
            return None
        if is_map(source):
            return list(source)
        if not is_list(source):
            raise EvaluationError(f"a macro goes through a list or a map, not {kind(source)}")
        return source

    def call(self, body: Evaluator, item: object, scope: Scope) -> object:
        """The body's value for this item."""
        scope.spend(self._work)
        scope.names.append(item)
        try:
            return body(scope)
        finally:
            scope.names.pop()


def fold(
    what: FoldKind, source: Evaluator, body: Evaluator, condition: Evaluator | None, work: int
) -> Evaluator:
    """A function that evaluates the macro.

    Args:
        what: which one.
        source: gives the list, or the map whose keys are gone through.
        body: what is asked of each item, or made of it.
        condition: of ``map`` with three arguments: which items are taken.
        work: how much one item costs.
    """
    each = _Each(source, work)
    match what:
        case "all":
            return _deciding(each, body, decisive=False)
        case "exists":
            return _deciding(each, body, decisive=True)
        case "exists_one":
            return _counting(each, body)
        case "filter":
            return _choosing(each, body)
        case "map":
            return _making(each, body, condition)


def _deciding(each: _Each, body: Evaluator, *, decisive: bool) -> Evaluator:
    """``exists`` and ``all``: one item can decide, even if the body fails for others."""

    def evaluate(scope: Scope) -> bool:
        items = each.items(scope)
        if items is None:
            return False
        failure: EvaluationError | None = None
        for item in items:
            try:
                if truthy(each.call(body, item, scope)) is decisive:
                    return decisive
            except EvaluationError as error:
                failure = error
        if failure is not None:
            raise failure
        return not decisive

    return evaluate


def _counting(each: _Each, body: Evaluator) -> Evaluator:
    def evaluate(scope: Scope) -> bool:
        items = each.items(scope) or []
        return sum(truthy(each.call(body, item, scope)) for item in items) == 1

    return evaluate


def _choosing(each: _Each, body: Evaluator) -> Evaluator:
    def evaluate(scope: Scope) -> object:
        items = each.items(scope)
        if items is None:
            return MISSING
        return [item for item in items if truthy(each.call(body, item, scope))]

    return evaluate


def _making(each: _Each, body: Evaluator, condition: Evaluator | None) -> Evaluator:
    def evaluate(scope: Scope) -> object:
        items = each.items(scope)
        if items is None:
            return MISSING
        made: Items = []
        for item in items:
            if condition is None or truthy(each.call(condition, item, scope)):
                value = each.call(body, item, scope)
                made.append(None if value is MISSING else value)
        return made

    return evaluate
