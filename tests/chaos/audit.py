"""The audit: holds what clients were told, what bodies did and what journals say together.

The promises (README, "What you can rely on"), each checked for every event, run and step:

* an acknowledged event is in the log, and started each of its functions exactly once;
* every run ended once, with the result that follows from its number (``expected``);
* every outcome was recorded once, came from a body that ran, and is what the function went on with;
* a body ran twice for one attempt only if a process ended in between, before anything that
  followed from the first was seen; never after its outcome was recorded.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.expected import CHILDREN, STARTS, Fate, Findings, fate
from tests.chaos.journals import Journals, RunSaid
from tests.chaos.load import Sent
from tests.chaos.outside import Deed


@dataclass(frozen=True, slots=True)
class Figures:
    """How much was looked at."""

    events: int = 0
    runs: int = 0
    steps: int = 0
    repeated: int = 0


def audit(
    acked: Mapping[str, Sent], journals: Journals, deeds: Sequence[Deed]
) -> tuple[Findings, Figures]:
    """Check everything that is promised; all runs are to have ended.

    Args:
        acked: the events that were acknowledged, by id.
        journals: what was decided.
        deeds: what bodies did, in the order of lives and, in one life, of the ledger.
    """
    findings = Findings()
    findings.lost += journals.findings.lost
    _check_events(acked, journals, findings)
    of_run: dict[str, list[Deed]] = defaultdict(list)
    for deed in deeds:
        of_run[deed.run].append(deed)
    for name in of_run.keys() - journals.runs.keys():
        findings.lost.append(f"run {name}: bodies ran, and no journal knows it")
    repeated = 0
    for name, run in journals.runs.items():
        if not run.function:
            findings.lost.append(f"run {name}: its beginning is in no journal")
            continue
        _check_run(name, run, findings)
        repeated += _check_deeds(name, run, of_run[name], findings)
    steps = sum(run.outcomes.total() for run in journals.runs.values())
    return findings, Figures(len(acked), len(journals.runs), steps, repeated)


def _check_events(acked: Mapping[str, Sent], journals: Journals, findings: Findings) -> None:
    for event in acked.values():
        if event.id not in journals.events:
            findings.lost.append(f"event {event.id} was acknowledged, and is not in the log")
        for function in STARTS.get(event.name, ()):
            if not journals.starts[function, event.id]:
                findings.lost.append(
                    f"event {event.id} was acknowledged, and started no {function}"
                )
    for (function, event_id), count in journals.starts.items():
        if count > 1:
            findings.doubled.append(f"event {event_id} started {function} {count} times")
    numbers: dict[str, Counter[int]] = defaultdict(Counter)
    for run in journals.runs.values():
        numbers[run.function][run.n] += 1
    for function, counts in numbers.items():
        many = [n for n, count in counts.items() if count > 1]
        findings.doubled += [f"{function} ran {counts[n]} times for number {n}" for n in many]
    for parent, children in CHILDREN.items():
        for child, multiple in children:
            due = {n for n in numbers[parent] if n % multiple == 0}
            if lost := due - numbers[child].keys():
                findings.lost.append(f"{child} did not run for numbers {sorted(lost)[:10]}")
            if more := numbers[child].keys() - due:
                findings.doubled.append(f"{child} ran for numbers {sorted(more)[:10]}")


def _check_run(name: str, run: RunSaid, findings: Findings) -> None:
    who = f"run {name} ({run.function} {run.n})"
    if not run.ends:
        findings.lost.append(f"{who} has not ended")
    if len(run.ends) > 1:
        findings.doubled.append(f"{who} ended {len(run.ends)} times: {run.ends}")
    for step, count in run.outcomes.items():
        if count > 1:
            findings.doubled.append(f"{who}: {count} outcomes of step {step}")
    due = fate(run.function, run.n)
    for end, result in run.ends:
        wanted = due.result
        if due.tokens:
            wanted = {**wanted, "tokens": _tokens(run, due)}
        if (end, result) != (due.end, wanted):
            findings.wrong.append(f"{who}: {end} with {result}, not {due.end} with {wanted}")


def _tokens(run: RunSaid, due: Fate) -> list[object]:
    names = [step for stage in due.stages for step in stage]
    return [run.tokens.get(step, (0, None))[1] for step in names]


def _check_deeds(name: str, run: RunSaid, deeds: Sequence[Deed], findings: Findings) -> int:
    """Check what a run's bodies did; return how many were repeated."""
    who = f"run {name} ({run.function} {run.n})"
    stages = fate(run.function, run.n).stages
    tokens = {(deed.step, deed.attempt, deed.token) for deed in deeds}
    for step, (attempt, token) in run.tokens.items():
        noted = any(step in stage for stage in stages)
        if noted and (step, attempt, token) not in tokens:
            text = f"{who}: step {step} has an outcome that no body of attempt {attempt} gave"
            findings.wrong.append(text)
    furthest = 0
    lives: dict[tuple[str, int], int] = {}
    repeated = 0
    for deed in deeds:
        what = f"{who}: step {deed.step}, attempt {deed.attempt}, life {deed.life}"
        if deed.stage < furthest:
            findings.doubled.append(f"{what}: ran when what follows it had run already")
        furthest = max(furthest, deed.stage)
        before = lives.get((deed.step, deed.attempt))
        if before == deed.life:
            findings.doubled.append(f"{what}: ran twice in one life")
        repeated += before is not None
        lives[deed.step, deed.attempt] = deed.life
        if deed.life > run.recorded_in.get(deed.step, deed.life):
            findings.doubled.append(f"{what}: ran after its outcome was recorded")
        if deed.stage > 1 and set(deed.seen) != _given(run, stages[deed.stage - 2]):
            findings.wrong.append(f"{what}: went on with other outcomes than were recorded")
    return repeated


def _given(run: RunSaid, stage: Iterable[str]) -> set[object]:
    return {run.tokens[step][1] for step in stage if step in run.tokens}
