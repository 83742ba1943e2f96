"""What happens to random programs from outside: events, signals, cancellations."""

import random
from collections.abc import Sequence

from tests.simulation.statements import FunctionPlan, Stimulus, WaitEvent, WaitSignal, walk

WAITED = ("ev/a", "ev/b", "ev/c")
"""Events that programs wait for."""

SHARED_SIGNAL = "sig/shared"
KEYS = 4
"""How many correlations there are: ``data.k`` is from 0 to 3."""


def stimuli_for(
    chance: random.Random, functions: Sequence[FunctionPlan], size: int, duration_s: float
) -> tuple[Stimulus, ...]:
    found: list[Stimulus] = []
    started = [f for f in functions if f.on]
    bursts = [round(chance.uniform(0, duration_s * 0.6), 3) for _ in range(2)]
    for number in range(size * 3):
        at_s = chance.choice(bursts) if chance.random() < 0.3 else _moment(chance, duration_s * 0.6)
        function = chance.choice(started)
        name = chance.choice([n for n in function.on if not n.endswith("*")])
        found += _event(chance, at_s, name, f"t{number}", duration_s)
    for number, name in enumerate(_heard(functions)):
        for again in range(chance.randint(1, size)):
            at_s = _moment(chance, duration_s)
            found += _event(chance, at_s, name, f"e{number}.{again}", duration_s)
    signals = _signals(functions)
    for number in range(size * 2 if signals else 0):
        data = {"n": number}
        found.append(Stimulus(_moment(chance, duration_s), "signal", chance.choice(signals), data))
    for _ in range(size):
        if chance.random() < 0.2:
            at_s, function = _moment(chance, duration_s), chance.choice(functions)
            data = {"nth": chance.randrange(size * 2)}
            found.append(Stimulus(at_s, "cancel", function.id, data))
    return tuple(sorted(found, key=lambda one: one.at_s))


def _event(
    chance: random.Random, at_s: float, name: str, id_: str, duration_s: float
) -> list[Stimulus]:
    data = {"k": chance.randrange(KEYS), "n": chance.randrange(10)}
    if chance.random() < 0.5:
        return [Stimulus(at_s, "event", name, data)]
    found = [Stimulus(at_s, "event", name, data, id_)]
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
        # Right away, as a client that had no answer does, or much later.
        late_s = chance.choice((0.0, 0.05, _moment(chance, duration_s / 2)))
        found.append(Stimulus(round(at_s + late_s, 3), "event", name, data, id_))
    return found


def _moment(chance: random.Random, duration_s: float) -> float:
    return round(chance.uniform(0, duration_s), 3)


def _heard(functions: Sequence[FunctionPlan]) -> list[str]:
    """Return the events that programs wait for, or are cancelled by, once for each place."""
    waits = [s for f in functions for s in walk(f.body) if isinstance(s, WaitEvent)]
    names = [w.event.replace("ev/*", WAITED[0]) for w in waits if w.event != "ev/never"]
    return [*names, *(f.cancel_on for f in functions if f.cancel_on)]


def _signals(functions: Sequence[FunctionPlan]) -> list[str]:
    kinds = [s.signal for f in functions for s in walk(f.body) if isinstance(s, WaitSignal)]
    shared = [SHARED_SIGNAL] if SHARED_SIGNAL in kinds else []
    return [*shared, *(f"sig/k{k}" for k in range(KEYS) if "k" in kinds)]
