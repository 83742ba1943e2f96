"""Restating: what is still alive is written into the journal again, piece by piece.

A piece is named when the round begins and stated as it is when its turn comes; one that is gone
by then is passed over, and what was made meanwhile lies behind the round's start anyway.
"""

from collections.abc import Iterator
from dataclasses import replace

from stepfold_engine.core.inputs import HistoryCopied
from stepfold_engine.core.partition import Partition
from stepfold_engine.core.run import head_of
from stepfold_schemas.entries import (
    Counter,
    CronScheduled,
    Entry,
    FunctionsDeclared,
    FunctionsHeld,
    HistoryRestated,
    IdsRemembered,
    MessageQueued,
    PartitionRestated,
    Position,
    RoundFinished,
    RoundPlace,
    SeqPlace,
    SignalHeld,
)

KEYS_A_PIECE_MAX = 10_000

Piece = tuple[str, object]
"""What to restate: its kind, and which one."""


def begin_round(state: Partition, rounds: list[RoundPlace], confirmed: int) -> list[Entry]:
    """Return the entry with which a round begins: the partition's counters.

    ``rounds`` are the finished ones before it; ``confirmed`` is the seq of the last decision whose
    place in the journal is known.
    """
    trials = state.trials
    return [
        PartitionRestated(
            state.round + 1,
            [Position(t, p, o, part) for (t, p), (o, part) in sorted(state.positions.items())],
            [Counter(p, n) for p, n in sorted(state.queued.items())],
            [Counter(p, n) for p, n in sorted(state.taken.items())],
            [SeqPlace(seq, delta) for seq, delta in state.places.restated(confirmed)],
            rounds,
            state.node,
            state.incarnation,
            trials.unclean,
            trials.width,
        )
    ]


def finish_round(state: Partition) -> list[Entry]:
    """Return the entry with which a round ends."""
    return [RoundFinished(state.round)]


def pieces(state: Partition) -> Iterator[Piece]:
    """Name everything that a round must restate. Take the list when the round begins."""
    yield from [("app", app) for app in sorted(state.declarations)]
    yield from [("signal", name) for name in sorted(state.signals)]
    yield from [("cron", name) for name in sorted(state.crons)]
    yield from [("debounce", name) for name in sorted(state.debounces)]
    yield from [("request", request) for request in sorted(state.requests)]
    yield from [("hour", hour) for hour in sorted(state.ended)]
    for destination, unsent in sorted(state.unsent.items()):
        yield from [("message", (destination, number)) for number in sorted(unsent)]
    yield from [("run", key) for key in state.runs.sorted_keys()]


def restate(state: Partition, piece: Piece) -> list[Entry]:
    """Return the entries that state a piece as it is now; none if it is gone."""
    match piece:
        case ("app", str(app)):
            return _app(state, app)
        case ("signal", str(name)):
            waiter = state.signals.get(name)
            return (
                [] if waiter is None else [SignalHeld(name, waiter.run, waiter.step, waiter.due_ms)]
            )
        case ("cron", str(name)):
            cron = state.crons.get(name)
            return [] if cron is None else [CronScheduled(cron.function, cron.cron, cron.due_ms)]
        case ("debounce", str(name)):
            held = state.debounces.get(name)
            return [] if held is None else [replace(held, superseded="")]
        case ("request", bytes(request)):
            answered = state.requests.get(request)
            return [] if answered is None else [answered]
        case ("hour", int(hour)):
            return _ids(state, hour)
        case ("message", (int(destination), int(number))):
            message = state.unsent.get(destination, {}).get(number)
            return [] if message is None else [MessageQueued(destination, number, message)]
        case ("run", bytes(key)):
            run = state.runs.get(key)
            return _id_of_ended(state, key) if run is None else [head_of(run)]
        case _:
            raise AssertionError(f"no such piece: {piece}")


def history_copied(state: Partition, copied: HistoryCopied) -> list[Entry]:
    """Return the copy of a run's first decisions, which trimming will cut."""
    if copied.run[6:] not in state.runs:
        return []
    return [HistoryRestated(copied.run, copied.skips, copied.replaces, list(copied.items))]


def _app(state: Partition, app: str) -> list[Entry]:
    declaration = state.declarations.get(app)
    if declaration is None:
        return []
    d = declaration
    return [
        FunctionsDeclared(app, d.number, d.functions, d.replaced),
        FunctionsHeld(app, d.number, d.request, d.held_by),
    ]


def _id_of_ended(state: Partition, key: bytes) -> list[Entry]:
    """Restate the id of a run that ended since the round began.

    Its end lies behind the round's start; who folds from there does not know the run, nor, by its
    end alone, that its id is to be remembered.
    """
    return [IdsRemembered(hour, key) for hour, keys in sorted(state.ended.items()) if key in keys]


def _ids(state: Partition, hour: int) -> list[Entry]:
    keys = sorted(state.ended.get(hour, ()))
    return [
        IdsRemembered(hour, b"".join(keys[i : i + KEYS_A_PIECE_MAX]))
        for i in range(0, len(keys), KEYS_A_PIECE_MAX)
    ]
