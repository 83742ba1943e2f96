"""Determinism: code outside steps must do the same whenever it is run again.

A story is played once and recorded. Then the code of every run is replayed against its journal, up
to every point of it and under conditions that differ: as it is, at another time, with other
environment variables, in other processes with other hash seeds. What the code asks for, with what
arguments, and how it ends must be the same.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stepfold.app import App
from stepfold.function import Function
from stepfold.testing.elsewhere import (
    NotImportableError,
    check_importable,
    muted,
    replay_elsewhere,
)
from stepfold.testing.environment import Environment
from stepfold.testing.errors import NotDeterministicError, NotTriedWarning
from stepfold.testing.outcomes import Story, play
from stepfold.testing.perturbing import ENVIRONMENT, TIME, Perturbation
from stepfold.testing.replaying import Recording, Seen, recording_of, replays
from stepfold.testing.runs import describe_divergence

HASH_SEED = "hash-seed"
KINDS = frozenset((TIME, ENVIRONMENT, HASH_SEED))
"""What may be left out by ``without``."""

HASH_SEEDS = 4
"""In how many other processes runs are replayed, unless told otherwise. A set of two strings has
the same order in all of them and in this one once in sixteen times, one of three hardly ever."""

_HERE: dict[str, frozenset[str]] = {
    "when it is replayed": frozenset(),
    "when it is replayed at another time": frozenset((TIME,)),
    "when it is replayed with other environment variables": frozenset((ENVIRONMENT,)),
}

ADVICE = """\
Code outside steps is run again whenever a run is woken. Use ctx.now(), ctx.random() and ctx.uuid(),
sort sets before going through them, and put whatever may answer otherwise next time (the time, a
setting, a request, a variable that other runs change) into ctx.step.run(…)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between a run and its replays.

    Attributes:
        function: the function's full id.
        text: what differs.
        conditions: under which conditions it was seen.
    """

    function: str
    text: str
    conditions: Sequence[str]

    def __str__(self) -> str:
        return f"{self.function}, {self.conditions[0]}: {self.text}"


def assert_deterministic(
    target: App | Function[Any],
    story: Story,
    *,
    fresh: Callable[[], object] | None = None,
    start: datetime | str | None = None,
    without: Collection[str] = (),
    hash_seeds: int = HASH_SEEDS,
) -> None:
    """Play a story, replay the code of its runs under other conditions, and compare.

    Bodies of steps run once, while the story is played; replays get their recorded outcomes.

    Args:
        target: the app, or one of its functions, which stands for it.
        story: an event, or a function of an environment; see ``crash_everywhere``.
        fresh: puts the world back to how it was; called before the story.
        start: the virtual time at the start; see ``Environment``.
        without: what is not to differ: ``"time"``, ``"environment"``, ``"hash-seed"``.
        hash_seeds: in how many other processes runs are replayed.

    Raises:
        NotDeterministicError: code outside steps does something else when it is run again; its
            ``findings`` say what and, where that can be known, at which line.
        AssertionError: the story's own.

    Warns:
        NotTriedWarning: a function cannot be imported in another process, since it is defined in
            a test; so other hash seeds were not tried for it.
    """
    if unknown := set(without) - KINDS:
        raise ValueError(f"without: there is no {sorted(unknown)}, only {sorted(KINDS)}")
    if fresh is not None:
        fresh()
    with Environment(target, start=start) as env:
        record = _record(env, story)
    functions = dict(env.app.functions)
    judge = _Judge(record.asks)
    for function, text in record.stopped:
        judge.add(function, "as it is played", "journal", text)
    used: dict[str, None] = {}
    with muted(functions.values()):
        for condition, kinds in _HERE.items():
            if not kinds & set(without):
                used |= _replay_here(record, functions, kinds, condition, judge)
    if HASH_SEED not in without and hash_seeds and not judge.findings():
        _replay_elsewhere(record, functions, hash_seeds, judge)
    if findings := judge.findings():
        raise NotDeterministicError(_shown(findings, list(used)), findings)


@dataclass(slots=True)
class _Record:
    """What was recorded of a story.

    Attributes:
        runs: the runs.
        asks: what each run's code asked for, by run and name.
        stopped: runs whose code diverged even so: function, and how.
    """

    runs: list[Recording] = field(default_factory=list[Recording])
    asks: Mapping[bytes, Mapping[str, str]] = field(default_factory=dict[bytes, Mapping[str, str]])
    stopped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def _record(env: Environment, story: Story) -> _Record:
    notes = env.stage.bodies.keep_notes()
    play(story, env)
    record = _Record(asks=notes.asks)
    for run in env.runs:
        if run.divergence is not None:
            record.stopped.append((run.function, describe_divergence(run.divergence)))
    for story_ in env.stage.witness.stories.values():
        if story_.function in env.app.functions:
            end = notes.ends.get(story_.id, "")
            record.runs.append(recording_of(story_, end))
    return record


def _replay_here(
    record: _Record,
    functions: Mapping[str, Function[Any]],
    kinds: frozenset[str],
    condition: str,
    judge: "_Judge",
) -> dict[str, None]:
    used: dict[str, None] = {}
    for recording in judge.unblamed(record.runs):
        perturbation = Perturbation(kinds, functions[recording.function].origins)
        with perturbation.in_force():
            found = replays(functions, recording)
        used |= perturbation.used
        for seen in found:
            judge.compare(recording, seen, condition)
    return used


def _replay_elsewhere(
    record: _Record, functions: Mapping[str, Function[Any]], seeds: int, judge: "_Judge"
) -> None:
    importable: list[Recording] = []
    for recording in judge.unblamed(record.runs):
        try:
            check_importable(functions[recording.function])
        except NotImportableError as error:
            _warn(error)
        else:
            importable.append(recording)
    if not importable:
        return
    try:
        for condition, of_runs in replay_elsewhere(functions, importable, seeds):
            for recording, seen in zip(importable, of_runs, strict=True):
                for one in seen:
                    text = f"when it is replayed with another hash seed ({condition})"
                    judge.compare(recording, one, text)
    except NotImportableError as error:
        _warn(error)


def _warn(error: NotImportableError) -> None:
    text = (
        f"assert_deterministic did not try other hash seeds (the order of sets): {error}, so that"
        " no other process can import it. Move it to the top of a module, or pass"
        " without=['hash-seed']. It was replayed in this process"
    )
    warnings.warn(text, NotTriedWarning, stacklevel=4)


class _Judge:
    """Compares replays with recordings."""

    def __init__(self, asks: Mapping[bytes, Mapping[str, str]]) -> None:
        self._asks = asks
        self._found: dict[tuple[str, str], tuple[str, dict[str, None]]] = {}
        self._blamed: set[bytes] = set()

    def unblamed(self, recordings: Sequence[Recording]) -> list[Recording]:
        """Return the runs in which nothing was found yet: more would only say the same again."""
        return [recording for recording in recordings if recording.run not in self._blamed]

    def add(self, function: str, condition: str, subject: str, text: str) -> None:
        """Take a finding. Of those on one subject the first is shown."""
        _, conditions = self._found.setdefault((function, subject), (text, {}))
        conditions[condition] = None

    def compare(self, recording: Recording, seen: Seen, condition: str) -> None:
        """Compare what a replay showed with the recording."""
        for subject, text in self._differences(recording, seen):
            self._blamed.add(recording.run)
            self.add(recording.function, condition, subject, text)

    def _differences(self, recording: Recording, seen: Seen) -> Iterator[tuple[str, str]]:
        if seen.divergence is not None:
            yield "journal", describe_divergence(seen.divergence)
            return
        asked = self._asks.get(recording.run, {})
        for name, text in seen.asks.items():
            if name not in asked:
                yield "asks", f"it asks for {name!r} ({text}), which it did not ask for before"
            elif text != asked[name]:
                yield f"ask {name}", f"{name!r} is not what it was:\n  - {asked[name]}\n  + {text}"
        if recording.end and seen.end != recording.end and (seen.whole or seen.end):
            now = seen.end or "does not end"
            yield "end", f"it ends otherwise:\n  - {recording.end}\n  + {now}"

    def findings(self) -> list[Finding]:
        """Return what was found, divergences first: they name lines."""
        found = [
            Finding(function, text, list(conditions))
            for (function, _), (text, conditions) in self._found.items()
        ]
        return sorted(found, key=lambda one: "met:" not in one.text)


FINDINGS_MAX = 10
"""How many findings are shown."""


def _shown(findings: Sequence[Finding], used: Sequence[str]) -> str:
    lines = ["code outside steps does something else when it is run again", ""]
    lines += [f"{number}. {one}" for number, one in enumerate(findings[:FINDINGS_MAX], 1)]
    if len(findings) > FINDINGS_MAX:
        lines.append(f"… and {len(findings) - FINDINGS_MAX} findings more")
    if used:
        lines += ["", "Outside steps it uses:", *(f"  {what}" for what in used)]
    return "\n".join([*lines, "", ADVICE])
