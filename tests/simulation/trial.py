"""One seed: simulate, audit, and, if a promise is broken, shrink it and tell it to a person."""

import logging
import traceback
from collections import Counter
from dataclasses import dataclass, field

from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.ids import ulid_text
from tests.simulation.auditor import Setup, Violation, audit
from tests.simulation.ledger import Fault, Happening, Seen, Told, Trimmed, Written
from tests.simulation.world import Mask, Outcome, World

LINES_MAX = 120
"""How much of what happened a report shows."""

SHRINKS_MAX = 60


@dataclass
class Verdict:
    """What became of a seed."""

    seed: int
    violations: list[Violation]
    faults: Counter[str] = field(default_factory=Counter[str])
    records: int = 0
    virtual_s: float = 0.0
    report: str = ""

    @property
    def promises(self) -> list[str]:
        """The promises that were broken, each once."""
        return list(dict.fromkeys(violation.promise for violation in self.violations))


def simulate(seed: int, mask: Mask | None = None) -> tuple[Verdict, Outcome | None]:
    """Run a seed and judge it. What crashes the simulation itself breaks a promise, too."""
    logging.disable(logging.CRITICAL)
    try:
        outcome = World(seed, mask).run()
    except Exception:
        text = traceback.format_exc(limit=-6)
        return Verdict(seed, [Violation("the engine does not fail", text)]), None
    finally:
        logging.disable(logging.NOTSET)
    setup = Setup(outcome.shape.partitions, outcome.skew_ms, settled=True)
    found = audit(outcome.ledger, setup, outcome.plan)
    if not outcome.settled:
        left = "; ".join(outcome.unsettled[:3])
        found.append(Violation("everything ends once faults stop", left))
    verdict = Verdict(seed, found, outcome.faults, len(outcome.ledger.happenings), outcome.seconds)
    return verdict, outcome


def judge(seed: int, *, shrinking: bool = True) -> Verdict:
    """Run a seed; if a promise is broken, leave out what does not matter and write a report."""
    verdict, outcome = simulate(seed)
    if not verdict.violations:
        return verdict
    mask = _shrunk(seed, verdict, outcome) if shrinking and outcome is not None else Mask()
    small, shown = simulate(seed, mask)
    verdict.report = _report(seed, mask, small, shown)
    return verdict


def _shrunk(seed: int, verdict: Verdict, outcome: Outcome) -> Mask:
    """Leave out faults and stimuli, many at once, as long as the same promise is broken."""
    wanted = verdict.violations[0].promise
    mask = Mask()
    tries = 0
    kinds = (
        ("faults", range(1, outcome.injected + 1)),
        ("stimuli", range(len(outcome.plan.stimuli))),
    )
    for kind, numbers in kinds:
        candidates = list(numbers)
        size = max(1, len(candidates) // 2)
        while size and tries < SHRINKS_MAX:
            at = 0
            while at < len(candidates) and tries < SHRINKS_MAX:
                tries += 1
                some = candidates[at : at + size]
                trial = Mask(
                    mask.faults | set(some) if kind == "faults" else mask.faults,
                    mask.stimuli | set(some) if kind == "stimuli" else mask.stimuli,
                )
                if wanted in simulate(seed, trial)[0].promises:
                    mask = trial
                    del candidates[at : at + size]
                else:
                    at += size
            size //= 2
    return mask


def _report(seed: int, mask: Mask, verdict: Verdict, outcome: Outcome | None) -> str:
    lines = [f"seed {seed} breaks {len(verdict.violations)} promises:"]
    lines += [f"  {v.promise}: {v.text[:600]}" for v in verdict.violations[:6]]
    if outcome is not None:
        lines += ["", str(outcome.shape), "", outcome.plan.text(), "", "what happened:"]
        lines += _around(outcome, verdict.violations[0])
    command = f"python -m tests.simulation {seed}"
    for name, numbers in (("faults", mask.faults), ("stimuli", mask.stimuli)):
        if numbers:
            command += f" --without-{name}={','.join(map(str, sorted(numbers)))}"
    return "\n".join([*lines, "", f"again: {command}"])


def _around(outcome: Outcome, violation: Violation) -> list[str]:
    """Show what concerns the run, or else what happened before the violation."""
    happenings = outcome.ledger.happenings
    lines = [(h, line_of(h)) for h in happenings]
    if violation.run:
        some = [
            line for h, line in lines if violation.run in line or isinstance(h, Fault | Trimmed)
        ]
    else:
        some = [line for h, line in lines if h.order <= (violation.order or len(happenings))]
    return some[-LINES_MAX:]


def line_of(happening: Happening) -> str:
    """Show one thing that happened on one line."""
    place = f"{happening.order:5}"
    if isinstance(happening, Trimmed):
        return (
            f"{place} {'':9} {happening.topic}/{happening.partition} < {happening.before} trimmed"
        )
    place = f"{place} {happening.at_ms % 10**9:9}"
    if isinstance(happening, Written):
        where = f"{happening.topic}/{happening.partition}@{happening.offset}"
        return f"{place} {happening.by:5} writes {where} {_content(happening)}"
    if isinstance(happening, Seen):
        what = f"{happening.run} {happening.what} {happening.step} {happening.attempt or ''}"
        return f"{place} {happening.process:5} {what} {happening.value[:60]}"
    if isinstance(happening, Told):
        return f"{place} told  {happening.what} {happening.name} {happening.value[:60]}"
    return f"{place} {happening.process:5} FAULT {happening.what} {happening.more}"


def _content(written: Written) -> str:
    try:
        if written.topic == "journal":
            d = codec.decode_decision(written.value)
            entries = ", ".join(_entry(entry) for entry in d.entries)
            return f"epoch {d.epoch} seq {d.seq} from {d.fold_from}: {entries}"
        if written.topic == "events":
            event = codec.decode_event(written.value)
            return f"{event.name} {event.id or event.internal} {event.data.decode()[:60]}"
        letter = codec.decode_letter(written.value)
        message = codec.decode_message(letter.message)
        return f"from {letter.source} number {letter.number}: {_entry(message)}"
    except UndecodableError as error:
        return f"not readable: {error}"


def _entry(entry: object) -> str:
    run = getattr(entry, "run", b"")
    name = getattr(entry, "name", "")
    shown = [type(entry).__name__, ulid_text(run) if len(run) == 16 else "", str(name)]
    return " ".join(filter(None, shown))
