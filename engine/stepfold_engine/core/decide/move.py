"""Moving: what is alive in one log's partitions, as the beginning of another log's journals.

A run keeps its partition, for its id names it; so the other log has as many partitions, or more.
What is found by a name or a key moves to where its home is there. Where that cannot be told, since
only a digest is left (ids of runs that may not start again, requests that were answered), every
partition gets it.

The same states give the same decisions, so that a move that was cut off can go on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stepfold_engine.core.partition import HOUR_MS, Declaration, Partition
from stepfold_engine.core.run import Run, head_of
from stepfold_schemas.entries import (
    CronScheduled,
    Entry,
    FunctionsDeclared,
    FunctionsHeld,
    HistoryItem,
    HistoryRestated,
    IdsRemembered,
    PartitionReleased,
    PartitionRestated,
    Position,
    RoundFinished,
    SignalHeld,
)
from stepfold_schemas.ids import key_at, key_of, partition_of

KEYS_A_DECISION_MAX = 10_000
ENTRIES_A_DECISION_MAX = 200
HISTORY_BYTES = 256 * 1024
LIVE_HOURS = 366 * 24
"""How long the id of a run that lives in another partition is remembered: the longest sleep."""


def begin(positions: Sequence[Position], node: str, move: str) -> list[Entry]:
    """Return the decision that begins a partition: it is not to be owned until it is finished."""
    return [PartitionRestated(1, list(positions), [], [], [], [], node, move, 0, 1)]


def finish() -> list[Entry]:
    """Return the decision with which a partition may be owned."""
    return [RoundFinished(1), PartitionReleased()]


def things(
    states: Sequence[Partition], number: int, count: int, now_ms: int
) -> Iterator[list[Entry]]:
    """Yield the decisions that state all that partition ``number`` of ``count`` is to know.

    The runs, which are far larger, are not among them: see ``run_moved``.
    """
    entries: list[Entry] = []
    for entry in _things(states, number, count, now_ms):
        entries.append(entry)
        if len(entries) == ENTRIES_A_DECISION_MAX or isinstance(entry, IdsRemembered):
            yield entries
            entries = []
    if entries:
        yield entries


def _things(states: Sequence[Partition], number: int, count: int, now_ms: int) -> Iterator[Entry]:
    for app, held in sorted(_newest(states).items()):
        yield FunctionsDeclared(app, held.number, held.functions, held.replaced)
        yield FunctionsHeld(app, held.number, b"", list(range(count)))
    for state in states:
        for name, waiter in sorted(state.signals.items()):
            if partition_of(name, count) == number:
                yield SignalHeld(name, waiter.run, waiter.step, waiter.due_ms)
        yield from _clocks(state, number, count)
        if count != len(states) or state.number == number:
            for _, answered in sorted(state.requests.items()):
                yield answered
    yield from _ids(states, number, count, now_ms)


def _clocks(state: Partition, number: int, count: int) -> Iterator[Entry]:
    """Yield the crons and the debounced events of a partition whose home is another's now."""
    for name, cron in sorted(state.crons.items()):
        if partition_of(name, count) == number:
            yield CronScheduled(cron.function, cron.cron, cron.due_ms)
    for name, held in sorted(state.debounces.items()):
        if partition_of(name, count) == number:
            # Its run will be known by the group's key, and live there.
            yield replace(held, group=key_at(number, held.group), superseded="")


def _newest(states: Sequence[Partition]) -> dict[str, Declaration]:
    newest: dict[str, Declaration] = {}
    for state in states:
        for app, declaration in state.declarations.items():
            if app not in newest or newest[app].number < declaration.number:
                newest[app] = declaration
    return newest


def _ids(
    states: Sequence[Partition], number: int, count: int, now_ms: int
) -> Iterator[IdsRemembered]:
    same = count == len(states)
    hours: dict[int, set[bytes]] = {}
    for state in states:
        if same and state.number != number:
            continue
        for hour, keys in state.ended.items():
            hours.setdefault(hour, set()).update(key_at(number, key) for key in keys)
        if state.number != number:
            # What started it may be sent again, and its home is another one now.
            living = {key_at(number, key_of(run.id)) for run in state.runs if run.remembered}
            if living:
                hours.setdefault(now_ms // HOUR_MS + LIVE_HOURS, set()).update(living)
    for hour, known in sorted(hours.items()):
        ordered = sorted(known)
        for i in range(0, len(ordered), KEYS_A_DECISION_MAX):
            yield IdsRemembered(hour, b"".join(ordered[i : i + KEYS_A_DECISION_MAX]))


def run_moved(run: Run, history: Sequence[HistoryItem]) -> Iterator[list[Entry]]:
    """Yield the decisions that state a run: where it stands, and its whole history."""
    head = head_of(run)
    head.seqs.clear()
    entries: list[Entry] = [head]
    items: list[HistoryItem] = []
    size = pieces = 0
    for index, item in enumerate(history):
        items.append(item)
        size += len(item.entry)
        if size >= HISTORY_BYTES or index == len(history) - 1:
            yield [*entries, HistoryRestated(run.id, pieces, 0, items)]
            entries, items, size, pieces = [], [], 0, pieces + 1


def undecided(state: Partition) -> str:
    """Say what of a partition is still on its way, "" if nothing is."""
    unsent = sum(len(messages) for messages in state.unsent.values())
    if unsent:
        return f"{unsent} messages are not delivered"
    held = sum(operation.held for run in state.runs for operation in run.operations.values())
    return f"{held} waits look back" if held else ""
