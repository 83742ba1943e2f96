"""A campaign: a few rounds on one log, and what is done to its processes.

A round is load, a few acts against the processes under it, and then quiet until nothing is left to
do; then the audit. What the acts are is drawn from the seed. The state of the log is carried from
round to round of a campaign.
"""

import contextlib
import hashlib
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepfold_engine.errors import LogError
from tests.chaos import disk, tails
from tests.chaos.audit import Figures, audit
from tests.chaos.expected import Findings
from tests.chaos.journals import Journals
from tests.chaos.load import Load, ask
from tests.chaos.outside import Deed, deeds_of
from tests.chaos.processes import Process
from tests.chaos.program import Orders
from tests.chaos.rooms import Room, SmallRoom

PLAIN, RECORDED, SMALL = "plain", "recorded", "small"
RATE = 70.0
DRAIN_S_MAX = 90.0
POLL_S = 0.05
SECOND_S_MAX = 30.0
DEATHS_MAX = 1_000_000
"""Random kills are no fault of the runs that were under way: none of them is to be condemned."""

ACTS = {
    PLAIN: {
        "kill": 5, "burst": 3, "pause": 2, "kill stopped": 2, "second": 2, "race": 1, "torn": 3,
        "end": 1,
    },
    RECORDED: {
        "power": 6, "kill": 1, "burst": 3, "pause": 1, "second": 1, "torn": 2, "failing syncs": 2,
        "full": 1,
    },
    SMALL: {"full": 6, "kill": 2, "burst": 2, "torn": 1, "kill stopped": 1, "end": 1},
}  # fmt: skip
"""What may be done to a log on each kind of disk, and how often."""


@dataclass(slots=True)
class Tally:
    """What was done."""

    acts: Counter[str] = field(default_factory=Counter[str])
    kills: Counter[str] = field(default_factory=Counter[str])
    loss: disk.Loss = field(default_factory=disk.Loss)
    tails: Counter[str] = field(default_factory=Counter[str])
    lives: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a campaign is fought on.

    Attributes:
        mode: the kind of disk.
        partitions: of the log.
        settings: of the engine.
        trimmed: journals are trimmed as soon as they may be.
        sync_us_max: how long syncs take at most, on a recorded disk.
        careless: the log does not sync: losses are to be found.
        rate: how many events are sent a second.
    """

    mode: str
    partitions: int
    settings: dict[str, Any]
    trimmed: bool
    sync_us_max: int
    careless: bool = False
    rate: float = RATE


def terms(mode: str, chance: random.Random, *, careless: bool = False) -> Terms:
    """Draw the terms of a campaign."""
    trimmed = chance.random() < 0.4
    settings: dict[str, Any] = {
        "round_records_min": chance.choice([300, 1_500]),
        "trial_survive_ms": 200,
        "deaths_max": DEATHS_MAX,
        "always_replay": chance.random() < 0.2,
    }
    if trimmed:
        settings["journal_keep_ms"] = 0
    sync_us_max = chance.choice([0, 500, 3_000, 15_000])
    return Terms(mode, chance.choice([1, 2, 3]), settings, trimmed, sync_us_max, careless)


class Campaign:
    """Rounds on one log.

    Attributes:
        findings: what the last audit found.
        figures: how much it looked at.
        tally: what was done so far.
        story: what was done, in words, for the report.
    """

    def __init__(self, folder: Path, given: Terms, chance: random.Random) -> None:
        """Make the log's place.

        Raises:
            UnavailableError: this machine has no such disk.
        """
        self.folder, self._terms, self._chance = folder, given, chance
        self._outside, self._papers = folder / "outside", folder / "papers"
        for needed in (self._outside, self._papers):
            needed.mkdir(parents=True)
        self._room: Room
        self._library: Path | None = None
        if given.mode == SMALL:
            self._room = SmallRoom(folder / "small")
        else:
            self._room = Room(folder / "log")
            self._library = disk.prepare() if given.mode == RECORDED else None
        self._load = Load(str(chance.random()), self._outside, given.rate)
        self._journals = Journals()
        self._deeds: list[Deed] = []
        self._process: Process | None = None
        self._losing = False
        self.findings, self.figures = Findings(), Figures()
        self.tally = Tally()
        self.story: list[str] = []
        self._acts: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "burst": self._burst,
            "pause": self._pause,
            "kill stopped": self._kill_stopped,
            "second": self._second,
            "race": self._race,
            "torn": self._torn,
            "power": self._power,
            "failing syncs": self._failing_syncs,
            "full": self._full,
            "end": self._end,
        }

    def close(self) -> None:
        """Let everything go; the files stay."""
        self._load.close()
        if self._process is not None:
            self._process.kill()
        self._room.close()

    def drawn(self, count: int) -> list[str]:
        """Draw so many acts."""
        names, weights = zip(*ACTS[self._terms.mode].items(), strict=True)
        return self._chance.choices(names, weights, k=count)

    def round(self, acts: Sequence[str]) -> None:
        """Do these acts under load, wait until nothing is left to do, and audit.

        What keeps the round from being finished is a finding, too.
        """
        try:
            self._fight(acts)
        except BrokenError as error:
            self.findings.lost += self._journals.findings.lost
            self._wrong(f"{error}; nothing else was looked at")
            return
        found, self.figures = audit(self._load.acked, self._journals, self._deeds)
        self.findings.lost += found.lost
        self.findings.doubled += found.doubled
        self.findings.wrong += found.wrong

    def _fight(self, acts: Sequence[str]) -> None:
        self._load.offer(True)
        for name in acts:
            self.tally.acts[name] += 1
            self._tell(name)
            self._acts[name]()
            if self._journals.findings:
                raise BrokenError("the journals have lost something")
        self._load.offer(False)
        self._drain()
        if self._process is not None:
            if self._chance.random() < 0.3:
                self._end()
            else:
                self._die("when idle")
        self._read(self.tally.lives)

    def _read(self, life: int) -> None:
        """Take in what the log holds after a life's end."""
        if not (self._room.outside / "log.db").exists():
            return
        try:
            self._journals.read(self._room.outside, life)
        except LogError as error:
            raise BrokenError(f"the log cannot be read after life {life}: {error}") from error

    def _tell(self, what: str) -> None:
        self.story.append(f"life {self.tally.lives}: {what}")

    def _wrong(self, what: str) -> None:
        self._tell(what)
        self.findings.wrong.append(what)

    # Processes.

    def _spawn(self) -> Process:
        self.tally.lives += 1
        life = self.tally.lives
        orders = Orders(
            log=str(self._room.inside),
            outside=str(self._outside),
            life=life,
            partitions=self._terms.partitions,
            settings=self._terms.settings,
            careless=self._terms.careless,
        )
        recorder = None
        if self._library is not None:
            base = self._base(life)
            shutil.copytree(self._room.outside, base, ignore=shutil.ignore_patterns("reserve"))
            record = self._papers / f"record-{life:05}"
            seed = self._chance.getrandbits(32)
            pause_us = self._terms.sync_us_max
            recorder = disk.Recorder(self._library, self._room.inside, record, seed, pause_us)
        return Process(self._room, orders, self._papers, recorder)

    def _base(self, life: int) -> Path:
        return self._papers / f"base-{life:05}"

    def _serving(self) -> Process:
        """Return a process that serves, starting one if need be."""
        if self._process is None:
            self._process = self._spawn()
        process = self._process
        if not process.wait_until_it_serves():
            raise BrokenError(f"life {process.life} did not come to serve (code {process.code})")
        self._load.serve(process.url)
        return process

    def _die(self, when: str) -> Process:
        """Kill the process and take in what it leaves."""
        process = self._process
        assert process is not None, "there is one to kill"
        self._look_at(process)
        process.kill()
        self.tally.kills[when] += 1
        self._gone(process)
        return process

    def _look_at(self, process: Process) -> None:
        if process.code is not None:
            self._wrong(f"life {process.life} ended by itself with code {process.code}")

    def _gone(self, process: Process) -> None:
        self._process = None
        if process.url and "Traceback" in process.complaints:
            self._wrong(f"life {process.life} complained: {process.complaints[-2_000:]}")
        self._load.serve("")
        self._journals.hear(self._outside, process.life)
        ledger = self._outside / f"ledger-{process.life:05}"
        if ledger.exists():
            self._deeds += deeds_of(ledger)[0]
        if process.recorder is not None:
            self._lose_or_keep(process, process.recorder)
        if self._terms.trimmed:
            # The next life may trim what this one's witness did not come to write down.
            self._read(process.life)

    def _lose_or_keep(self, process: Process, recorder: disk.Recorder) -> None:
        base = self._base(process.life)
        losing, self._losing = self._losing, False
        if losing:
            room = self._room.outside
            loss = disk.lose_power(base, recorder.record, room, self._own_chance())
            self._tell(f"power lost: {loss}")
            total = self.tally.loss
            total.unsynced += loss.unsynced
            total.dropped += loss.dropped
            total.torn += loss.torn
            self._read(process.life)
            self._look_at_history()
        shutil.rmtree(base)
        recorder.close()

    def _look_at_history(self) -> None:
        """See that the index of runs is whole: what SQLite cannot see there would be believed."""
        copy = self._papers / "history"
        copy.mkdir()
        for path in self._room.outside.glob("history.db*"):
            shutil.copy(path, copy)
        try:
            with contextlib.closing(sqlite3.connect(copy / "history.db")) as db:
                (found,) = db.execute("PRAGMA integrity_check").fetchone()
        except sqlite3.DatabaseError as error:
            found = str(error)
        if found != "ok":
            self._wrong(f"the index of runs is damaged: {found}")
        shutil.rmtree(copy)

    def _own_chance(self) -> random.Random:
        """Return a source for draws whose number hangs on what the processes did."""
        return random.Random(self._chance.getrandbits(64))

    def _sleep(self, low_s: float, high_s: float) -> None:
        time.sleep(self._chance.uniform(low_s, high_s))

    def _drain(self) -> None:
        """Wait until nothing is left to do."""
        deadline_s = time.monotonic() + DRAIN_S_MAX
        process = self._serving()
        while True:
            time.sleep(POLL_S)
            idle = ask(process.url, "/chaos/idle")
            if idle is not None and idle["stopped"]:
                raise BrokenError(f"partitions are stopped: {idle['stopped']}")
            done = idle is not None and not idle["runs"] and not idle["left"]
            if done and self._load.settled:
                return
            if process.code is not None:
                raise BrokenError(f"life {process.life} ended by itself, code {process.code}")
            if self._load.problem:
                raise BrokenError(self._load.problem)
            if time.monotonic() > deadline_s:
                self._wrong(f"not done after {DRAIN_S_MAX:.0f} s: {idle}; {self._load.left()}")
                return

    # Acts.

    def _kill(self) -> None:
        self._serving()
        self._sleep(0.05, 1.2)
        self._die("running")

    def _burst(self) -> None:
        if self._process is not None:
            self._die("running")
        for _ in range(self._chance.randint(2, 4)):
            self._process = self._spawn()
            self._sleep(0.1, 1.6)
            served = self._process.serves()
            self._losing = self._library is not None and self._chance.random() < 0.5
            self._die("running" if served else "starting")

    def _pause(self) -> None:
        process = self._serving()
        self._sleep(0.05, 0.6)
        process.stop()
        self._sleep(0.1, 1.5)
        process.go_on()
        self._sleep(0.0, 0.4)

    def _kill_stopped(self) -> None:
        process = self._serving()
        self._sleep(0.05, 0.6)
        process.stop()
        self._sleep(0.0, 0.8)
        self._die("stopped")

    def _second(self) -> None:
        """Start a second process on the folder while the first is stopped."""
        first = self._serving()
        self._sleep(0.05, 0.6)
        first.stop()
        before = _digest(self._room.outside)
        lives, self._library, kept = self.tally.lives, None, self._library
        second = self._spawn()
        self._library = kept
        code = second.wait(SECOND_S_MAX)
        if code is None:
            second.kill()
            self._gone(second)
            self._wrong("a second process was not refused the folder")
        elif code == 0 or f"in use by process {first.number} " not in second.complaints:
            self._wrong(f"a second process was refused with code {code}: {second.complaints}")
        if _digest(self._room.outside) != before:
            self._wrong("a second process changed the folder")
        assert self.tally.lives == lives + 1, "the second was counted"
        if self._chance.random() < 0.5:
            first.go_on()
            self._sleep(0.0, 0.4)
        else:
            self._die("stopped")

    def _race(self) -> None:
        """Start two processes on the folder at the same time: one gets it."""
        if self._process is not None:
            self._die("running")
        rivals = [self._spawn(), self._spawn()]
        deadline_s = time.monotonic() + SECOND_S_MAX
        while all(rival.code is None for rival in rivals) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        refused = [rival for rival in rivals if rival.code is not None]
        if len(refused) != 1 or "in use by" not in refused[0].complaints:
            for rival in rivals:
                rival.kill()
            raise BrokenError(f"of two rivals {len(refused)} were refused")
        (self._process,) = [rival for rival in rivals if rival not in refused]
        self._serving()

    def _torn(self) -> None:
        self._serving()
        self._sleep(0.05, 0.6)
        self._die("running")
        events = self._load.tear(self._chance.randint(1, 40))
        tails.append_unheard(self._room, events)
        way = tails.tear(self._room.outside / "log.db-wal", self._own_chance())
        self._tell(f"torn: {way}")
        process = self._serving()
        reported = "cut off" in process.complaints
        self.tally.tails["reported" if reported else "silent"] += 1
        for event in events:
            self._load.add(event)

    def _power(self) -> None:
        self._serving()
        self._sleep(0.05, 1.2)
        self._losing = True
        self._die("with the power")

    def _failing_syncs(self) -> None:
        process = self._serving()
        assert process.recorder is not None, "only done on a recorded disk"
        self._sleep(0.05, 0.5)
        process.recorder.switch(syncs_fail=self._chance.randint(1, 6))
        self._sleep(0.2, 0.8)
        if self._chance.random() < 0.5:
            self._losing = True
            self._die("with the power")

    def _full(self) -> None:
        """Let the disk be full for a while; perhaps kill the process then, and start another."""
        process = self._serving()
        self._sleep(0.05, 0.4)
        left_bytes = self._chance.choice([0, 4_096, 200_000])
        self._fill(process, left_bytes)
        self._sleep(0.2, 1.2)
        if self._chance.random() < 0.4:
            self._die("when full")
            self._process = self._spawn()
            if self._process.recorder is not None:
                self._process.recorder.switch(free_bytes=left_bytes)
            self._sleep(0.2, 2.0)
            self._make_room()
            self._see_whether_it_refused(self._process)
        else:
            self._make_room()

    def _see_whether_it_refused(self, process: Process) -> None:
        """Take in a process that was started on a full disk.

        Without any room at all it may say so and end, perhaps when there is some again; it must
        start then.
        """
        if process.wait_until_it_serves():
            return
        if "no space left" not in process.complaints:
            raise BrokenError(f"life {process.life} did not come to serve (code {process.code})")
        self._tell(f"ended with code {process.code} on a full disk")
        self.tally.acts["refused to start when full"] += 1
        self._process = None
        self._gone(process)

    def _fill(self, process: Process, left_bytes: int) -> None:
        if isinstance(self._room, SmallRoom):
            self._room.fill(left_bytes)
        elif process.recorder is not None:
            process.recorder.switch(free_bytes=left_bytes)

    def _make_room(self) -> None:
        if isinstance(self._room, SmallRoom):
            self._room.empty()
        elif self._process is not None and self._process.recorder is not None:
            self._process.recorder.switch()

    def _end(self) -> None:
        process = self._serving()
        self._look_at(process)
        code = process.end()
        self.tally.kills["asked to end"] += 1
        if code != 0:
            self._wrong(f"life {process.life} was asked to end, and ended with code {code}")
        self._gone(process)


class BrokenError(Exception):
    """The campaign cannot go on; the message is a finding."""


def _digest(folder: Path) -> str:
    """Return a digest of a folder whose process is stopped."""
    found = hashlib.sha1(usedforsecurity=False)
    for path in sorted(folder.iterdir()):
        found.update(path.name.encode())
        found.update(path.read_bytes())
    return found.hexdigest()
