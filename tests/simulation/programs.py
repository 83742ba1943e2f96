"""Random programs: a seed becomes an app of durable functions, and what happens to it.

The parts: ``statements`` (what plans are made of), ``generator`` and ``stimuli`` (a seed to a
plan), ``interpreter`` and ``bodies`` (a plan to an app), ``account`` (what programs return),
``outcomes`` (what a journal says of a run), ``oracle`` and ``turns`` (what the program must do
with that).
"""

from tests.simulation.bodies import Deaths, Hooks
from tests.simulation.generator import plan_of
from tests.simulation.interpreter import app_of
from tests.simulation.oracle import Ending, MismatchError, expected, is_simple
from tests.simulation.outcomes import Outcome, RunOutcomes, outcomes_of
from tests.simulation.statements import APP, FunctionPlan, Plan, Stimulus

__all__ = [
    "APP",
    "Deaths",
    "Ending",
    "FunctionPlan",
    "Hooks",
    "MismatchError",
    "Outcome",
    "Plan",
    "RunOutcomes",
    "Stimulus",
    "app_of",
    "expected",
    "is_simple",
    "outcomes_of",
    "plan_of",
]
