"""Simulate seeds: ``python -m tests.simulation FROM:TO``, a count, or one seed in full.

Prints how many seeds a second, the faults that were injected by kind, and for each seed that breaks
a promise a shrunk account of it with the command that does the same again.
"""

import argparse
import gc
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.trial import Verdict, judge, line_of, simulate
from tests.simulation.world import Mask

REPORTS_MAX = 5
PROGRESS_EVERY = 5_000


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="FROM:TO, a count as :N, or one seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--without-faults", default="", help="numbers of faults to leave out")
    parser.add_argument("--without-stimuli", default="", help="numbers of stimuli to leave out")
    given = parser.parse_args()
    if ":" not in given.seeds:
        return one(
            int(given.seeds), Mask(_numbers(given.without_faults), _numbers(given.without_stimuli))
        )
    first, _, last = given.seeds.partition(":")
    return many(range(int(first or 0), int(last)), given.jobs)


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(number) for number in text.split(",") if number)


def one(seed: int, mask: Mask) -> int:
    """Show everything that happens in one seed."""
    verdict, outcome = simulate(seed, mask)
    if outcome is not None:
        print(outcome.shape, "", outcome.plan.text(), "", sep="\n")
        for happening in outcome.ledger.happenings:
            print(line_of(happening))
    for violation in verdict.violations:
        print(f"\nBROKEN {violation.promise}: {violation.text}")
    print(f"\nseed {seed}: {len(verdict.violations)} promises broken")
    return 1 if verdict.violations else 0


def _collect_seldom() -> None:
    """Spare the collector what stays for ever, and most of its rounds: a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def many(seeds: range, jobs: int) -> int:
    """Run many seeds; say what was broken."""
    begun_s = time.monotonic()
    faults: Counter[str] = Counter()
    bad: list[Verdict] = []
    records, virtual_s = 0, 0.0
    with ProcessPoolExecutor(jobs, initializer=_collect_seldom) as pool:
        for done, verdict in enumerate(pool.map(judge, seeds, chunksize=8)):
            if done and done % PROGRESS_EVERY == 0:
                print(f"… {done} seeds, {len(bad)} broke a promise", flush=True)
            faults += verdict.faults
            records += verdict.records
            virtual_s += verdict.virtual_s
            if verdict.violations:
                bad.append(verdict)
                print(f"seed {verdict.seed}: {', '.join(verdict.promises)}", flush=True)
                if len(bad) <= REPORTS_MAX:
                    print(verdict.report, flush=True)
    seconds = time.monotonic() - begun_s
    print(f"{len(seeds)} seeds in {seconds:.0f} s, {len(seeds) / seconds:.1f} a second;", end=" ")
    print(f"{virtual_s / 3600:.0f} virtual hours, {records} happenings")
    print(f"{faults.total()} faults:", ", ".join(f"{n} {kind}" for kind, n in faults.most_common()))
    print(
        f"{len(bad)} seeds broke a promise"
        + (": " if bad else "")
        + ", ".join(str(v.seed) for v in bad)
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
