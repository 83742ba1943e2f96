"""``python -m tests.chaos [--rounds 20] [--seed N] [--campaign N] [--mode M]``: chaos, for real.

Processes on the embedded log are killed with SIGKILL and stopped with SIGSTOP at random under load,
one after the other, while they start and while another is stopped on the same folder; disks run
full, tails are torn, power is lost, syncs fail. After each round everything that is promised is
checked (``audit``). Exit code 1: something was lost, doubled or wrong; the folder is kept.
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
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import disk
from tests.chaos.audit import Figures
from tests.chaos.campaign import PLAIN, RECORDED, SMALL, Campaign, Tally, terms
from tests.chaos.disk import UnavailableError
from tests.chaos.rooms import SmallRoom

ROUNDS_A_CAMPAIGN = 4
ACTS_MIN, ACTS_MAX = 2, 5
MODES = {PLAIN: 4, RECORDED: 4, SMALL: 2}
SHOWN_MAX = 20
HEAD = ("round", "disk", "acts", "events", "runs", "steps", "repeated", "lost", "doubled", "s")


@dataclass(slots=True)
class Total:
    """Everything that was done and looked at."""

    rounds: int = 0
    acts: Counter[str] = field(default_factory=Counter[str])
    kills: Counter[str] = field(default_factory=Counter[str])
    tails: Counter[str] = field(default_factory=Counter[str])
    loss: disk.Loss = field(default_factory=disk.Loss)
    lives: int = 0
    figures: Counter[str] = field(default_factory=Counter[str])

    def add(self, tally: Tally) -> None:
        """Add what a campaign did."""
        self.acts += tally.acts
        self.kills += tally.kills
        self.tails += tally.tails
        self.loss.unsynced += tally.loss.unsynced
        self.loss.dropped += tally.loss.dropped
        self.loss.torn += tally.loss.torn
        self.lives += tally.lives


def possible_modes() -> tuple[dict[str, int], list[str]]:
    """Return the kinds of disks of this machine, and what must be left out for want of them."""
    modes = dict(MODES)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="stepfold-chaos-") as name:
        try:
            SmallRoom(Path(name)).close()
        except UnavailableError as error:
            del modes[SMALL]
            left_out.append(f"real full disks ({error}); full disks are simulated, if anything")
    try:
        disk.prepare()
    except UnavailableError as error:
        del modes[RECORDED]
        left_out.append(f"loss of power, failing syncs ({error})")
    return modes, left_out


def row(cells: tuple[object, ...]) -> str:
    """Return a line of the table."""
    widths = (6, 9, 44, 7, 7, 8, 9, 5, 8, 6)
    return " ".join(
        str(c).ljust(w) if 0 < i < 3 else str(c).rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    )


def counted(counts: Counter[str]) -> str:
    """Say how often what happened.

    >>> counted(Counter({"kill": 2, "end": 1}))
    'kill 2, end 1'
    """
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


class Chaos:
    """All rounds of one seed."""

    def __init__(self, seed: int, modes: dict[str, int], folder: Path) -> None:
        self._seed, self._modes, self._folder = seed, modes, folder
        self.total = Total()

    def run(self, rounds: int, first: int = 0) -> bool:
        """Run so many rounds, from a campaign on; False as soon as one found something."""
        done = first * ROUNDS_A_CAMPAIGN
        rounds += done
        while done < rounds:
            count = min(ROUNDS_A_CAMPAIGN, rounds - done)
            if not self._campaign(done, count):
                return False
            done += count
        return True

    def _campaign(self, done: int, count: int) -> bool:
        # Each campaign has a seed of its own: what it draws does not hang on those before it.
        chance = random.Random(f"{self._seed}/{done // ROUNDS_A_CAMPAIGN}")
        (mode,) = chance.choices(list(self._modes), list(self._modes.values()))
        given = terms(mode, chance)
        folder = self._folder / f"campaign-{done // ROUNDS_A_CAMPAIGN}"
        campaign = Campaign(folder, given, chance)
        before = Figures()
        try:
            for number in range(done, done + count):
                begun_s = time.monotonic()
                acts = campaign.tally.acts.copy()
                campaign.round(campaign.drawn(chance.randint(ACTS_MIN, ACTS_MAX)))
                acts = campaign.tally.acts - acts
                seconds = time.monotonic() - begun_s
                before = self._show(number, mode, acts, campaign, before, seconds)
                if campaign.findings:
                    self._report(campaign, given)
                    return False
        finally:
            campaign.close()
            self.total.add(campaign.tally)
        shutil.rmtree(folder)
        return True

    def _show(
        self,
        number: int,
        mode: str,
        acts: Counter[str],
        campaign: Campaign,
        before: Figures,
        seconds: float,
    ) -> Figures:
        now, findings = campaign.figures, campaign.findings
        names = ("events", "runs", "steps", "repeated")
        more = {name: getattr(now, name) - getattr(before, name) for name in names}
        self.total.rounds += 1
        self.total.figures.update(more)
        cells = (number + 1, mode, counted(acts)[:44], *more.values())
        ends = (len(findings.lost), len(findings.doubled), f"{seconds:.1f}")
        print(row((*cells, *ends)), flush=True)
        return now

    def _report(self, campaign: Campaign, given: object) -> None:
        print()
        print("\n".join(campaign.findings.lines(SHOWN_MAX)))
        print(f"\nwhat was done, on {given}:")
        print("\n".join(f"  {line}" for line in campaign.story))
        print(f"\nkept: {campaign.folder} (outside/: ledgers and confirmed decisions of each")
        print("life; papers/: what each said; log/: the log)")

    def sum_up(self, seconds: float) -> str:
        """Return the last lines of the table."""
        total, figures = self.total, self.total.figures
        return "\n".join(
            (
                f"{total.rounds} rounds, {total.lives} lives of processes, {seconds:.0f} s",
                f"acts: {counted(total.acts)}",
                f"ends of processes: {counted(total.kills)}",
                f"writes when power was lost: {total.loss}",
                f"torn tails: {counted(total.tails) or 'none'}",
                f"events acknowledged {figures['events']:,}, runs {figures['runs']:,},"
                f" outcomes {figures['steps']:,}, bodies repeated {figures['repeated']:,}",
            )
        )


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description="Kill, stop, fill, tear: is anything lost?")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, help="draws what is done; a random one if not given")
    parser.add_argument("--campaign", type=int, default=0, help="begin with this one, from 0")
    parser.add_argument("--mode", choices=sorted(MODES), help="only this kind of disk")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one if not given")
    given = parser.parse_args()
    # The audit opens copies of torn logs in this process: no news.
    logging.getLogger("stepfold").setLevel(logging.CRITICAL)
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    modes, left_out = possible_modes()
    for what in left_out:
        print(f"LEFT OUT on this machine: {what}")
    if given.mode is not None:
        modes = {name: weight for name, weight in modes.items() if name == given.mode}
    if not modes:
        print(f"no disk of kind {given.mode} on this machine")
        return 2
    print(f"seed {seed}; disks: {', '.join(modes)}")
    print(row(HEAD))
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stepfold-chaos-"))
    chaos = Chaos(seed, modes, folder)
    begun_s = time.monotonic()
    well = chaos.run(given.rounds, given.campaign)
    print()
    print(chaos.sum_up(time.monotonic() - begun_s))
    if well:
        shutil.rmtree(folder, ignore_errors=True)
        print("nothing lost, nothing doubled")
        return 0
    number = given.campaign + (chaos.total.rounds - 1) // ROUNDS_A_CAMPAIGN
    mode = f" --mode {given.mode}" if given.mode else ""
    how = f'make chaos SEED={seed} ROUNDS={ROUNDS_A_CAMPAIGN} ARGS="--campaign {number}{mode}"'
    print(f"VIOLATED: the same acts again: {how}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
