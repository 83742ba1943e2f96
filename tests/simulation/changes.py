"""Questions about versions for random plans.

They are drawn from a source of their own, so that the rest of a plan is the same with and without.
"""

import random
from dataclasses import replace

from tests.simulation.statements import Body, FunctionPlan, Parallel, Plan, Race, Version

CHANGES = ("new-tax", "new-tax", "other")


def with_versions(chance: random.Random, plan: Plan) -> Plan:
    """Let some functions of a plan ask which side of a change they are on."""
    return replace(plan, functions=tuple(_asking(chance, f) for f in plan.functions))


def _asking(chance: random.Random, function: FunctionPlan) -> FunctionPlan:
    if chance.random() > 0.25:
        return function
    body = function.body
    for _ in range(chance.choice((1, 2, 2, 3))):
        body = _with(chance, body)
    return replace(function, body=body)


def _with(chance: random.Random, body: Body) -> Body:
    """Put a question somewhere into a body, perhaps into a branch of it."""
    places = [n for n, s in enumerate(body) if isinstance(s, Parallel | Race)]
    if places and chance.random() < 0.4:
        place = chance.choice(places)
        outer = body[place]
        assert isinstance(outer, Parallel | Race), "chosen as one"
        inner = chance.randrange(len(outer.branches))
        branches = list(outer.branches)
        branches[inner] = _with(chance, branches[inner])
        return (*body[:place], replace(outer, branches=tuple(branches)), *body[place + 1 :])
    place = chance.randint(0, len(body))
    return (*body[:place], Version(chance.choice(CHANGES)), *body[place:])
