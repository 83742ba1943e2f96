"""Ends of runs: their invokers and their failure handlers hear of them once; cancellations."""

from collections import defaultdict

from stepfold_schemas import codec
from stepfold_schemas.entries import (
    FunctionsDeclared,
    InvokeBegan,
    InvokeCompleted,
    InvokeFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
)
from stepfold_schemas.ids import ulid_text
from stepfold_schemas.messages import (
    FROM_NODE,
    CancelRequested,
    InvocationEnded,
)
from tests.simulation.audit.conditions import meets, names
from tests.simulation.audit.findings import CAUSE, TOLD_ONCE
from tests.simulation.audit.starts import FAILED_EVENT
from tests.simulation.audit.stories import Fact, Outcome, Story
from tests.simulation.audit.timers import FINISH_TIMEOUT, START_TIMEOUT, timed_out
from tests.simulation.audit.world import World, message_of, values_of

NOT_FOUND = "FunctionNotFoundError"
CANCELLED = "RunCancelledError"
BY_EVENT = "event "
"""How the reason begins of a cancellation by an event."""

_Waiter = tuple[bytes, bytes]
"""A run, and its step."""


def check(world: World) -> None:
    """Check who heard of which run's end, and why runs were cancelled."""
    _check_invokes(world)
    _check_cancelled_runs(world)
    _check_failures(world)


# Invokers.


def _check_invokes(world: World) -> None:
    invoked: dict[_Waiter, list[Story]] = defaultdict(list)
    for story in world.stories.values():
        invoker = story.start.entry.invoker
        if invoker is not None:
            invoked[invoker.run, invoker.step].append(story)
    for story in world.stories.values():
        for step, began in story.began.items():
            if isinstance(began.entry, InvokeBegan):
                children = invoked.get((story.run, step), [])
                why = _why_not_once(world, story, step, children)
                if why:
                    text = f"step {began.entry.name!r} of {story} invokes"
                    text += f" {began.entry.function} in {began.kept}: {why}"
                    world.findings.add(TOLD_ONCE, text, story.run, began.kept.order)


def _why_not_once(world: World, story: Story, step: bytes, children: list[Story]) -> str:
    began, outcome = story.began[step], story.outcomes.get(step)
    if len(children) > 1:
        return f"it starts {children[0]} and {children[1]}"
    heard = outcome.entry if outcome is not None else None
    assert isinstance(began.entry, InvokeBegan), "asked for those only"
    if isinstance(heard, InvokeFailed) and timed_out(began.entry, heard):
        return ""
    if isinstance(heard, InvokeFailed) and heard.error.name == NOT_FOUND and not children:
        return ""
    if children:
        return _why_not_told(outcome, children[0])
    told = isinstance(heard, InvokeCompleted | InvokeFailed)
    due = world.setup.settled and not _was_refused(world, story.run, step)
    return "no run of it was ever started" if told or due else ""


def _was_refused(world: World, run: bytes, step: bytes) -> bool:
    """Say whether an invoker was told of an error; it may have ended before it heard."""
    messages = (message_of(fact.entry.message) for fact in world.queued.values())
    return any(
        isinstance(m, InvocationEnded) and (m.run, m.step) == (run, step) and m.error is not None
        for m in messages
    )


def _why_not_told(outcome: Fact[Outcome] | None, child: Story) -> str:
    """Compare what an invoker heard with the end of the run that it invoked."""
    end = child.end
    if outcome is None or not isinstance(outcome.entry, InvokeCompleted | InvokeFailed):
        return ""  # given up, or not yet over
    heard = f"{type(outcome.entry).__name__} in {outcome.kept}"
    if end is None or end.kept.order >= outcome.kept.order:
        return f"it heard {heard}, before {child} had ended"
    match outcome.entry, end.entry:
        case InvokeCompleted(), RunCompleted():
            same = outcome.entry.data == end.entry.data
        case InvokeFailed(), RunFailed():
            same = outcome.entry.error == end.entry.error
        case InvokeFailed(), RunCancelled():
            same = outcome.entry.error.name == CANCELLED
        case _:
            same = False
    return "" if same else f"it heard {heard}, but {child} ended in {end.kept} otherwise"


# Cancelled runs.


def _check_cancelled_runs(world: World) -> None:
    asked: dict[bytes, int] = {}
    for posted in world.letters:
        if posted.letter.source == FROM_NODE and isinstance(posted.message, CancelRequested):
            asked.setdefault(posted.message.run, posted.order)
    for story in world.stories.values():
        end = story.end
        if end is None or not isinstance(end.entry, RunCancelled):
            continue
        reason, start = end.entry.reason, story.start.entry
        if reason.startswith(BY_EVENT):
            found = any(
                event.name == reason.removeprefix(BY_EVENT)
                and event.order < end.kept.order
                and event.at_ms < cancellation.expires_ms
                and names(cancellation.condition.event, event.name)
                and meets(cancellation.condition, event.values) is not False
                for cancellation in start.cancellations
                for event in world.events_by_name.get(reason.removeprefix(BY_EVENT), ())
            )
        elif START_TIMEOUT in reason or FINISH_TIMEOUT in reason:
            found = bool(start.start_by_ms if START_TIMEOUT in reason else start.finish_by_ms)
        else:
            found = asked.get(story.run, end.kept.order) < end.kept.order
        if not found:
            text = f"{story} is cancelled in {end.kept} for no cause: {reason}"
            world.findings.add(CAUSE, text, story.run, end.kept.order)


# Handlers of failures.


def _check_failures(world: World) -> None:
    handlers: dict[str, list[Story]] = defaultdict(list)
    for story in world.stories.values():
        events = story.start.entry.events
        if not events or story.start.entry.invoker or events[0] in world.events_by_raw:
            continue
        event = codec.decode_event(events[0])
        if event.name == FAILED_EVENT:
            data = values_of(event)["data"]
            handlers[str(data.get("run_id"))].append(story)
    for story in world.stories.values():
        end = story.end
        started = handlers.get(ulid_text(story.run), [])
        due = end is not None and isinstance(end.entry, RunFailed)
        handler = story.start.entry.on_failure
        if len(started) > 1:
            text = f"the failure of {story} starts {started[0]} and {started[1]}"
        elif due and not started and handler and _in_force(world, story, handler):
            text = f"the failure of {story} starts no run of {handler}, which is in force"
        else:
            continue
        order = end.kept.order if end is not None else 0
        world.findings.add(TOLD_ONCE, text, story.run, order)


def _in_force(world: World, story: Story, function: str) -> bool:
    """Say whether a function was in force where and when a run ended."""
    assert story.end is not None, "asked for ended runs only"
    kept = story.end.kept
    newest: dict[str, FunctionsDeclared] = {}
    for fact in world.of(FunctionsDeclared):
        if fact.kept.partition == kept.partition and fact.kept.index < kept.index:
            old = newest.get(fact.entry.app)
            if old is None or fact.entry.number > old.number:
                newest[fact.entry.app] = fact.entry
    return any(f.id == function for d in newest.values() for f in d.functions)
