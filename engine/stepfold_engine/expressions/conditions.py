"""Conditions: which events are meant by a wait or a cancellation, made once and tested often.

A condition carries the parts of the trigger that its expression reads, so that testing a
candidate needs nothing else. Its terms are equalities that every event it means must meet. They
are for an index: they filter, and never filter out what the expression accepts, because values
that are equal have one canonical text.
"""

import json
from collections.abc import Mapping
from typing import cast

from stepfold_engine.core.patterns import check_pattern
from stepfold_engine.errors import InvalidOptionError
from stepfold_engine.expressions import syntax
from stepfold_engine.expressions.expression import Expression, compile_expression, shown
from stepfold_engine.expressions.syntax import Node
from stepfold_engine.expressions.values import DEPTH_MAX, MISSING, Fields, canonical, child
from stepfold_schemas import strict
from stepfold_schemas.entries import Condition, Term

PATH_CHARS_MAX = 255
"""The longest dotted path of a ``match``."""

BOUND_BYTES_MAX = 32 * 1024
"""How much of a trigger a condition may carry. It is kept with the run for as long as it waits."""


def bind(
    event_name_pattern: str, expression: str, match: str, trigger: Mapping[str, object]
) -> Condition:
    """The condition that an event is of this name and meets ``match`` and the expression.

    What the trigger does not have is null in the condition, so that ``match`` and
    ``event.x == async.x`` then mean events without a value there.

    Args:
        event_name_pattern: a name, or a pattern.
        expression: CEL over ``event``, the trigger, and ``async``; "" if there is none.
        match: a dotted path where the event has the trigger's value; "" if there is none.
        trigger: the event that started the run.

    Raises:
        InvalidOptionError: one of them cannot be used.
    """
    try:
        check_pattern(event_name_pattern)
    except ValueError as error:
        raise InvalidOptionError(str(error)) from None
    terms = [_match_term(match, trigger)] if match else []
    if not expression:
        return Condition(event_name_pattern, terms=terms)
    if not isinstance(expression, str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise InvalidOptionError(f"an expression is text, not a {type(expression).__name__}")
    compiled = compile_expression(expression)
    bound = _bindings(compiled, trigger)
    encoded = _encoded(compiled, bound)
    _check_bound(f"the expression {shown(compiled.text)} reads", len(encoded))
    terms += (term for term in _expression_terms(compiled.tree, bound) if term not in terms)
    return Condition(event_name_pattern, compiled.text, encoded, terms)


def holds(condition: Condition, candidate: Mapping[str, object], now_ms: int | None = None) -> bool:
    """Whether the candidate is meant; its name is taken to match already.

    An expression that cannot be used, which ``bind`` would have refused, means no event.
    """
    for term in condition.terms:
        if canonical(value_at(candidate, term.path)) != term.value:
            return False
    if not condition.expression:
        return True
    try:
        compiled = compile_expression(condition.expression)
    except InvalidOptionError:
        return False
    return compiled.evaluate(json.loads(condition.bindings), candidate, now_ms)


def value_at(candidate: Mapping[str, object], path: str) -> object:
    """The value at a dotted path, or None if there is none.

    >>> value_at({"data": {"id": 5}}, "data.id"), value_at({"data": 1}, "data.id")
    (5, None)
    """
    value: object = candidate
    for key in path.split("."):
        value = child(value, key)
    return None if value is MISSING else value


def _match_term(match: str, trigger: Mapping[str, object]) -> Term:
    if len(match) > PATH_CHARS_MAX or not all(match.split(".")):
        raise InvalidOptionError(
            f"match {match[:PATH_CHARS_MAX]!r} is no path; write one like 'data.order_id', of at"
            f" most {PATH_CHARS_MAX} characters"
        )
    try:
        strict.check_text("match", match, PATH_CHARS_MAX)
    except ValueError as error:
        raise InvalidOptionError(str(error)) from None
    value = canonical(value_at(trigger, match))
    if not value:
        raise InvalidOptionError(
            f"match {match!r}: the trigger's value there cannot be compared; it must be JSON, and"
            f" nested at most {DEPTH_MAX} levels deep"
        )
    _check_bound(f"match {match!r}: the trigger has", len(value))
    return Term(match, value)


def _check_bound(what: str, size: int) -> None:
    if size > BOUND_BYTES_MAX:
        raise InvalidOptionError(
            f"{what} {size} bytes of the trigger; at most {BOUND_BYTES_MAX} can be compared"
        )


def _bindings(compiled: Expression, trigger: Mapping[str, object]) -> Fields:
    """The parts of the trigger that the expression reads, nested as they are there."""
    if compiled.event_paths == ("",):
        return dict(trigger)
    tested = {read.keys for read in syntax.reads(compiled.tree, syntax.EVENT) if read.tested}
    bound: Fields = {}
    for path in compiled.event_paths:
        keys = tuple(path.split("."))
        value: object = trigger
        for key in keys:
            value = child(value, key)
        if value is not MISSING or keys not in tested:
            # What has() asks about stays away if it is not there; for all else it is null.
            _put(bound, keys, None if value is MISSING else value)
    return bound


def _put(fields: Fields, keys: tuple[str, ...], value: object) -> None:
    *above, last = keys
    for key in above:
        fields = cast("Fields", fields.setdefault(key, {}))
    fields[last] = value


def _encoded(compiled: Expression, bound: Fields) -> bytes:
    try:
        return json.dumps(bound, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOptionError(
            f"the expression {shown(compiled.text)} reads a part of the trigger that is no JSON:"
            f" {error}"
        ) from None


def _expression_terms(tree: Node, bound: Fields) -> list[Term]:
    """The terms, those first that tell one trigger's events from another's.

    An index may use only the first: ``async.data.plan == 'pro'`` would leave it many waits.
    """
    terms: dict[Term, bool] = {}
    for part in syntax.conjuncts(tree):
        if isinstance(part, syntax.Binary) and part.operator == "==":
            for one, other in ((part.left, part.right), (part.right, part.left)):
                keys = syntax.path(one, syntax.CANDIDATE)
                value = _known(other, bound)
                if keys and syntax.is_dotted(keys) and value:
                    common = isinstance(other, syntax.Literal) or value == "null"
                    terms.setdefault(Term(".".join(keys), value), common)
    return sorted(terms, key=terms.__getitem__)


def _known(node: Node, bound: Fields) -> str:
    """The canonical text of what the node is for this trigger, "" if that cannot be said."""
    if isinstance(node, syntax.Literal):
        return canonical(node.value)
    keys = syntax.path(node, syntax.EVENT)
    if not keys or not syntax.is_dotted(keys):
        return ""
    return canonical(value_at(bound, ".".join(keys)))
