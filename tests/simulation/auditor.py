"""The auditor: did a simulation keep every promise of DESIGN.md 5?

It reads a ledger and nothing else: every record that ever became durable, every trim, what programs
did and saw, what callers were told, and which faults there were. It shares no code with the engine
(but for ``audit.folds``, which compares the engine's fold with itself), so that a mistake of the
engine is not made here as well. What it finds is words for a person.

The checks are in ``audit``, a module for each group of promises.
"""

from tests.simulation.audit import (
    answers,
    code,
    crons,
    debounces,
    folds,
    liveness,
    messages,
    owners,
    places,
    relations,
    reruns,
    results,
    rounds,
    signals,
    starts,
    timers,
    waits,
)
from tests.simulation.audit.findings import Findings, Setup, Violation
from tests.simulation.audit.world import World
from tests.simulation.ledger import Ledger
from tests.simulation.programs import Plan

CHECKS = (
    owners.check,
    starts.check,
    crons.check,
    debounces.check,
    code.check,
    waits.check,
    timers.check,
    relations.check,
    reruns.check,
    signals.check,
    answers.check,
    messages.check,
    places.check,
    rounds.check,
    folds.check,
    liveness.check,
)


def audit(ledger: Ledger, setup: Setup, plan: Plan | None = None) -> list[Violation]:
    """Return every promise that a simulation broke, in the order of the ledger.

    Args:
        ledger: of a simulation that has ended.
        setup: what is known of it besides.
        plan: its programs, if the results of its runs are to be worked out again.
    """
    findings = Findings()
    world = World(ledger, setup, findings)
    for check in CHECKS:
        check(world)
    if plan is not None:
        results.check(world, plan)
    return sorted(findings.found, key=lambda violation: violation.order)


__all__ = ["Setup", "Violation", "audit"]
