"""The audit of several processes: what ``tests.chaos.audit`` checks, and who ran a body when.

Lives overlap here, so their numbers say nothing of before and after; the journal does. A process
may run a body only of a partition that it had claimed before the body's outcome was recorded, and
for each of those claims once. (A process that was stopped may wake later and run one that it had
begun: nobody can keep it from that, and what comes of it is void.)
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from stepfold_schemas.ids import home_of, parse_ulid
from tests.chaos.audit import Figures, audit
from tests.chaos.expected import Findings, fate
from tests.chaos.journals import RunSaid
from tests.chaos.load import Sent
from tests.chaos.outside import Deed
from tests.chaos_kafka.topics import Topics


def audit_shared(
    acked: Mapping[str, Sent], topics: Topics, deeds: Sequence[Deed], names: Mapping[int, str]
) -> tuple[Findings, Figures]:
    """Check everything that is promised; all runs are to have ended.

    Args:
        acked: the events that were acknowledged, by id.
        topics: what was decided.
        deeds: what bodies did.
        names: what each life is called in its claims.
    """
    of_run: dict[str, list[Deed]] = defaultdict(list)
    for deed in deeds:
        of_run[deed.run].append(deed)
    for known in topics.runs.values():
        known.recorded_in.clear()  # lives overlap
    counted = [deed for run, of in of_run.items() for deed in _counted(topics.runs.get(run), of)]
    findings, figures = audit(acked, topics, counted)
    findings.wrong += topics.findings.wrong
    repeated = 0
    for name, of in of_run.items():
        if (run := topics.runs.get(name)) is None:
            findings.lost.append(f"run {name}: bodies ran, and no journal knows it")
            continue
        _check_who(name, of, topics, names, findings)
        _check_seen(name, run, of, findings)
        repeated += len(of) - len({(deed.step, deed.attempt) for deed in of})
    return findings, Figures(figures.events, figures.runs, figures.steps, repeated)


def _counted(run: RunSaid | None, deeds: Sequence[Deed]) -> list[Deed]:
    """Return the deeds whose outcomes were recorded, in the order of the run's code."""
    if run is None:
        return []
    counted = [d for d in deeds if run.tokens.get(d.step) == (d.attempt, d.token)]
    return sorted(counted, key=lambda deed: deed.stage)


def _check_who(
    name: str, deeds: Sequence[Deed], topics: Topics, names: Mapping[int, str], findings: Findings
) -> None:
    home = home_of(parse_ulid(name))
    counts = Counter((d.step, d.attempt, d.life) for d in deeds)
    for (step, attempt, life), count in counts.items():
        recorded = topics.recorded.get((name, step))
        claims = [
            place
            for place in topics.claims.get(names[life], ())
            if place.partition == home and (recorded is None or place.offset < recorded.offset)
        ]
        if count > len(claims):
            what = f"run {name}: step {step}, attempt {attempt}: life {life} ran it {count} times"
            owned = f"and had claimed partition {home} {len(claims)} times before its outcome"
            findings.doubled.append(f"{what}, {owned}")


def _check_seen(name: str, run: RunSaid, deeds: Sequence[Deed], findings: Findings) -> None:
    stages = fate(run.function, run.n).stages if run.function else ()
    for deed in deeds:
        if deed.stage < 2 or not stages:
            continue
        given = {run.tokens[step][1] for step in stages[deed.stage - 2] if step in run.tokens}
        if set(deed.seen) != given:
            what = f"run {name}: step {deed.step}, attempt {deed.attempt}, life {deed.life}"
            findings.wrong.append(f"{what}: went on with other outcomes than were recorded")
