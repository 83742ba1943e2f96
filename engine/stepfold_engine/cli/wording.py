"""What entries of a run's journal mean, in words for people."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from stepfold_schemas.ids import parse_ulid, time_of

Body = Mapping[str, object]
OK, BAD, MILD, PLAIN = "green", "red", "dim", ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log: its text, and a colour for a terminal ("" none)."""

    text: str
    style: str = PLAIN


def described(entry: Body) -> Line | None:
    """Say what an entry means; None for one that is of no interest."""
    word = _WORDS.get(str(entry.get("type")))
    return word(entry) if word is not None else None


def duration(ms: float) -> str:
    """Write a duration as people do.

    >>> [duration(ms) for ms in (0, 12, 999, 1_500, 61_000, 7_200_000, 200_000_000)]
    ['0 ms', '12 ms', '999 ms', '1.5 s', '1 min 1 s', '2 h', '2 d 7 h']
    """
    if ms < 1_000:
        return f"{max(ms, 0):.0f} ms"
    if ms < 60_000:
        return f"{ms / 1_000:.3g} s"
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    left, parts = int(ms // 1_000), list[str]()
    for size, name in units:
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {name}")
        if parts or left >= size:
            left %= size
    return " ".join(parts)


def clock(at_ms: int, *, millis: bool = False) -> str:
    """Write a time of day in local time, with the date if it is not today."""
    then = time.localtime(at_ms / 1_000)
    same = time.strftime("%Y%m%d", then) == time.strftime("%Y%m%d")
    text = time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S", then)
    return f"{text}.{at_ms % 1_000:03d}" if millis else text


def number(entry: Body, field: str) -> int:
    """Return a field that is a number; 0 if it is missing."""
    value = entry.get(field)
    return value if isinstance(value, int) else 0


def text(entry: Body, field: str) -> str:
    """Return a field as text; "" if it is missing."""
    value = entry.get(field)
    return "" if value is None else str(value)


def part(entry: Body, field: str) -> Body:
    """Return a field that is an object; an empty one if it is missing."""
    value = entry.get(field)
    return cast("Body", value) if isinstance(value, dict) else {}


def error_text(error: Body) -> str:
    """Write an error in one line."""
    return f"{text(error, 'name')}: {text(error, 'message')}".strip(": ").split("\n")[0]


def _started(e: Body) -> Line:
    given = e.get("events")
    events = cast("list[Body]", given) if isinstance(given, list) else []
    line = f"started by {text(events[0], 'name')}" if events else "started"
    due_ms = number(e, "due_ms")
    return Line(f"{line}, begins at {clock(due_ms)}" if due_ms else line)


def _attempt(e: Body) -> str:
    attempt = number(e, "attempt")
    return f" (attempt {attempt})" if attempt > 1 else ""


def _step_ok(e: Body) -> Line:
    took = duration(number(e, "at_ms") - number(e, "started_ms"))
    return Line(f"step {text(e, 'name')} ok in {took}{_attempt(e)}", OK)


def _step_again(e: Body) -> Line:
    wait = duration(number(e, "retry_at_ms") - number(e, "at_ms"))
    what = f"step {text(e, 'name')} failed (attempt {number(e, 'attempt')})"
    return Line(f"{what}: {error_text(part(e, 'error'))}; tried again in {wait}", BAD)


def _step_failed(e: Body) -> Line:
    what = f"step {text(e, 'name')} failed for good{_attempt(e)}"
    return Line(f"{what}: {error_text(part(e, 'error'))}", BAD)


def _until(e: Body) -> str:
    due_ms = number(e, "due_ms")
    return f"until {clock(due_ms)} ({duration(due_ms - number(e, 'at_ms'))})"


def _matched(e: Body) -> Line:
    return Line(f"got event {text(part(e, 'event'), 'name')}")


def _run_again(e: Body) -> Line:
    wait = duration(number(e, "retry_at_ms") - number(e, "at_ms"))
    what = f"the function's code failed (attempt {number(e, 'attempt')})"
    return Line(f"{what}: {error_text(part(e, 'error'))}; tried again in {wait}", BAD)


def _stopped(e: Body) -> Line:
    report = part(e, "report")
    why = text(report, "message") or text(report, "reason")
    return Line(f"stopped: {why}; go on with: stepfold resume", BAD)


def _asked(e: Body) -> str:
    by, why = text(e, "asked_by"), text(e, "why")
    return (f" by {by}" if by else "") + (f": {why}" if why else "")


def _rerun(e: Body) -> Line:
    step = text(e, "from_step")
    where = f" from step {step}" if step else ""
    times = e.get("times_ms")
    shared = len(cast("list[object]", times)) if isinstance(times, list) else 0
    what = f", with {shared} of its entries" if shared else ""
    return Line(f"a rerun of {text(e, 'origin')}{where}{what}{_asked(e)}")


def _version(e: Body) -> Line:
    side = "new" if e.get("chosen") else "old"
    return Line(f"keeps to the {side} side of change {text(e, 'name')}", MILD)


def _signal_ended(e: Body) -> Line:
    words = {"timed-out": "no signal came in time", "refused": "another run waits for the signal"}
    return Line(words.get(text(e, "reason"), f"signal wait {text(e, 'reason')}"), BAD)


def _total(e: Body) -> str:
    """Return how long the run took: its id carries its start."""
    return duration(number(e, "at_ms") - time_of(parse_ulid(text(e, "run"))))


_WORDS: dict[str, Callable[[Body], Line]] = {
    "RunStarted": _started,
    "AttemptStarted": lambda e: Line(f"step {text(e, 'name')} is running{_attempt(e)}", MILD),
    "StepCompleted": _step_ok,
    "StepAttemptFailed": _step_again,
    "StepFailed": _step_failed,
    "SleepBegan": lambda e: Line(f"sleeps {_until(e)}", MILD),
    "SleepEnded": lambda _: Line("woke up", MILD),
    "WaitBegan": lambda e: Line(
        f"waits for event {text(part(e, 'condition'), 'event')} {_until(e)}", MILD
    ),
    "EventMatched": _matched,
    "WaitTimedOut": lambda _: Line("no event came in time"),
    "SignalWaitBegan": lambda e: Line(f"waits for signal {text(e, 'signal')} {_until(e)}", MILD),
    "SignalReceived": lambda _: Line("got the signal"),
    "SignalWaitEnded": _signal_ended,
    "InvokeBegan": lambda e: Line(f"invokes {text(e, 'function')}", MILD),
    "InvokeCompleted": lambda _: Line("the invoked function completed", OK),
    "InvokeFailed": lambda e: Line(
        f"the invoked function failed: {error_text(part(e, 'error'))}", BAD
    ),
    "RunAttemptFailed": _run_again,
    "RunCompleted": lambda e: Line(f"completed in {_total(e)}", OK),
    "RunFailed": lambda e: Line(f"failed after {_total(e)}: {error_text(part(e, 'error'))}", BAD),
    "RunCancelled": lambda e: Line(f"cancelled after {_total(e)}: {text(e, 'reason')}", BAD),
    "RunStopped": _stopped,
    "RunResumed": lambda e: Line(f"resumed{_asked(e)}"),
    "RerunStarted": _rerun,
    "VersionChosen": _version,
}
