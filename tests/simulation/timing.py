"""Crons and debounce for random plans.

They are drawn from a source of their own, so that the rest of a plan is the same with and without.
"""

import random
from dataclasses import replace

from tests.simulation.statements import DebouncePlan, FunctionPlan, Plan, Stimulus

CRONS = (
    "1-3 8 15 1 *",
    "1,3 8 15 1 *",
    "2 8 15 1 *",
    "TZ=Europe/Berlin 1-4 9 15 1 *",
)
"""A simulation begins at 8:00 UTC, January 15: these are due a few times, then in a year."""


def with_timing(chance: random.Random, plan: Plan) -> Plan:
    """Give some function of a plan a debounce, and events to meet it, and some function a cron."""
    started = [n for n, f in enumerate(plan.functions) if f.on]
    if started and chance.random() < 0.3:
        plan = _debounced(chance, plan, chance.choice(started))
    if chance.random() < 0.25:
        place = chance.randrange(len(plan.functions))
        crons = tuple(chance.sample(CRONS, chance.choice((1, 1, 2))))
        plan = _with(plan, place, replace(plan.functions[place], crons=crons))
    return plan


def _with(plan: Plan, place: int, function: FunctionPlan) -> Plan:
    functions = (*plan.functions[:place], function, *plan.functions[place + 1 :])
    return replace(plan, functions=functions)


def _debounced(chance: random.Random, plan: Plan, place: int) -> Plan:
    debounce = DebouncePlan(
        chance.choice((1.0, 2.0, 5.0)),
        chance.choice(("", "data.k", "event.data.n")),
        chance.choice((0.0, 0.0, 6.0, 12.0)),
    )
    function = plan.functions[place]
    name = next((n for n in function.on if not n.endswith("*")), "go/f0")
    stimuli = list(plan.stimuli)
    at_s = chance.uniform(0, plan.duration_s / 2)
    for number in range(chance.randint(3, 10)):
        at_s += debounce.period_s * chance.choice((0.02, 0.3, 0.9, 1.0, 1.5))
        data = {"k": chance.randrange(2), "n": chance.randrange(3)}
        id_ = f"d{number}" if chance.random() < 0.5 else ""
        stimuli.append(Stimulus(round(at_s, 3), "event", name, data, id_))
        if id_ and chance.random() < 0.4:
            again_s = round(at_s + debounce.period_s * chance.uniform(0, 3), 3)
            stimuli.append(Stimulus(again_s, "event", name, data, id_))
    stimuli.sort(key=lambda one: one.at_s)
    return replace(_with(plan, place, replace(function, debounce=debounce)), stimuli=tuple(stimuli))
