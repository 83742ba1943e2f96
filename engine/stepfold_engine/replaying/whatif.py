"""What if: the same run with other outcomes, another event, or other code.

The code then gets the recorded outcomes of whatever it still asks for, in the order of the
journal; what it no longer asks for is passed over. So it comes as far as recorded outcomes reach.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from stepfold.port import Fact
from stepfold_engine.replaying.machine import Story
from stepfold_engine.replaying.telling import (
    Recorded,
    outcome_text,
    place_text,
    short,
    steps_in,
    text_of,
    what,
)
from stepfold_engine.replaying.tracing import Heard, Trace
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Entry,
    Error,
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    RunStarted,
    SignalReceived,
    SignalWaitEnded,
    StepCompleted,
    StepFailed,
    WaitRef,
    WaitTimedOut,
)
from stepfold_schemas.events import Event

_EVENT_FIELDS = ("data", "user", "name", "ts")


class ChangeError(ValueError):
    """A change cannot be made; the message says why, and what there is."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A story with a change in it, and the change in words."""

    story: Story
    said: str


def set_outcome(story: Story, text: str) -> Changed:
    """Give a step another outcome: ``STEP=JSON``. Waits take an event's data, or null for none.

    Raises:
        ChangeError: there is no such step, or the value is not JSON.
    """
    key, step, given = _parsed(story, text, "--set")
    try:
        value: object = json.loads(given)
    except ValueError as error:
        raise ChangeError(f"--set {step.name}: not JSON: {short(given)} ({error})") from error
    entry = _outcome(story, key, step, value)
    return _changed(story, key, step, entry, outcome_text(entry))


def fail_step(story: Story, text: str) -> Changed:
    """Let a step or an invocation fail for good: ``STEP=MESSAGE``.

    Raises:
        ChangeError: there is no such step.
    """
    key, step, message = _parsed(story, text, "--fail")
    run, error = story.run.run, Error("Exception", message)
    entry: Entry
    if step.kind == "invoke":
        entry = InvokeFailed(run, key, error)
    elif step.kind == "step":
        entry = StepFailed(run, key, step.name, max(step.attempt, 1), step.began_ms, error)
    else:
        raise ChangeError(f"--fail {step.name}: a {step.kind} does not fail")
    return _changed(story, key, step, entry, f"an error: {short(message)}")


def _parsed(story: Story, text: str, option: str) -> tuple[bytes, Recorded, str]:
    steps = {s.name: (key, s) for key, s in steps_in(story.facts, story.run.run).items() if s.name}
    at = text.find("=")
    while at > 0:
        found = steps.get(text[:at])
        if found is not None:
            return *found, text[at + 1 :]
        at = text.find("=", at + 1)
    there = ", ".join(repr(name) for name in steps) or "none"
    name = text.partition("=")[0]
    if "=" not in text:
        raise ChangeError(f"{option} {text}: write STEP=VALUE")
    raise ChangeError(f"{option}: the run has no step '{name}', only: {there}")


def _outcome(story: Story, key: bytes, step: Recorded, value: object) -> Entry:
    run, data = story.run.run, _json(value)
    match step.kind:
        case "step":
            attempt = max(step.attempt, 1)
            return StepCompleted(run, key, step.name, attempt, step.began_ms, data)
        case "invoke":
            return InvokeCompleted(run, key, data)
        case "signal" if value is None:
            return SignalWaitEnded(run, key, "timed-out", b"")
        case "signal":
            return SignalReceived(run, key, data)
        case "wait" if value is None:
            return WaitTimedOut(run, key)
        case "wait" if isinstance(value, dict):
            now_ms = step.ended_ms or story.facts[-1].at_ms
            event = Event(step.target, data, "", now_ms, received_ms=now_ms)
            return EventMatched(codec.encode(event), "", [WaitRef(run, key)])
        case "wait":
            raise ChangeError(
                f"--set {step.name}: an event's data is a JSON object, or null for none"
            )
        case _:
            raise ChangeError(f"--set {step.name}: a {step.kind} has no value")


def _changed(story: Story, key: bytes, step: Recorded, entry: Entry, shown: str) -> Changed:
    was = "what it had not got yet" if step.outcome is None else outcome_text(step.outcome)
    said = f"{what(step.kind, step.name)} gives {shown} instead of {was}"
    facts: list[Fact] = []
    for fact in story.facts:
        old = fact.entry
        if old is not step.outcome:
            facts.append(fact)
        elif isinstance(old, EventMatched) and len(old.waits) > 1:
            rest = replace(old, waits=[ref for ref in old.waits if ref.step != key])
            facts += [replace(fact, entry=rest), replace(fact, place=fact.place, entry=entry)]
        else:
            facts.append(replace(fact, entry=entry))
    if step.outcome is None:
        last = facts[-1]
        facts.append(Fact(last.seq + 1, 0, last.at_ms, entry))
    return Changed(replace(story, facts=facts, lenient=True), said)


def set_event(story: Story, text: str) -> Changed:
    """Change what started the run: ``PATH=JSON``, with a path such as ``data.amount``.

    Raises:
        ChangeError: the path leads nowhere, or the value is not JSON.
    """
    path, equals, given = text.partition("=")
    keys = path.removeprefix("event.").split(".")
    if not equals or not all(keys):
        raise ChangeError(f"--set-event {text}: write PATH=JSON, such as data.amount=5")
    if keys[0] not in _EVENT_FIELDS:
        keys = ["data", *keys]
    try:
        value: object = json.loads(given)
    except ValueError as error:
        raise ChangeError(f"--set-event {path}: not JSON: {short(given)} ({error})") from error
    event = story.events[0]
    whole: dict[str, object] = {
        "name": event.name,
        "data": json.loads(event.data),
        "user": json.loads(event.user),
        "ts": event.ts,
    }
    was = _put(whole, keys, value, path)
    changed = replace(
        event,
        name=str(whole["name"]),
        data=_json(whole["data"]),
        user=_json(whole["user"]),
        ts=cast("int", whole["ts"]),
    )
    first = story.facts[0]
    started = cast("RunStarted", first.entry)  # a story begins with it
    entry = replace(started, events=[codec.encode(changed), *started.events[1:]])
    facts = [replace(first, entry=entry), *story.facts[1:]]
    said = f"event.{'.'.join(keys)} is {short(text_of(value))} instead of {_shown(was)}"
    events = [changed, *story.events[1:]]
    return Changed(replace(story, facts=facts, events=events, lenient=True), said)


def _put(whole: dict[str, object], keys: Sequence[str], value: object, path: str) -> object:
    inner: object = whole
    for key in keys[:-1]:
        inner = _below(inner, key, path)
    last = keys[-1]
    if isinstance(inner, dict):
        fields = cast("dict[str, object]", inner)
        was, fields[last] = fields.get(last, ...), value
        return was
    if (
        isinstance(inner, list)
        and last.isdecimal()
        and int(last) < len(cast("list[object]", inner))
    ):
        items = cast("list[object]", inner)
        was, items[int(last)] = items[int(last)], value
        return was
    raise ChangeError(f"--set-event {path}: there is nothing below '{keys[-2]}' to change")


def _below(inner: object, key: str, path: str) -> object:
    if isinstance(inner, dict) and key in inner:
        return cast("dict[str, object]", inner)[key]
    if isinstance(inner, list) and key.isdecimal() and int(key) < len(cast("list[object]", inner)):
        return cast("list[object]", inner)[int(key)]
    raise ChangeError(f"--set-event {path}: the event has no '{key}' there")


def _shown(value: object) -> str:
    return "nothing" if value is ... else short(text_of(value))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# The first difference.


def first_difference(then: Trace, now: Trace) -> str:
    """Say where two replays of a run's code first ask for something else; "" if nowhere."""
    for one, other in zip(then.asks, now.asks, strict=False):
        if one.name != other.name or one.kind != other.kind:
            return f"{_asks(other)} is asked for instead of {_asks(one)}"
        if one.text != other.text:
            return f"{_asks(other)}: {short(other.text)} instead of {short(one.text)}"
    if len(now.asks) > len(then.asks):
        return f"{_asks(now.asks[len(then.asks)])} is asked for, where nothing was"
    if len(now.asks) < len(then.asks):
        return f"{_asks(then.asks[len(now.asks)])} is no longer asked for"
    return ""


def _asks(heard: Heard) -> str:
    place = place_text(heard.place)
    return f"{what(heard.kind, heard.name)}" + (f" ({place})" if place else "")


Change = Callable[[Story, str], Changed]
