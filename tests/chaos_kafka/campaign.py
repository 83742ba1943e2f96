"""A campaign: a few rounds in one namespace, and what is done to its processes and its broker.

A round is load, a few acts under it, and then quiet until nothing is left to do; then the audit,
while the processes go on. What the acts are is drawn from the seed.
"""

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.audit import Figures
from tests.chaos.campaign import DEATHS_MAX, BrokenError
from tests.chaos.expected import Findings
from tests.chaos.load import ask
from tests.chaos.outside import Deed, deeds_of
from tests.chaos.processes import Process
from tests.chaos.rooms import Room
from tests.chaos_kafka.audit import audit_shared
from tests.chaos_kafka.broker import OwnBroker
from tests.chaos_kafka.load import Outside, TopicLoad
from tests.chaos_kafka.program import NO_LOG, SharedOrders
from tests.chaos_kafka.topics import Topics
from tests.parts.broker import Broker
from tests.parts.topics import client_properties, fresh_topics

PROCESSES, PARTITIONS = 3, 8
RATE = 12.0
SESSION_S = 4.0
SERVE_S_MAX = 120.0
DRAIN_S_MAX = 240.0
POLL_S = 0.2
ANSWER_S = 20.0
REPLACED = "another process has joined the group"

ACTS = {
    "kill": 4,
    "kill two": 2,
    "kill all": 1,
    "burst": 2,
    "stop long": 5,
    "stop two long": 2,
    "stop short": 1,
    "kill stopped": 1,
    "replace stopped": 2,
    "end": 1,
    "kill broker": 3,
    "kill broker and one": 2,
    "hang broker": 2,
}
"""What may be done, and how often."""

OF_THE_BROKER = {name for name in ACTS if "broker" in name}


@dataclass(slots=True)
class Tally:
    """What was done."""

    acts: Counter[str] = field(default_factory=Counter[str])
    signals: Counter[str] = field(default_factory=Counter[str])
    lives: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a campaign is fought on.

    Attributes:
        named: how many of the processes have names of their own.
        settings: of the engine.
        properties: of the clients.
        rate: how many events are sent a second.
    """

    named: int
    settings: dict[str, Any]
    properties: dict[str, str]
    rate: float = RATE


def terms(chance: random.Random) -> Terms:
    """Draw the terms of a campaign."""
    settings: dict[str, Any] = {
        "round_records_min": chance.choice([300, 1_500]),
        "trial_survive_ms": 200,
        "deaths_max": DEATHS_MAX,
        "always_replay": chance.random() < 0.2,
    }
    properties = {
        "session.timeout.ms": str(int(1_000 * SESSION_S)),
        "heartbeat.interval.ms": "300",
        "delivery.timeout.ms": chance.choice(["3000", "30000"]),
    }
    return Terms(chance.randint(0, PROCESSES), settings, properties)


class Yard(Room):
    """Where processes are started that share a log: a folder for nothing but them."""

    def start(self, module: str, *arguments: str, **where: Any) -> Any:
        """Start the program that shares a log, whatever module is asked for."""
        return super().start("tests.chaos_kafka.program", *arguments, **where)


class Campaign:
    """Rounds in one namespace.

    Attributes:
        findings: what the last audit found.
        figures: how much it looked at.
        tally: what was done so far.
        story: what was done, in words, for the report.
        topics: what was decided.
    """

    def __init__(
        self, folder: Path, given: Terms, chance: random.Random, broker: Broker | OwnBroker
    ) -> None:
        self.folder, self._terms, self._chance = folder, given, chance
        self._own = broker if isinstance(broker, OwnBroker) else None
        self._broker = broker.where if isinstance(broker, OwnBroker) else broker
        self._outside, self._papers = folder / "outside", folder / "papers"
        for needed in (self._outside, self._papers):
            needed.mkdir(parents=True)
        self._yard = Yard(folder / "yard")
        self._names = asyncio.run(fresh_topics(self._broker, PARTITIONS))
        outside = Outside(client_properties(self._broker, delivery_timeout_ms="5000"), self._names)
        self._load = TopicLoad(str(chance.random()), self._outside, given.rate, outside, PARTITIONS)
        self._kafka = outside
        self._slots: list[Process | None] = [None] * PROCESSES
        self._away: set[int] = set()
        self._replaced: list[Process] = []
        self._called: dict[int, str] = {}
        self.topics = Topics()
        self.findings, self.figures = Findings(), Figures()
        self.tally, self.story = Tally(), list[str]()
        self._begun_s = time.monotonic()
        self._acts: dict[str, Callable[[], None]] = {
            "kill": lambda: self._kill(1),
            "kill two": lambda: self._kill(2),
            "kill all": lambda: self._kill(PROCESSES),
            "burst": self._burst,
            "stop long": lambda: self._stop(1, 1.3, 2.5),
            "stop two long": lambda: self._stop(2, 1.3, 2.5),
            "stop short": lambda: self._stop(1, 0.05, 0.6),
            "kill stopped": self._kill_stopped,
            "replace stopped": self._replace_stopped,
            "end": self._end,
            "kill broker": self._kill_broker,
            "kill broker and one": self._kill_broker_and_one,
            "hang broker": self._hang_broker,
        }

    def close(self) -> None:
        """Let everything go; the files stay."""
        for process in [*self._slots, *self._replaced]:
            if process is not None and process.code is None:
                process.kill()
        self._load.close()

    def drawn(self, count: int) -> list[str]:
        """Draw so many acts; those against a broker only if it is one's own."""
        acts = {n: w for n, w in ACTS.items() if self._own is not None or n not in OF_THE_BROKER}
        return self._chance.choices(list(acts), list(acts.values()), k=count)

    def round(self, acts: Sequence[str]) -> None:
        """Do these acts under load, wait until nothing is left to do, and audit.

        What keeps the round from being finished is a finding, too.
        """
        try:
            self._fight(acts)
        except BrokenError as error:
            self._kafka.do(self.topics.read_on(self._kafka.log))
            self.findings.lost += self.topics.findings.lost
            self._wrong(f"{error}; unfinished: {self.topics.unfinished()}")
            return
        found, self.figures = audit_shared(
            self._load.acked, self.topics, self._deeds(), self._called
        )
        self.findings.lost += found.lost
        self.findings.doubled += found.doubled
        self.findings.wrong += found.wrong

    def _fight(self, acts: Sequence[str]) -> None:
        self._fill()
        self._wait_for_all()
        self._load.offer(True)
        for name in acts:
            self.tally.acts[name] += 1
            self._tell(name)
            self._acts[name]()
            self._fill()
        self._sleep(0.5, 2.0)
        self._load.offer(False)
        self._wait_for_all()
        self._drain()
        for life in self._called:
            self.topics.hear(self._outside, life)
        self._kafka.do(self.topics.read_on(self._kafka.log))

    def _deeds(self) -> list[Deed]:
        return [
            deed for path in sorted(self._outside.glob("ledger-*")) for deed in deeds_of(path)[0]
        ]

    def _tell(self, what: str) -> None:
        self.story.append(f"{time.monotonic() - self._begun_s:7.1f} s: {what}")

    def _wrong(self, what: str) -> None:
        self._tell(what)
        self.findings.wrong.append(what)

    def _sleep(self, low_s: float, high_s: float) -> None:
        time.sleep(self._chance.uniform(low_s, high_s))

    # Processes.

    def _spawn(self, slot: int) -> Process:
        self.tally.lives += 1
        life = self.tally.lives
        name = f"slot-{slot}" if slot < self._terms.named else ""
        orders = SharedOrders(
            log="",
            outside=str(self._outside),
            life=life,
            settings=self._terms.settings,
            synced=False,  # no power is lost
            servers=self._broker.servers,
            word=self._names.namespace,
            name=name,
            properties=self._terms.properties,
        )
        process = Process(self._yard, orders, self._papers)
        self._called[life] = name or f"{socket.gethostname()}-{process.number}"
        self._tell(f"life {life} begins in slot {slot} as {self._called[life]}")
        return process

    def _fill(self) -> None:
        """Start what does not run; what ended by itself is a finding."""
        for slot, process in enumerate(self._slots):
            if process is not None and process.code is not None:
                self._look_at(process)
                self._slots[slot] = None
            if self._slots[slot] is None:
                self._slots[slot] = self._spawn(slot)
        self._ask_around()

    def _look_at(self, process: Process) -> None:
        """See that a process had a reason to end: while it starts, it needs a broker."""
        if process.code == NO_LOG and not process.serves() and self._own is not None:
            self._tell(f"life {process.life} found no broker when it started")
            self.tally.signals["found no broker at the start"] += 1
            return
        said = process.complaints[-3_000:]
        self._wrong(f"life {process.life} ended by itself with code {process.code}: {said}")

    def _ask_around(self) -> None:
        self._load.ask_at(
            [p.url for slot, p in self._living() if slot not in self._away and p.serves()]
        )

    def _living(self) -> list[tuple[int, Process]]:
        return [
            (slot, process)
            for slot, process in enumerate(self._slots)
            if process is not None and process.code is None
        ]

    def _some(self, count: int) -> list[int]:
        return self._chance.sample(range(PROCESSES), count)

    def _wait_for_all(self) -> None:
        """Wait until every process serves, starting again those that found no broker."""
        deadline_s = time.monotonic() + SERVE_S_MAX
        while True:
            self._fill()
            if all(process.serves() for _, process in self._living()):
                self._ask_around()
                return
            if time.monotonic() > deadline_s:
                late = [process.life for _, process in self._living() if not process.serves()]
                raise BrokenError(f"lives {late} did not come to serve")
            time.sleep(POLL_S)

    def _drain(self) -> None:
        """Wait until nothing is left to do, and every partition has one owner."""
        deadline_s = time.monotonic() + DRAIN_S_MAX
        while True:
            time.sleep(POLL_S)
            idle = [ask(p.url, "/chaos/idle", ANSWER_S) for _, p in self._living()]
            answered = [one for one in idle if one is not None]
            stopped = [one["stopped"] for one in answered if one["stopped"]]
            if stopped:
                raise BrokenError(f"partitions are stopped: {stopped}")
            owned = sorted(number for one in answered for number in one["owned"])
            busy = any(one["runs"] or one["left"] for one in answered)
            if owned == list(range(PARTITIONS)) and not busy and self._load.settled:
                return
            for _, process in enumerate(self._slots):
                if process is not None and process.code is not None:
                    self._look_at(process)
                    raise BrokenError(f"life {process.life} ended, code {process.code}")
            if self._load.problem:
                raise BrokenError(self._load.problem)
            if time.monotonic() > deadline_s:
                said = f"{idle}; {self._load.left()}; {self._load.counts}"
                raise BrokenError(f"not done after {DRAIN_S_MAX:.0f} s: {said}")

    def end(self) -> None:
        """Ask all processes to end."""
        for _, process in self._living():
            self._end_one(process)

    def _end_one(self, process: Process) -> None:
        code = process.end()
        self.tally.signals["asked to end"] += 1
        if code != 0:
            said = process.complaints[-3_000:]
            self._wrong(f"life {process.life} was asked to end: code {code}: {said}")

    # Acts.

    def _die(self, slot: int, when: str) -> None:
        process = self._slots[slot]
        self._slots[slot] = None
        if process is None:
            return
        if process.code is not None:
            self._look_at(process)
        elif when == "running" and not process.serves():
            when = "starting"
        process.kill()
        self._tell(f"life {process.life} is killed, {when}")
        self.tally.signals[f"killed {when}"] += 1
        self._ask_around()

    def _kill(self, count: int) -> None:
        self._sleep(0.5, 3.0)
        for slot in self._some(count):
            self._die(slot, "running")
        self._sleep(0.0, 1.5 * SESSION_S)

    def _burst(self) -> None:
        (slot,) = self._some(1)
        for _ in range(self._chance.randint(2, 3)):
            self._die(slot, "running")
            self._slots[slot] = self._spawn(slot)
            self._sleep(0.3, 4.0)

    def _stop(self, count: int, low: float, high: float) -> None:
        """Stop some processes for so many sessions; then they go on."""
        self._sleep(0.5, 2.0)
        slots = self._some(count)
        self._halt(slots)
        self._sleep(low * SESSION_S, high * SESSION_S)
        self._go_on(slots)
        self._sleep(0.5, 2.0)

    def _halt(self, slots: Sequence[int]) -> None:
        self._away |= set(slots)
        self._ask_around()
        for slot in slots:
            if (process := self._slots[slot]) is not None and process.code is None:
                process.stop()
                self._tell(f"life {process.life} is stopped")
                self.tally.signals["stopped"] += 1

    def _go_on(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if (process := self._slots[slot]) is not None and process.code is None:
                process.go_on()
                self._tell(f"life {process.life} goes on")
        self._away -= set(slots)
        self._ask_around()

    def _kill_stopped(self) -> None:
        slots = self._some(1)
        self._halt(slots)
        self._sleep(0.0, 2 * SESSION_S)
        self._die(slots[0], "stopped")
        self._away -= set(slots)

    def _replace_stopped(self) -> None:
        """Start another process in the place of one that is stopped, and then goes on.

        If they have one name, the older one has to end by itself.
        """
        (slot,) = self._some(1)
        older = self._slots[slot]
        if older is None or not older.serves():
            return
        self._halt([slot])
        self._slots[slot] = self._spawn(slot)
        self._sleep(1.0, 2 * SESSION_S)
        older.go_on()
        self._away -= {slot}
        self._tell(f"life {older.life} goes on, life {self.tally.lives} is in its place")
        self._replaced.append(older)
        self._sleep(1.0, SESSION_S)
        if slot >= self._terms.named:
            self._end_one(older)
        elif (code := older.wait(SERVE_S_MAX)) is None:
            self._wrong(f"life {older.life} goes on beside another process of its name")
            older.kill()
        elif code != NO_LOG or REPLACED not in older.complaints:
            self._wrong(f"life {older.life} was replaced: code {code}: {older.complaints[-2_000:]}")
        self.tally.signals["replaced"] += 1
        self._ask_around()

    def _end(self) -> None:
        (slot,) = self._some(1)
        process, self._slots[slot] = self._slots[slot], None
        self._ask_around()
        if process is not None and process.serves():
            self._end_one(process)
        elif process is not None:
            process.kill()
        self._sleep(0.0, SESSION_S)

    def _kill_broker(self) -> None:
        assert self._own is not None, "drawn only against one's own"
        self._sleep(0.5, 2.0)
        self._own.kill()
        self._tell("the broker is killed")
        self.tally.signals["broker killed"] += 1
        self._sleep(0.0, 4.0)
        self._own.start()
        self._tell("the broker is back")
        self._sleep(0.5, 2.0)

    def _kill_broker_and_one(self) -> None:
        (slot,) = self._some(1)
        self._die(slot, "running")
        self._kill_broker()

    def _hang_broker(self) -> None:
        assert self._own is not None, "drawn only against one's own"
        self._sleep(0.5, 2.0)
        self._own.stop()
        self._tell("the broker hangs")
        self.tally.signals["broker stopped"] += 1
        self._sleep(1.0, 8.0)
        self._own.go_on()
        self._tell("the broker goes on")
        self._sleep(0.5, 2.0)
