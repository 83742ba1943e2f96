"""An expression, compiled: what it reads, and its value for given events."""

import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache

from stepfold_engine.errors import InvalidOptionError
from stepfold_engine.expressions import syntax
from stepfold_engine.expressions.arithmetic import text as text_of
from stepfold_engine.expressions.evaluation import Evaluator, evaluator
from stepfold_engine.expressions.parsing import parse
from stepfold_engine.expressions.syntax import Node
from stepfold_engine.expressions.tokens import UnreadableError
from stepfold_engine.expressions.values import (
    MISSING,
    EvaluationError,
    Scope,
    WorkExceededError,
    normalize,
)

EXPRESSIONS_CACHED_MAX = 1_024
"""How many compiled expressions are kept. One takes about 300 µs to compile again."""

_SHOWN_CHARS_MAX = 200

_UNEVALUABLE = (EvaluationError, WorkExceededError, RecursionError)


class Expression:
    """A compiled expression; immutable, so that any number of threads may share it.

    Attributes:
        text: as it was written.
        event_paths: the dotted paths below ``event`` that it reads, none inside another; "" if
            it reads all of it.
    """

    __slots__ = ("_evaluate", "event_paths", "text", "tree")

    def __init__(self, text: str, tree: Node, evaluate: Evaluator) -> None:
        self.text = text
        self.tree = tree
        self._evaluate = evaluate
        self.event_paths = _outermost({read.keys for read in syntax.reads(tree, syntax.EVENT)})

    def evaluate(
        self,
        event: Mapping[str, object],
        candidate: Mapping[str, object] | None = None,
        now_ms: int | None = None,
    ) -> bool:
        """Whether the expression is true: neither false, nor something else, nor an error.

        Args:
            event: what it calls ``event``: the trigger.
            candidate: what it calls ``async``, if there is one.
            now_ms: the time of ``now()``; without it, the clock's.
        """
        scope = Scope(event, MISSING if candidate is None else candidate, now_ms)
        try:
            return self._evaluate(scope) is True
        except _UNEVALUABLE:
            return False

    def value(self, event: Mapping[str, object], now_ms: int | None = None) -> object:
        """The expression's value, in JSON's types; what is missing is null.

        Raises:
            InvalidOptionError: it has none for this event.
        """
        scope = Scope(event, MISSING, now_ms)
        try:
            value = self._evaluate(scope)
            if isinstance(value, (datetime, timedelta)):
                return text_of(value)
            return normalize(value, scope.spend)
        except _UNEVALUABLE as error:
            raise InvalidOptionError(
                f"the expression {shown(self.text)} has no value for this event: {error}"
            ) from None


@lru_cache(maxsize=EXPRESSIONS_CACHED_MAX)
def compile_expression(text: str) -> Expression:
    """The expression, ready to be evaluated; the same text gives the same object.

    Raises:
        InvalidOptionError: the text is no expression; the message says where and why.
    """
    try:
        tree = parse(text)
        return Expression(sys.intern(text), tree, evaluator(tree))
    except UnreadableError as error:
        raise InvalidOptionError(_message(text, error)) from None


def shown(text: str) -> str:
    """The text as a message shows it."""
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…")


def _message(text: str, error: UnreadableError) -> str:
    where = ""
    if error.place is not None:
        line = f"line {error.place.line}, " if "\n" in text else ""
        where = f" at {line}character {error.place.column}"
    return f"the expression {shown(text)} cannot be used{where}: {error.reason}"


def _outermost(paths: set[tuple[str, ...]]) -> tuple[str, ...]:
    inside = {keys for keys in paths if any(keys[:i] in paths for i in range(len(keys)))}
    return tuple(sorted(".".join(keys) for keys in paths - inside))
