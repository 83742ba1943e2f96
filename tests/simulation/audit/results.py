"""What random programs must do, given the outcomes in the journal: results, bodies, what they send.

The program's meaning comes from ``oracle``, which shares nothing with the SDK. Ids of steps may
repeat in a program; what kind of step an outcome belongs to is known where all of an id are alike.
"""

import json

from stepfold_schemas.entries import RunCompleted, RunFailed, StepCompleted, VersionChosen
from stepfold_schemas.ids import parse_ulid
from stepfold_schemas.messages import SignalDelivered
from tests.simulation.audit.code import MADE_BY_THE_ENGINE
from tests.simulation.audit.findings import RESULT, VERSION
from tests.simulation.audit.journal import Kept
from tests.simulation.audit.stories import Story
from tests.simulation.audit.world import World, message_of
from tests.simulation.programs import MismatchError, Plan, expected, outcomes_of
from tests.simulation.statements import SendEvent, SendSignal, Statement, Step, walk

FAILURE = "-failure"
"""How the id of a function's failure handler ends."""

_Kinds = dict[str, set[type[Statement]]]
"""By the id of a step, what kinds of statements have it."""


def check(world: World, plan: Plan) -> None:
    """Check every run's end, and every step, against the program."""
    kinds = _kinds_of(plan)
    internal = {e.event.internal: e.order for some in world.events.values() for e in some}
    delivered = _deliveries(world)
    for story in world.stories.values():
        if story.function in kinds:
            _check_end(world, plan, story)
            _check_versions(world, story)
            for step, fact in story.outcomes.items():
                if isinstance(fact.entry, StepCompleted) and step not in story.shared:
                    name, _, _ = fact.entry.name.partition(":")
                    kind = kinds[story.function].get(name, set())
                    why = ""
                    if kind == {Step}:
                        why = _why_not_run(world, story, fact.entry)
                    elif kind == {SendEvent}:
                        why = _why_not_sent(fact.entry, fact.kept, internal)
                    elif kind == {SendSignal}:
                        why = _why_not_signalled(fact.entry, fact.kept, delivered)
                    if why:
                        text = f"step {fact.entry.name!r} of {story} is recorded in {fact.kept},"
                        world.findings.add(RESULT, f"{text} but {why}", story.run, fact.kept.order)


def _kinds_of(plan: Plan) -> dict[str, _Kinds]:
    """Return the kinds of steps of every function, by its full id."""
    found: dict[str, _Kinds] = {}
    for function in plan.functions:
        bodies = {function.full_id: function.body}
        if function.failure is not None:
            bodies[function.full_id + FAILURE] = function.failure
        for id_, body in bodies.items():
            kinds = found.setdefault(id_, {})
            for statement in walk(body):
                name = getattr(statement, "id", "")
                if name:
                    kinds.setdefault(name, set()).add(type(statement))
    return found


def _check_end(world: World, plan: Plan, story: Story) -> None:
    end = story.end
    if end is None or not isinstance(end.entry, RunCompleted | RunFailed):
        return
    if isinstance(end.entry, RunFailed) and end.entry.error.name in MADE_BY_THE_ENGINE:
        return
    entries = [pair for _, some in story.dated() for pair in some]
    why = ""
    try:
        ending = expected(plan, outcomes_of(entries, story.shared))
    except MismatchError as error:
        why = f"its journal fits no life of its program: {error}"
    else:
        if isinstance(end.entry, RunCompleted):
            data = json.loads(end.entry.data)
            if (ending.kind, ending.value) != ("returned", data):
                why = f"it returned {data}; from its outcomes follows {ending.kind} {ending.value}"
        elif ending.kind != "raised":
            why = f"it failed; from its outcomes follows {ending.kind} {ending.value}"
    if why:
        text = f"{story}, which ended in {end.kept}: {why}"
        world.findings.add(RESULT, text, story.run, end.kept.order)


def _check_versions(world: World, story: Story) -> None:
    """Each question about a version is answered once, and with the same code on the new side."""
    asked = set[str]()
    for kept, entries in story.history:
        for entry in entries:
            if isinstance(entry, VersionChosen):
                if entry.name in asked or not entry.chosen:
                    text = f"{story} chose {entry.chosen} for {entry.name!r} in {kept}"
                    again = ", again" if entry.name in asked else ""
                    world.findings.add(VERSION, f"{text}{again}", story.run, kept.order)
                asked.add(entry.name)


def _why_not_run(world: World, story: Story, entry: StepCompleted) -> str:
    for seen in world.seen.get(story.run, ()):
        if seen.what == "body-ended" and (seen.step, seen.attempt) == (entry.name, entry.attempt):
            return ""
    return f"the body of attempt {entry.attempt} never came to its end"


def _why_not_sent(entry: StepCompleted, kept: Kept, internal: dict[str, int]) -> str:
    missing = [i for i in json.loads(entry.data) if internal.get(i, kept.order) >= kept.order]
    return f"the events {missing} that it sent are not in the log by then" if missing else ""


def _deliveries(world: World) -> dict[bytes, int]:
    """Return where each run was first sent a signal."""
    found: dict[bytes, int] = {}
    for fact in world.queued.values():
        message = message_of(fact.entry.message)
        if isinstance(message, SignalDelivered):
            order = min(fact.kept.order, found.get(message.run, fact.kept.order))
            found[message.run] = order
    return found


def _why_not_signalled(entry: StepCompleted, kept: Kept, delivered: dict[bytes, int]) -> str:
    text = json.loads(entry.data)
    if text is None or delivered.get(parse_ulid(text), kept.order) < kept.order:
        return ""
    return f"the signal that it sent was not delivered to run {text} by then"
