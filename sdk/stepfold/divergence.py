"""Divergence reports: what a person reads when code and journal disagree."""

from collections.abc import Sequence

from stepfold.asks import Pending, TimerAsk, Where
from stepfold.durations import moment
from stepfold.replay import Ask, Divergence
from stepfold_schemas.ids import ulid_text

ADVICE = (
    "The function's code changed in a way that this run's journal does not fit, or it does"
    " something that differs from one time to the next (time, randomness, order of a set)"
    " outside a step. Put the old code back for this run, or make the change so that runs under"
    " way take the old path; then resume the run. Or run it again from the start."
)


def describe(function: str, run: bytes, found: Divergence) -> dict[str, object]:
    """Return the report on a divergence, as a JSON object."""
    expected = found.expected
    return {
        "reason": "diverged",
        "problem": found.problem,
        "function": function,
        "run": ulid_text(run),
        "expected": None
        if expected is None
        else {
            "kind": expected.kind,
            "step": expected.name,
            "recorded_at": moment(expected.at_ms).isoformat(),
        },
        "met": [_shown(ask) for ask in _earliest(found.met)],
        "advice": ADVICE,
    }


_MET_MAX = 20


def _earliest(met: Sequence[Ask]) -> Sequence[Ask]:
    return met[:_MET_MAX]


def _shown(ask: Ask) -> dict[str, object]:
    shown: dict[str, object] = {"kind": ask.kind, "step": ask.name}
    if isinstance(ask, Pending | TimerAsk):
        code = ask.where[0]
        shown |= {"file": code.co_filename, "line": line_of(ask.where)}
    return shown


def line_of(where: Where) -> int:
    """Return the line of a place in code."""
    code, instruction = where
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno
