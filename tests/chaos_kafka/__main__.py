"""``python -m tests.chaos_kafka [--rounds 20] [--seed N] [--campaign N]``: chaos on a real broker.

Three processes share the partitions of a namespace; they are killed, stopped for longer than their
session and continued, replaced while they are stopped, and their broker is killed and hangs. After
each round everything that is promised is checked. Exit code 1: something was lost, doubled or
wrong, and the folder is kept; 2: there is no broker.
"""

import argparse
import logging
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.__main__ import counted
from tests.chaos.audit import Figures
from tests.chaos_kafka.broker import OwnBroker
from tests.chaos_kafka.campaign import Campaign, Terms, terms
from tests.parts.broker import NoBrokerError

ROUNDS_A_CAMPAIGN = 4
ACTS_MIN, ACTS_MAX = 2, 4
SHOWN_MAX = 20
COUNTED = ("events", "runs", "steps", "repeated")
HEAD = ("round", "acts", *COUNTED, "void", "lost", "doubled", "wrong", "s")


def row(cells: tuple[object, ...]) -> str:
    """Return a line of the table."""
    widths = (6, 48, 7, 7, 8, 9, 6, 5, 8, 6, 6)
    return " ".join(
        str(c).ljust(w) if i == 1 else str(c).rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    )


class Chaos:
    """All rounds of one seed."""

    def __init__(self, seed: int, folder: Path, broker: OwnBroker) -> None:
        self._seed, self._folder, self._broker = seed, folder, broker
        self.rounds = self.lives = 0
        self.acts: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()
        self.void: Counter[str] = Counter()

    def run(self, rounds: int, first: int) -> bool:
        """Run so many rounds, from a campaign on; False as soon as one found something."""
        number = first
        while self.rounds < rounds:
            if not self._campaign(number, min(ROUNDS_A_CAMPAIGN, rounds - self.rounds)):
                return False
            number += 1
        return True

    def _campaign(self, number: int, count: int) -> bool:
        chance = random.Random(f"{self._seed}/{number}")
        given = terms(chance)
        folder = self._folder / f"campaign-{number}"
        campaign = Campaign(folder, given, chance, self._broker)
        before, void = Figures(), 0
        try:
            for _ in range(count):
                begun_s, acts = time.monotonic(), campaign.tally.acts.copy()
                campaign.round(campaign.drawn(chance.randint(ACTS_MIN, ACTS_MAX)))
                acts = campaign.tally.acts - acts
                more = {n: getattr(campaign.figures, n) - getattr(before, n) for n in COUNTED}
                self.figures.update(more)
                self.rounds += 1
                found, total = campaign.findings, campaign.topics.void.total()
                cells = (self.rounds, counted(acts)[:48], *more.values(), total - void)
                ends = (len(found.lost), len(found.doubled), len(found.wrong))
                print(row((*cells, *ends, f"{time.monotonic() - begun_s:.1f}")), flush=True)
                before, void = campaign.figures, total
                if found:
                    self._report(campaign, given)
                    return False
            campaign.end()
        finally:
            campaign.close()
            self.acts += campaign.tally.acts
            self.signals += campaign.tally.signals
            self.void += campaign.topics.void
            self.lives += campaign.tally.lives
        if campaign.findings:
            self._report(campaign, given)
            return False
        shutil.rmtree(folder)
        return True

    def _report(self, campaign: Campaign, given: Terms) -> None:
        print()
        print("\n".join(campaign.findings.lines(SHOWN_MAX)))
        print(f"\nwhat was done, on {given}:")
        print("\n".join(f"  {line}" for line in campaign.story))
        print(f"\nkept: {campaign.folder} (outside/: ledgers and confirmed decisions of each")
        print("life; papers/: what each said), and the broker's data; to look at the topics:")
        print(f"compose/kafka-local --dir {self._broker.where.folder} start")

    def sum_up(self, seconds: float) -> str:
        """Return the last lines of the table."""
        figures = self.figures
        return "\n".join(
            (
                f"{self.rounds} rounds, {self.lives} lives of processes, {seconds:.0f} s",
                f"acts: {counted(self.acts)}",
                f"signals: {counted(self.signals)}",
                f"void: {counted(self.void) or 'nothing'}",
                f"events acknowledged {figures['events']:,}, runs {figures['runs']:,},"
                f" outcomes {figures['steps']:,}, bodies repeated {figures['repeated']:,}",
            )
        )


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Kill, stop, replace: is anything lost?")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, help="draws what is done; a random one if not given")
    parser.add_argument("--campaign", type=int, default=0, help="begin with this one, from 0")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one if not given")
    given = parser.parse_args()
    logging.getLogger("stepfold").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stepfold-chaos-kafka-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        broker = OwnBroker(folder)
    except NoBrokerError as error:
        print(f"no broker: {error}")
        return 2
    print(f"seed {seed}")
    print(row(HEAD), flush=True)
    chaos, begun_s, well = Chaos(seed, folder, broker), time.monotonic(), False
    try:
        well = chaos.run(given.rounds, given.campaign)
    finally:
        broker.close(keep=not well)
    print()
    print(chaos.sum_up(time.monotonic() - begun_s))
    if well:
        shutil.rmtree(folder, ignore_errors=True)
        print("nothing lost, nothing doubled")
        return 0
    number = given.campaign + (chaos.rounds - 1) // ROUNDS_A_CAMPAIGN
    how = f'SEED={seed} ROUNDS={ROUNDS_A_CAMPAIGN} ARGS="--campaign {number}"'
    print(f"VIOLATED: the same acts again: make chaos-kafka {how}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
