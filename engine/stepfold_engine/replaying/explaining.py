"""Explaining: what most likely changed in code that does not fit a run's history, and what helps.

A journal does not say what the code was. So these are the likeliest reasons, found by comparing
the names that the journal holds, those that the code asked for, and those that its source has.
"""

import ast
import dis
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from stepfold.function import Function
from stepfold_engine.replaying.telling import Recorded, place_text, what
from stepfold_engine.replaying.tracing import Trace

RENAMED, REMOVED, ADDED, REORDERED = "renamed", "removed", "added", "reordered"
LOOP, BRANCH, KIND, UNSTABLE, ABANDONED = "loop", "branch", "kind", "unstable", "abandoned"

_OLD_CODE = "or let the runs that are under way end on the old code first"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What most likely changed.

    Attributes:
        kind: in one word.
        cause: in a sentence.
        advice: what can be done, in a sentence or two.
    """

    kind: str
    cause: str
    advice: str


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of a divergence.

    Attributes:
        report: the report of the replay machine.
        history: what the journal holds, by name.
        trace: what the code asked for.
        function: the function.
        unchanged: the function's own code is what it was when the run started.
    """

    report: dict[str, Any]
    history: dict[str, Recorded]
    trace: Trace
    function: Function[Any]
    unchanged: bool

    @property
    def expected(self) -> str:
        """The step that the journal holds next; "" if it is the code that goes too far."""
        found: dict[str, Any] | None = self.report["expected"]
        return str(found["step"]) if found else ""

    @property
    def expected_kind(self) -> str:
        """Its kind."""
        found: dict[str, Any] | None = self.report["expected"]
        return str(found["kind"]) if found else ""

    @property
    def met(self) -> list[str]:
        """What the code awaits instead."""
        return [str(one["step"]) for one in self.report["met"]]

    @property
    def place(self) -> str:
        """Where in the source the code is."""
        for one in self.report["met"]:
            if "file" in one:
                return place_text((str(one["file"]), int(one["line"])))
        return ""


def explain(case: Case) -> Explanation:
    """Say what most likely changed."""
    if not case.expected:
        return Explanation(
            ABANDONED,
            f"the run had cancelled {_names(case.met)}, and the code now waits for it",
            "Cancel it in the same way as before, or run it under another name.",
        )
    if case.report["problem"].startswith("the code asks for a"):
        return Explanation(
            KIND,
            f"'{case.expected}' was a {case.expected_kind} then and is a"
            f" {case.report['met'][0]['kind']} now",
            f"Give what is new a name of its own, and keep the old one, {_OLD_CODE}.",
        )
    if case.unchanged:
        return _unstable(case)
    for judge in (_other_count, _other_order, _renamed_or_removed, _other_branch):
        found = judge(case)
        if found is not None:
            return found
    return _added(case)


def _unstable(case: Case) -> Explanation:
    instead = f"it asks for {_names(case.met)}" if case.met else "it ends"
    return Explanation(
        UNSTABLE,
        f"the function's code is the same as then, but where it did '{case.expected}'"
        f" {instead}: it decides by something that differs from one time to the next",
        "Use ctx.now(), ctx.random() or ctx.uuid() in place of the clock and random numbers; read"
        " files, settings and the environment in a step; sort a set before going through it. (Or"
        " a function that it calls has changed.)",
    )


def _other_order(case: Case) -> Explanation | None:
    later = [name for name in case.met if name in case.history]
    if not later:
        return None
    return Explanation(
        REORDERED,
        f"the run did {what(case.expected_kind, case.expected)} before '{later[0]}'; now the code"
        f" waits for '{later[0]}' first",
        "Keep the order of steps (those that ran side by side, with asyncio.gather, must be asked"
        f" for together), {_OLD_CODE}.",
    )


def _other_count(case: Case) -> Explanation | None:
    base, number = parted(case.expected)
    asked = [name for name in case.trace.names if parted(name)[0] == base]
    if asked and case.expected not in asked:
        done = sum(parted(name)[0] == base for name in case.history)
        return Explanation(
            LOOP,
            f"the run used '{base}' {_times(done)}, the code asks for it {_times(len(asked))}:"
            " a loop around it goes round less often",
            f"Let the loop go round as often as before for runs under way, {_OLD_CODE}.",
        )
    for name in case.met:
        other, number = parted(name)
        before = [known for known in case.history if parted(known)[0] == other]
        if number and before:
            return Explanation(
                LOOP,
                f"the run used '{other}' {_times(len(before))}, the code asks for it once more"
                f" before '{case.expected}': a loop around it goes round more often",
                f"Let the loop go round as often as before for runs under way, {_OLD_CODE}.",
            )
    return None


def _renamed_or_removed(case: Case) -> Explanation | None:
    base, _ = parted(case.expected)
    if base in names_in(case.function) or not base:
        return None
    fresh = [name for name in case.met if name not in case.history]
    if fresh:
        return Explanation(
            RENAMED,
            f"'{base}' is nowhere in the code any more; in its place there is '{fresh[0]}'",
            f"If it is the same step, keep its name: outcomes are found by it. Else keep '{base}'"
            f" for runs that did it, {_OLD_CODE}.",
        )
    return Explanation(
        REMOVED,
        f"'{base}' is nowhere in the code any more",
        f"Keep it for the runs that did it, {_OLD_CODE}.",
    )


def _other_branch(case: Case) -> Explanation | None:
    base, _ = parted(case.expected)
    fresh = [parted(name)[0] for name in case.met if name not in case.history]
    if fresh and not in_other_arms(case.function, base, fresh[0]):
        return None
    instead = f"to '{fresh[0]}'" if fresh else "past it, to the end"
    if not fresh and case.met:
        return None
    return Explanation(
        BRANCH,
        f"the run came to '{case.expected}'; now a condition leads the code {instead}",
        f"Let the condition give what it gave for runs under way, {_OLD_CODE}.",
    )


def _added(case: Case) -> Explanation:
    fresh = [name for name in case.met if name not in case.history] or case.met
    if not fresh:
        return Explanation(
            BRANCH,
            f"the run came to '{case.expected}', and the code does not",
            f"Let the code take the same way for runs under way, {_OLD_CODE}.",
        )
    return Explanation(
        ADDED,
        f"{_names(fresh)} is new, and comes before '{case.expected}', which the run did next",
        "Put new steps behind the old ones, at the end of what runs under way have done,"
        f" {_OLD_CODE}.",
    )


def _names(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names[:3]) or "something"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


# Names in the source.


def parted(name: str) -> tuple[str, int]:
    """Return a step's id and its number among its uses.

    >>> parted("charge"), parted("charge:2"), parted("a:b")
    (('charge', 0), ('charge', 2), ('a:b', 0))
    """
    base, colon, number = name.rpartition(":")
    if colon and base and number.isdecimal():
        return base, int(number)
    return name, 0


class _Names:
    """Texts in code that may be ids: whole ones, and beginnings of those that are put together."""

    def __init__(self, texts: set[str]) -> None:
        self._texts = texts

    def __contains__(self, name: str) -> bool:
        if name in self._texts:
            return True
        return any(_begins(text, name) for text in self._texts)


def _begins(text: str, name: str) -> bool:
    return len(text) > 1 and not text[-1].isalnum() and name.startswith(text)


def names_in(function: Function[Any]) -> _Names:
    """Return the texts in a function's code, and in what it uses of its own file."""
    texts: set[str] = set()
    around: dict[str, Any] = getattr(function.call, "__globals__", {})
    left, seen = [_code_of(function.call)], set[CodeType]()
    while left:
        code = left.pop()
        if code is None or code in seen:
            continue
        seen.add(code)
        texts |= set(_texts(code))
        for name in _used(code):
            value = around.get(name)
            if isinstance(value, str):
                texts.add(value)
            other = _code_of(value)
            if other is not None and other.co_filename == code.co_filename:
                left.append(other)
    return _Names(texts)


def _code_of(value: object) -> CodeType | None:
    found = getattr(getattr(value, "call", value), "__code__", None)
    return found if isinstance(found, CodeType) else None


def _used(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


def _texts(code: CodeType) -> Iterator[str]:
    # What a docstring says is not an id: it is not loaded.
    for instruction in dis.get_instructions(code):
        if isinstance(instruction.argval, str):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _texts(constant)


def in_other_arms(function: Function[Any], one: str, other: str) -> bool:
    """Say whether two ids stand in different arms of one condition in the source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function.call)))
    except (OSError, SyntaxError, TypeError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.If):
            arms: list[list[ast.AST]] = [list(node.body), list(node.orelse)]
        elif isinstance(node, ast.IfExp):
            arms = [[node.body], [node.orelse]]
        elif isinstance(node, ast.Match):
            arms = [list(case.body) for case in node.cases]
        else:
            continue
        first = [i for i, arm in enumerate(arms) if _holds(arm, one)]
        second = [i for i, arm in enumerate(arms) if _holds(arm, other)]
        if first and second and not set(first) & set(second):
            return True
    return False


def _holds(arm: Sequence[ast.AST], text: str) -> bool:
    return any(
        isinstance(node, ast.Constant) and node.value == text
        for part in arm
        for node in ast.walk(part)
    )
