"""Folding from a round's start gives the same state as folding from the journal's beginning.

The one check that uses the engine's code: its ``fold`` is compared with itself, and what it accepts
with what the auditor's own rule accepts. States are compared where they differ most if something
was left out: at the record with which a round ends, and at the end of the journal.
"""

from typing import TypeVar

from stepfold_engine.core import fold as engine
from stepfold_engine.core import timers
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import Run
from stepfold_engine.core.timers import Due
from stepfold_schemas.ids import key_of
from tests.simulation.audit.findings import OWNER, ROUND
from tests.simulation.audit.journal import Journal
from tests.simulation.audit.rounds import finished_rounds
from tests.simulation.audit.world import World

DIFFERENCES_SHOWN = 3


def check(world: World) -> None:
    """Check all partitions in which a round was finished."""
    for journal in world.journals:
        rounds = list(finished_rounds(journal))
        if rounds:
            _check(world, journal, {kept.offset: start for start, kept in rounds})


def _check(world: World, journal: Journal, rounds: dict[int, int]) -> None:
    """Fold a journal once as a whole, and from the start of each round to its end.

    ``rounds`` maps the offset of a round's last record to that of its first.
    """
    whole = Partition(journal.number, world.setup.partitions)
    # The state folded from the last round goes on to the journal's end.
    final = max(rounds)
    part: Partition | None = None
    for index, (offset, decision, counts) in enumerate(journal.records):
        accepted = engine.fold(whole, decision, offset)
        if accepted is not counts:
            text = f"the engine {'accepts' if accepted else 'refuses'} journal/{journal.number}"
            world.findings.add(OWNER, f"{text} offset {offset}")
            return
        if part is not None:
            engine.fold(part, decision, offset)
        if accepted and offset in rounds:
            start = rounds[offset]
            recovered = _folded(world, journal, start, index)
            _compare(world, whole, recovered, start, f"the round's end at offset {offset}")
            if offset == final:
                part = recovered
    if part is not None:
        _compare(world, whole, part, rounds[final], "the journal's end")


def _folded(world: World, journal: Journal, start: int, last: int) -> Partition:
    """Fold from the record at offset ``start`` to the one at index ``last``, as recovery does."""
    first = last
    while journal.records[first][0] > start:
        first -= 1
    state = Partition(journal.number, world.setup.partitions)
    engine.begin(state, journal.records[first][1])
    for offset, decision, _ in journal.records[first : last + 1]:
        engine.fold(state, decision, offset)
    return state


def _compare(world: World, whole: Partition, part: Partition, start: int, where: str) -> None:
    found = differences(whole, part)
    if found:
        text = f"journal/{whole.number} folded from the round at offset {start} to {where} differs"
        more = f" and {len(found) - DIFFERENCES_SHOWN} more" * (len(found) > DIFFERENCES_SHOWN)
        shown = "; ".join(found[:DIFFERENCES_SHOWN])
        world.findings.add(ROUND, f"{text} from what the whole gives: {shown}{more}")


_FIELDS = (
    "epoch",
    "seq",
    "incarnation",
    "positions",
    "ended",
    "signals",
    "crons",
    "debounces",
    "declarations",
    "functions",
    "queued",
    "taken",
    "requests",
    "round",
    "round_open",
)
"""Compared as they are. Left out are hints about places, and who is suspected of killing the
process: that is found out anew, and a death that is not counted costs one more."""

_GUESSED = ("deaths",)
"""The same of a run."""


def differences(whole: Partition, part: Partition) -> list[str]:
    """Return in words where two states differ in what must be the same."""
    found: list[str] = []
    for name in _FIELDS:
        one, other = getattr(whole, name), getattr(part, name)
        if one != other:
            found.append(f"{name} is {other!r} instead of {one!r}")
    one, other = ({d: u for d, u in s.unsent.items() if u} for s in (whole, part))
    if one != other:
        found.append(f"unsent is {other!r} instead of {one!r}")
    runs_one, runs_other = _runs(whole), _runs(part)
    found += _of_runs(runs_one, runs_other)
    found += _of_sets("timers", _live_timers(whole, runs_one), _live_timers(part, runs_other))
    found += _of_sets("waits", _waits(whole), _waits(part))
    return found


_Runs = dict[bytes, Run]
"""The unfinished runs by key. Made once: each parked one must be unpacked."""


def _runs(state: Partition) -> _Runs:
    return {key_of(run.id): run for run in state.runs}


def _of_runs(whole: _Runs, part: _Runs) -> list[str]:
    found: list[str] = []
    for key in sorted({*whole, *part}):
        one, other = whole.get(key), part.get(key)
        if one is None or other is None:
            found.append(f"run {key.hex()} is {'too many' if one is None else 'missing'}")
        elif one != other:
            names = [n for n in Run.__slots__ if n not in _GUESSED]
            unequal = [n for n in names if getattr(one, n) != getattr(other, n)]
            shown = [f"{n} {getattr(other, n)!r} instead of {getattr(one, n)!r}" for n in unequal]
            found += [f"run {key.hex()}: {', '.join(shown)}"] if shown else []
    return found


_T = TypeVar("_T")


def _of_sets(name: str, whole: set[_T], part: set[_T]) -> list[str]:
    if whole == part:
        return []
    missing, added = sorted(map(str, whole - part)), sorted(map(str, part - whole))
    return [f"{name}: {missing} are missing, {added} are too many"]


def _live_timers(state: Partition, runs: _Runs) -> set[tuple[str, Due]]:
    """Return the timers that still mean something; heaps may hold others."""
    free = {("free", due) for due in state.timers.free if _is_live(state, runs, due)}
    return free | {("held", due) for due in state.timers.held if _is_live_held(state, runs, due)}


def _is_live(state: Partition, runs: _Runs, due: Due) -> bool:
    due_ms, key, what = due
    if key == timers.CRON:
        cron = state.crons.get(what.decode())
        return cron is not None and cron.due_ms == due_ms
    run = runs.get(key)
    if run is None:
        return False
    match what:
        case timers.RUN_DUE:
            return run.due_ms == due_ms and not run.begun
        case timers.RUN_RETRY:
            return run.retry_at_ms == due_ms
        case timers.RUN_START_BY:
            return run.start_by_ms == due_ms and not run.begun
        case timers.RUN_FINISH_BY:
            return run.finish_by_ms == due_ms
        case _:
            operation = run.operations.get(what)
            return operation is not None and operation.due_ms == due_ms


def _is_live_held(state: Partition, runs: _Runs, due: Due) -> bool:
    due_ms, key, what = due
    if key == timers.DEBOUNCE:
        held = state.debounces.get(what.decode())
        return held is not None and held.due_ms == due_ms
    if not key:
        holder = state.signals.get(what.decode())
        return holder is not None and holder.due_ms == due_ms
    run = runs.get(key)
    operation = run.operations.get(what) if run is not None else None
    return operation is not None and operation.due_ms == due_ms


def _waits(state: Partition) -> set[tuple[str, str, str, bytes, bytes]]:
    """Return who is filed for which events."""
    found: set[tuple[str, str, str, bytes, bytes]] = set()
    for name, named in state.waits._named.items():
        found |= {(name, "", "", *ref) for ref in named.plain}
        for path, values in named.by_path.items():
            found |= {(name, path, value, *ref) for value, refs in values.items() for ref in refs}
    return found
