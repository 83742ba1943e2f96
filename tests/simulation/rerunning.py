"""Reruns for random plans: somebody starts runs again, from a step, a failure or the start.

They are drawn from a source of their own, so that the rest of a plan is the same with and without.
"""

import random
from dataclasses import replace

from tests.simulation.statements import Plan, Stimulus

SHARE = 0.3
"""How many of all plans have reruns."""

NTH = 5
"""Which of a function's runs, and of a run's steps, at most."""


def with_reruns(chance: random.Random, plan: Plan) -> Plan:
    """Let some runs of a plan be started again, also some that go on, and some reruns."""
    if chance.random() > SHARE:
        return plan
    added = [_rerun(chance, plan) for _ in range(chance.choice((1, 2, 3, 6)))]
    stimuli = sorted([*plan.stimuli, *added], key=lambda one: one.at_s)
    return replace(plan, stimuli=tuple(stimuli))


def _rerun(chance: random.Random, plan: Plan) -> Stimulus:
    at_s = round(chance.uniform(0.1, 1.1) * plan.duration_s, 3)
    data = {
        "nth": chance.randrange(NTH),
        "where": chance.choice(("start", "step", "step", "failure")),
        "step": chance.randrange(NTH),
    }
    return Stimulus(at_s, "rerun", chance.choice(plan.functions).id, data)
