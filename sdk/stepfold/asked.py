"""What a run's code asks for, as text that can be compared: between replays, and processes.

What cannot be written down in a way that is the same everywhere (a client, a lambda) is written as
its type alone.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from enum import Enum
from typing import Any

from stepfold import context, serde
from stepfold.steps import Body
from stepfold_schemas.events import Event
from stepfold_schemas.reports import (
    AskInvoke,
    AskSignal,
    AskSleep,
    AskWait,
    ReportItem,
    RunRaised,
    RunReturned,
)

DEPTH_MAX = 50
"""How deep values are looked into."""


def of_report(item: ReportItem) -> tuple[str, str] | None:
    """Return the name and the text of an operation that is asked for; None for anything else."""
    match item:
        case AskSleep(name=name, duration_ms=duration, until_ms=0):
            return name, f"sleep for {duration} ms"
        case AskSleep(name=name, until_ms=until):
            return name, f"sleep until {until} ms after 1970"
        case AskWait(name=name):
            condition = " and ".join(filter(None, (item.match, item.expression)))
            text = f"wait for event {item.event!r}" + (f" with {condition}" if condition else "")
            return name, f"{text} for {item.timeout_ms} ms"
        case AskSignal(name=name):
            return name, f"wait for signal {item.signal!r} for {item.timeout_ms} ms"
        case AskInvoke(name=name):
            data = text_of(json.loads(item.data))
            return name, f"invocation of {item.function} with {data} for {item.timeout_ms} ms"
        case _:
            return None


def of_body(body: Body) -> str:
    """Return the text of a step: what its body is called with."""
    given = [text_of(value) for value in body.args]
    given += [f"{name}={text_of(value)}" for name, value in sorted(body.kwargs.items())]
    return f"step with ({', '.join(given)})"


def of_end(item: RunReturned | RunRaised) -> str:
    """Return how code ended, as text."""
    if isinstance(item, RunReturned):
        return f"returns {text_of(json.loads(item.data))}"
    return f"raises {item.error.name}: {item.error.message}"


def is_own(body: Body) -> bool:
    """Say whether this is the body of ``send_event`` or ``send_signal``, which is ours."""
    return getattr(body.call, "__module__", None) == context.__name__


def of_events(events: Sequence[Event]) -> str:
    """Return the text of a step that sends events."""
    shown = [f"{e.name!r} {text_of(json.loads(e.data))}" for e in events]
    return f"step that sends {', '.join(shown)}"


def of_signal(signal: str, data: bytes) -> str:
    """Return the text of a step that sends a signal."""
    return f"step that sends signal {signal!r} with {text_of(json.loads(data))}"


def text_of(value: Any, depth: int = 0) -> str:
    """Return a value as text: the same for equal values, in every process."""
    if depth > DEPTH_MAX:
        return "…"
    inner = depth + 1
    whole: Any = value
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return repr(value)
        case Enum() | date() | time() | timedelta():
            return repr(value)
        case Mapping():
            items = sorted((text_of(k, inner), text_of(v, inner)) for k, v in whole.items())
            return "{" + ", ".join(f"{k}: {v}" for k, v in items) + "}"
        case AbstractSet():
            return "{" + ", ".join(sorted(_texts(whole, inner))) + "}"
        case list() | tuple():
            return "[" + ", ".join(_texts(whole, inner)) + "]"
        case _:
            return _of_object(value, inner)


def _texts(values: Iterable[Any], depth: int) -> list[str]:
    return [text_of(value, depth) for value in values]


def _of_object(value: Any, depth: int) -> str:
    name = type(value).__name__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return f"{name}{text_of(fields, depth)}"
    if callable(value):
        return f"<{getattr(value, '__qualname__', name)}>"
    try:
        return f"{name} {text_of(json.loads(serde.dumps(value)), depth)}"
    except serde.UnserializableError:
        return f"<{name}>"
