"""Verdicts: does code fit a run's history, and does it end as the run did?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepfold.function import Function
from stepfold.replay import Ask
from stepfold_engine.recordings import facts_in
from stepfold_engine.replaying.explaining import Case, Explanation, explain
from stepfold_engine.replaying.machine import Machine, Story, Told, is_fresh, place_of
from stepfold_engine.replaying.telling import (
    end_of,
    end_text,
    error_text,
    place_text,
    steps_in,
    what,
)
from stepfold_engine.replaying.tracing import Trace
from stepfold_schemas.entries import Error, RunAttemptFailed, RunCompleted, RunFailed
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.reports import RunReturned

SAME, NEW_STEPS, OTHER_END = "same", "new-steps", "other-end"
RAISES, DIVERGES, MISSING, UNREADABLE = "raises", "diverges", "no-function", "unreadable"
BAD = (RAISES, DIVERGES, MISSING)
VERDICTS = (SAME, NEW_STEPS, OTHER_END, RAISES, DIVERGES, MISSING, UNREADABLE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What replaying a run against code has shown.

    Attributes:
        run: the run's id, as text.
        function: the function's full id.
        status: how the run stands by its history.
        verdict: in a word, one of ``VERDICTS``.
        step: where it differs; "" if nowhere, or not at a step.
        place: the file and line of that, as text.
        text: in a sentence.
        advice: what can be done.
    """

    run: str
    function: str
    status: str
    verdict: str
    step: str = ""
    place: str = ""
    text: str = ""
    advice: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether runs like this one would not go on with this code."""
        return self.verdict in BAD


def judge(machine: Machine, story: Story) -> Verdict:
    """Replay a run; say how the code at hand fits its history."""
    run = story.run
    about = (ulid_text(run.run), run.function, run.status)
    if run.function not in machine.functions:
        text = f"there is no function {run.function} in the app"
        if run.ended_ms:
            return Verdict(*about, SAME, text=f"{text}, but the run has ended")
        return Verdict(*about, MISSING, text=f"{text}: the run would wait for it")
    trace = Trace(texts=False)
    told = machine.replay(story, trace)
    if told.report is not None:
        explanation, case = explained(told.report, story, trace, machine.functions)
        place = case.place
        return Verdict(
            *about, DIVERGES, case.expected, place, explanation.cause, explanation.advice
        )
    return _ended(about, told, story)


def explained(
    report: bytes, story: Story, trace: Trace, functions: Mapping[str, Function[Any]]
) -> tuple[Explanation, Case]:
    """Explain a divergence."""
    function = functions[story.run.function]
    steps = steps_in(story.facts, story.run.run).values()
    history = {step.name: step for step in steps if step.name}
    unchanged = function.spec().fingerprint == story.run.fingerprint
    case = Case(json.loads(report), history, trace, function, unchanged)
    return explain(case), case


def _ended(about: tuple[str, str, str], told: Told, story: Story) -> Verdict:
    then = recorded_end(story)
    if told.end is None:
        fresh = [ask for ask in told.awaited if is_fresh(ask)]
        if then is None or (fresh and _is_last(then)):
            return Verdict(*about, SAME)
        if not fresh:
            text = f"the run {end_of(story.run, story.facts)}; the code now waits for more"
            return Verdict(*about, OTHER_END, text=text)
        names = ", ".join(f"'{ask.name}'" for ask in fresh[:5])
        first, text = fresh[0], f"the run {_was(story)}; the code then goes on with {names}"
        return Verdict(*about, NEW_STEPS, first.name, place_text(place_of(first)), text)
    if isinstance(told.end, RunReturned):
        if then is None:
            return Verdict(*about, SAME)
        if isinstance(then, RunCompleted) and json.loads(then.data) == json.loads(told.end.data):
            return Verdict(*about, SAME)
        return Verdict(*about, OTHER_END, text=f"{end_text(told.end)}; the run {_was(story)}")
    error = told.end.error
    if isinstance(then, RunFailed | RunAttemptFailed) and _same_error(then.error, error):
        return Verdict(*about, SAME)
    place = _raised_at(error)
    if isinstance(then, RunFailed | RunAttemptFailed):
        text = f"raises {error_text(error)}; the run {_was(story)}"
        return Verdict(*about, OTHER_END, "", place, text)
    text = f"raises {error_text(error)}; the run {_was(story)}"
    advice = "See it in the debugger: stepfold replay RUN app.py --pdb"
    return Verdict(*about, RAISES, "", place, text, advice)


def _is_last(then: RunCompleted | RunFailed | RunAttemptFailed) -> bool:
    """Say whether code that goes on instead is what one would want: the run's code had failed."""
    return isinstance(then, RunAttemptFailed)


def _same_error(one: Error, other: Error) -> bool:
    return (one.name, one.message) == (other.name, other.message)


def _was(story: Story) -> str:
    said = end_of(story.run, facts_in(story.run))
    return said if said != "unfinished" else "has not ended"


def _raised_at(error: Error) -> str:
    """Return the last place in a recorded traceback, as text."""
    place = ""
    for line in error.stack.splitlines():
        words = line.strip().split(", ")
        if len(words) >= 2 and words[0].startswith('File "') and words[1].startswith("line "):
            place = place_text((words[0][6:-1], int(words[1][5:])))
    return place


def recorded_end(story: Story) -> RunCompleted | RunFailed | RunAttemptFailed | None:
    """Return how the attempt that is replayed ended; None if it did not end by itself."""
    failures = 0
    for fact in facts_in(story.run):
        entry = fact.entry
        if isinstance(entry, RunAttemptFailed):
            failures += 1
            if failures == story.attempt:
                return entry
        elif isinstance(entry, RunCompleted | RunFailed):
            return entry
    return None


def awaited_text(ask: Ask) -> str:
    """Say what code waits for at the end of a replay."""
    place = place_text(place_of(ask))
    return what(ask.kind, ask.name) + (f" ({place})" if place else "")
