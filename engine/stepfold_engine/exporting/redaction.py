"""Redaction: values that must not leave are replaced in a recording before it is written.

A path names values in JSON data::

    password                  wherever this key is, in any data of the run
    event.data.card.number    in every event: what started the run, what it waited for
    step.charge.token         in what the step "charge" returned; step.*.token in any step's
    result.token              in what the function returned
    errors                    the texts, data and tracebacks of all errors

``*`` stands for any key, or any place of a list. Conditions of waits hold parts of the event that
started the run, and replaying does not need them: if anything is redacted, they are left empty.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from stepfold_engine.recordings import facts_in
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Condition,
    Entry,
    Error,
    EventMatched,
    InvokeCompleted,
    InvokeFailed,
    RunAttemptFailed,
    RunCompleted,
    RunFailed,
    RunStarted,
    SignalReceived,
    StepAttemptFailed,
    StepCompleted,
    StepFailed,
    WaitBegan,
)
from stepfold_schemas.runfile import ExportedRun

MARKER = "[redacted]"
EVENT, STEP, RESULT, ERRORS = "event", "step", "result", "errors"
_EVENT_PARTS = ("data", "user")


class RedactionError(ValueError):
    """A path cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Path:
    """What one path names.

    Attributes:
        where: "" for anywhere, else ``event``, ``step``, ``result`` or ``errors``.
        step: the step's name, ``*`` for any.
        keys: the way to the value, below an event, an outcome or a result.
    """

    where: str
    step: str
    keys: tuple[str, ...]


def parse_path(text: str) -> Path:
    """Read a path.

    Raises:
        RedactionError: it is not one.
    """
    parts = tuple(text.removeprefix("$.").split("."))
    if not all(parts):
        raise RedactionError(f"--redact {text!r}: a path such as event.data.card or password")
    first, *rest = parts
    if text == ERRORS:
        return Path(ERRORS, "", ())
    if first == EVENT:
        if len(rest) < 2 or rest[0] not in _EVENT_PARTS:
            raise RedactionError(f"--redact {text}: below event comes data or user, and a key")
        return Path(EVENT, "", tuple(rest))
    if first == STEP:
        if len(rest) < 1:
            raise RedactionError(f"--redact {text}: write step.NAME, or step.NAME.KEY")
        return Path(STEP, rest[0], tuple(rest[1:]))
    if first == RESULT:
        return Path(RESULT, "", tuple(rest))
    if rest:
        words = f"{EVENT}, {STEP} or {RESULT}; a single key is redacted anywhere"
        raise RedactionError(f"--redact {text}: a path begins with {words}")
    return Path("", "", (first,))


def redacted(run: ExportedRun, paths: Sequence[str]) -> ExportedRun:
    """Return a recording without the values that paths name; it says which paths.

    Raises:
        RedactionError: a path cannot be used.
    """
    if not paths:
        return run
    redaction = _Redaction([parse_path(path) for path in paths])
    facts = facts_in(run)
    journal = [
        replace(item, entry=codec.encode(redaction.entry(fact.entry)))
        for item, fact in zip(run.journal, facts, strict=True)
    ]
    return replace(run, journal=journal, redacted=sorted({*run.redacted, *paths}))


class _Redaction:
    """Redacts the entries of one run, in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._anywhere = frozenset(path.keys[0] for path in paths if not path.where)
        self._errors = any(path.where == ERRORS for path in paths)
        self._names: dict[bytes, str] = {}

    def entry(self, entry: Entry) -> Entry:
        """Return an entry without what is redacted."""
        name = getattr(entry, "name", "")
        step: bytes = getattr(entry, "step", b"")
        if name and step:
            self._names[step] = name
        match entry:
            case RunStarted():
                events = [self._event(event) for event in entry.events]
                cancellations = [
                    replace(c, condition=_emptied(c.condition)) for c in entry.cancellations
                ]
                return replace(entry, events=events, cancellations=cancellations)
            case WaitBegan():
                return replace(entry, condition=_emptied(entry.condition))
            case EventMatched():
                return replace(entry, event=self._event(entry.event))
            case StepCompleted() | SignalReceived() | InvokeCompleted():
                return replace(entry, data=self._outcome(self._names.get(step, ""), entry.data))
            case RunCompleted():
                return replace(entry, data=self._data(entry.data, lambda p: p.where == RESULT))
            case StepAttemptFailed() | StepFailed() | InvokeFailed():
                return replace(entry, error=self._error(entry.error))
            case RunAttemptFailed() | RunFailed():
                return replace(entry, error=self._error(entry.error))
            case _:
                return entry

    def _event(self, data: bytes) -> bytes:
        event = codec.decode_event(data)
        whole = {"data": json.loads(event.data), "user": json.loads(event.user)}
        cut = cast("dict[str, object]", self._cut(whole, lambda p: p.where == EVENT))
        return codec.encode(replace(event, data=_json(cut["data"]), user=_json(cut["user"])))

    def _outcome(self, name: str, data: bytes) -> bytes:
        # Uses of one id are one step to who writes a path.
        base = name.partition(":")[0]
        return self._data(data, lambda p: p.where == STEP and p.step in ("*", name, base))

    def _error(self, error: Error) -> Error:
        if not self._errors:
            return error
        return Error(error.name, MARKER, MARKER if error.stack else "", _json(None))

    def _data(self, data: bytes, applies: Callable[[Path], bool]) -> bytes:
        return _json(self._cut(json.loads(data), applies))

    def _cut(self, value: object, applies: Callable[[Path], bool]) -> object:
        for path in self._paths:
            if applies(path):
                value = _replaced(value, path.keys)
        return _without(value, self._anywhere) if self._anywhere else value


def _emptied(condition: Condition) -> Condition:
    return replace(condition, bindings=b"{}", terms=[])


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _replaced(value: object, keys: Sequence[str]) -> object:
    """Return a value with what lies at the end of a way replaced, if the way is there."""
    if not keys:
        return MARKER
    key, rest = keys[0], keys[1:]
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {k: _replaced(v, rest) if key in ("*", k) else v for k, v in fields.items()}
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [
            _replaced(item, rest) if key in ("*", str(i)) else item for i, item in enumerate(items)
        ]
    return value


def _without(value: object, keys: frozenset[str]) -> object:
    """Return a value with what lies under these keys replaced, at any depth."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {k: MARKER if k in keys else _without(v, keys) for k, v in fields.items()}
    if isinstance(value, list):
        return [_without(item, keys) for item in cast("list[object]", value)]
    return value
