"""A world: a few processes with the whole engine on one log, from one seed, until all is done.

What goes wrong, and when, is drawn from the seed; each thing that goes wrong has a number, so that
a failing seed can be shrunk to the few that matter.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import stepfold
from stepfold_engine.errors import EngineError, RequestRefusedError
from stepfold_engine.journals import read_run
from stepfold_engine.log.base import DEAD_LETTERS, EVENTS, INBOX, JOURNAL
from stepfold_engine.node import Node
from stepfold_engine.reruns import FROM_STEP, Rerun, RerunAnswer
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import RunStarted
from stepfold_schemas.events import Event
from stepfold_schemas.ids import home_of, parse_ulid, ulid_text
from tests.simulation.group import Group
from tests.simulation.ledger import Fault, Ledger, Told, Written
from tests.simulation.life import Life
from tests.simulation.log import Client, Store, Weather
from tests.simulation.loop import Lane, SimLoop
from tests.simulation.programs import APP, Deaths, Plan, Stimulus, app_of, plan_of

START_MS = 1_800_000_000_000
SILENCE_S = 3.0
"""After this long the group takes a silent process for dead."""

SKEW_MS_MAX = 300
JUMP_MS_MAX = 90_000
PATIENCE_S = 7_200.0
"""How long, in virtual time, everything may take to end once nothing goes wrong any more."""


@dataclass(frozen=True)
class Shape:
    """What a seed decides about the world besides what goes wrong in it."""

    processes: int
    partitions: int
    events: int
    always_replay: bool
    idle_max: int
    round_records: int
    keep_ms: int
    positions_every_inputs: int
    rolling: bool

    @staticmethod
    def drawn(rng: random.Random) -> "Shape":
        partitions = rng.choice([1, 1, 2, 2, 3, 4])
        return Shape(
            processes=rng.choice([1, 2, 2, 3]),
            partitions=partitions,
            events=rng.choice([partitions, 1, 2]),
            always_replay=rng.random() < 0.25,
            idle_max=rng.choice([0, 1, 1000, 1000]),
            round_records=rng.choice([8, 20, 60, 10_000]),
            keep_ms=rng.choice([0, 0, 2_000, 30_000, 10**9]),
            positions_every_inputs=rng.choice([1, 3, 50]),
            rolling=rng.random() < 0.2,
        )


@dataclass
class Mask:
    """What to leave out of a seed: numbers of faults, and of stimuli."""

    faults: frozenset[int] = frozenset()
    stimuli: frozenset[int] = frozenset()


@dataclass
class Outcome:
    """What a simulation left behind."""

    plan: Plan
    shape: Shape
    ledger: Ledger
    settled: bool
    faults: Counter[str]
    injected: int
    seconds: float
    unsettled: list[str] = field(default_factory=list[str])
    skew_ms: int = 0


class World:
    """One simulation."""

    def __init__(
        self, seed: int, mask: Mask | None = None, *, size: int = 3, shape: Shape | None = None
    ) -> None:
        self.seed, self.mask = seed, mask or Mask()
        self.rng = random.Random(f"{seed}/world")
        self.plan = plan_of(seed, size=size)
        self.shape = shape = shape or Shape.drawn(random.Random(f"{seed}/shape"))
        self.start_ms = START_MS
        self.loop = SimLoop(random.Random(f"{seed}/schedule"), START_MS)
        self.ledger = Ledger()
        counts = {
            EVENTS: shape.events,
            INBOX: shape.partitions,
            JOURNAL: shape.partitions,
            DEAD_LETTERS: shape.partitions,
        }
        self.store = Store(counts, self.loop.now_ms, self.ledger)
        self.weather = Weather()
        self.network = Lane("network")
        self.group = Group(shape.partitions)
        self.settings = Settings(
            always_replay=shape.always_replay,
            round_records_min=shape.round_records,
            journal_keep_ms=shape.keep_ms,
            positions_every_ms=2_000,
            positions_every_inputs=shape.positions_every_inputs,
            look_at_clock_every_ms=5_000,
            trial_survive_ms=500,
            deaths_max=20,
        )
        self.idle_max = shape.idle_max
        self.events = shape.events
        self.deaths: Deaths = Counter()
        self.declared = False
        self.faults: Counter[str] = Counter()
        self.calm = False
        self._fault_number = 0
        self._skew_ms = 0
        self._lives: list[Life] = []
        self._current: dict[str, Life] = {}
        self._born: Counter[str] = Counter()
        self._told = 0

    # What lives ask.

    def app_for(self, life: Life) -> stepfold.App:
        """Make the app of one life of a process."""
        return app_of(self.plan, life, only=life.only, deaths=self.deaths)

    def client(self, name: str) -> Client:
        rng = random.Random(f"{self.seed}/log/{name}")
        client = Client(self.store, rng, self.weather, name, self.may, self.network)
        lags = random.Random(f"{self.seed}/lag/{name}")
        if lags.random() < 0.3 and not self.calm:
            for topic, count in ((EVENTS, self.events), (INBOX, self.shape.partitions)):
                for partition in range(count):
                    client.lag_s[topic, partition] = lags.choice([0.0, 0.0, 0.2, 5.0])
        return client

    def skew_of(self, name: str) -> int:
        skew = random.Random(f"{self.seed}/skew/{name}")
        return self._note_skew(skew.choice([0, 0, skew.randint(-SKEW_MS_MAX, SKEW_MS_MAX)]))

    def _note_skew(self, skew_ms: int) -> int:
        self._skew_ms = max(self._skew_ms, abs(skew_ms))
        return skew_ms

    def later(self, seconds: float, callback: Callable[..., object], *args: object) -> None:
        """Call back in the world's own lane."""
        with self.loop.lane(self.loop.world):
            self.loop.call_later(seconds, callback, *args)

    def may(self, what: str, process: str = "", more: str = "") -> bool:
        """Number what is about to go wrong; say whether it is to."""
        if self.calm:
            return False
        self._fault_number += 1
        if self._fault_number in self.mask.faults:
            return False
        self.faults[what] += 1
        order, at_ms = self.ledger.next_order, self.loop.now_ms()
        text = f"#{self._fault_number} {more}".strip()
        self.ledger.add(Fault(order, at_ms, what, process, text))
        return True

    def kill(self, life: Life, back_s: float | None = None) -> None:
        """Kill a process; it comes back after a while."""
        life.kill()
        if self._current.get(life.member) is life:
            del self._current[life.member]
        silence = self.rng.choice([0.1, SILENCE_S, SILENCE_S])
        back_s = self.rng.choice([0.05, 1.0, 8.0]) if back_s is None else back_s
        self.later(silence, self._notice_death, life)
        self.later(back_s, self._restart, life)

    def _notice_death(self, life: Life) -> None:
        if life.member not in self._current:
            self.group.leave(life.member)

    def _restart(self, life: Life) -> None:
        if life.member not in self._current:
            self.begin(life.member)

    def begin(self, member: str, only: Collection[str] | None = None) -> Life:
        """Start a process."""
        self._born[member] += 1
        if only is None and self._rolling_back(member):
            only = self._old_functions()
        life = Life(self, member, self._born[member], only)
        self._lives.append(life)
        self._current[member] = life
        life.start()
        return life

    def _rolling_back(self, member: str) -> bool:
        """Say whether a process still runs the older version of the app."""
        return self.shape.rolling and member != "a" and not self.calm and self._born[member] < 3

    def _old_functions(self) -> Collection[str]:
        return [f.id for f in self.plan.functions[:-1]] or [f.id for f in self.plan.functions]

    # What goes wrong by itself.

    def _plan_faults(self) -> list[tuple[float, str, float]]:
        """Draw what goes wrong: when, what, and a number between 0 and 1 that says more."""
        rng = random.Random(f"{self.seed}/faults")
        kinds = ["crash", "pause", "move", "jump", "full", "storm", "lags", "deploy"]
        # Not everything everywhere: a seed has a few kinds, some seeds many of one.
        some = rng.sample(kinds, rng.randint(1, 4))
        if "storm" not in some and rng.random() < 0.5:
            some.append("storm")
        count = rng.choice([0, 1, 2, 4, 8, 16])
        return sorted(
            (rng.uniform(0.01, self.plan.duration_s), rng.choice(some), rng.random())
            for _ in range(count)
        )

    async def _go_wrong(self) -> None:
        for at_s, what, draw in self._plan_faults():
            await asyncio.sleep(max(0.0, at_s - self.loop.real_time()))
            rng = random.Random(f"{self.seed}/{at_s}/{what}")
            lives = [life for _, life in sorted(self._current.items())]
            if lives:
                life = rng.choice(lives)
                getattr(self, f"_do_{what}")(life, draw, rng)

    def _do_crash(self, life: Life, draw: float, rng: random.Random) -> None:
        if self.may("crash", life.name):
            self.kill(life, draw * 8)

    def _do_pause(self, life: Life, draw: float, rng: random.Random) -> None:
        if life.paused or not self.may("pause", life.name, f"{draw * 12:.1f} s"):
            return
        life.pause()
        self.later(SILENCE_S, self._notice_silence, life)
        self.later(0.05 + draw * 12, self._go_on, life)

    def _notice_silence(self, life: Life) -> None:
        if life.paused and life.alive:
            self.group.leave(life.member)

    def _go_on(self, life: Life) -> None:
        if life.alive and life.paused:
            life.go_on()
            if self._current.get(life.member) is life:
                self.group.join(life.group_member)

    def _do_move(self, life: Life, draw: float, rng: random.Random) -> None:
        partition = rng.randrange(self.shape.partitions)
        if self.may("move", life.name, f"partition {partition}"):
            self.group.move(partition, life.member)

    def _do_jump(self, life: Life, draw: float, rng: random.Random) -> None:
        by_ms = int((draw - 0.3) * JUMP_MS_MAX)
        if self.may("clock jump", life.name, f"{by_ms} ms"):
            life.clock.skew_ms = self._note_skew(life.clock.skew_ms + by_ms)
            self.later(rng.choice([2.0, 50.0]), self._jump_back, life, -by_ms)

    def _jump_back(self, life: Life, by_ms: int) -> None:
        life.clock.skew_ms = self._note_skew(life.clock.skew_ms + by_ms)

    def _do_full(self, life: Life, draw: float, rng: random.Random) -> None:
        if self.may("disk full", "", f"{draw * 6:.1f} s"):
            self.store.full = True
            self.later(draw * 6, self._make_room)

    def _make_room(self) -> None:
        self.store.full = False

    def _do_storm(self, life: Life, draw: float, rng: random.Random) -> None:
        w = self.weather
        w.slow, w.slow_s = rng.choice([0.0, 0.1, 0.3]), rng.choice([0.3, 2.0, 6.0])
        for name in ("lost", "landed", "late", "cut", "holed", "split", "no_offset", "refused"):
            setattr(w, name, rng.choice([0.0, 0.0, 0.05, 0.15]))
        w.unreadable = rng.choice([0.0, 0.0, 0.03])
        self.later(1 + draw * 15, w.calm)

    def _do_lags(self, life: Life, draw: float, rng: random.Random) -> None:
        topic = rng.choice([EVENTS, INBOX, JOURNAL])
        partition = rng.randrange(len(self.store.topics[topic]))
        if self.may("lag", life.name, f"{topic}/{partition} {draw * 10:.1f} s"):
            life.client.lag_s[topic, partition] = draw * 10
            self.later(1 + draw * 20, life.client.lag_s.pop, (topic, partition), None)

    def _do_deploy(self, life: Life, draw: float, rng: random.Random) -> None:
        if not life.paused and self.may("deploy", life.name):
            life.stop()
            self.later(2.0 + draw * 5, self._replace, life)

    def _replace(self, life: Life) -> None:
        """A process that was asked to stop is replaced, whether it got to it or not."""
        if self._current.get(life.member) is life and life.alive:
            life.kill()
            del self._current[life.member]
            self.group.leave(life.member)
            self.begin(life.member)

    # What people outside do.

    async def _tell(self, what: str, name: str, value: str = "") -> None:
        order, at_ms = self.ledger.next_order, self.loop.now_ms()
        self.ledger.add(Told(order, at_ms, what, name, value))

    async def _act(self) -> None:
        while not self.declared:
            await asyncio.sleep(0.05)
        begin_s = self.loop.real_time()
        async with asyncio.TaskGroup() as tasks:
            for number, stimulus in enumerate(self.plan.stimuli):
                if number in self.mask.stimuli:
                    continue
                await asyncio.sleep(max(0.0, begin_s + stimulus.at_s - self.loop.real_time()))
                tasks.create_task(self._do(number, stimulus))

    async def _do(self, number: int, stimulus: Stimulus) -> None:
        """Do something through whichever process answers; again if that cannot do harm."""
        for attempt in range(200):
            lives = [self._current[name] for name in sorted(self._current)]
            if lives:
                life = lives[(number + attempt) % len(lives)]
                try:
                    if await self._try(life, stimulus, f"{self.seed}/{number}"):
                        return
                except RequestRefusedError as error:
                    if error.status < 500:
                        await self._tell("refused", stimulus.name, str(error))
                        return
                except (EngineError, TimeoutError, AttributeError):
                    again = stimulus.id if stimulus.kind == "event" else stimulus.kind == "rerun"
                    if not again:
                        await self._tell("unknown", stimulus.name)
                        return
            await asyncio.sleep(0.5)

    async def _try(self, life: Life, stimulus: Stimulus, request: str) -> bool:
        """Ask a process; it may be dead, and then never answers."""
        with self.loop.lane(life.engine_lane):
            asked = self.loop.create_task(self._ask(life, stimulus, request))
        done, _ = await asyncio.wait({asked}, timeout=60)
        if not done:
            asked.cancel()
            raise TimeoutError
        return asked.result()

    async def _ask(self, life: Life, stimulus: Stimulus, request: str) -> bool:
        node = life.node
        if not hasattr(node, "native"):
            return False
        if stimulus.kind == "event":
            event = Event(stimulus.name, codec_json(stimulus.data), stimulus.id)
            (internal,) = await node.publish([event])
            await self._tell("published", internal, stimulus.id)
        elif stimulus.kind == "signal":
            data = codec_json(stimulus.data)
            run = await node.signal(stimulus.name, data, request.encode().ljust(16, b".")[:16])
            await self._tell("signalled", stimulus.name, "" if run is None else ulid_text(run))
        else:
            runs = self._runs_of(stimulus.name)
            nth = int(stimulus.data["nth"])
            if nth >= len(runs):
                return True
            if stimulus.kind == "rerun":
                answer = await _rerun(node, parse_ulid(runs[nth]), stimulus, request)
                await self._tell("reran", ulid_text(answer.run), runs[nth])
            else:
                await node.cancel(parse_ulid(runs[nth]), "asked to")
                await self._tell("cancelled", runs[nth])
        return True

    def _runs_of(self, function: str) -> list[str]:
        """Return the runs of a function that somebody could know of."""
        found: dict[str, None] = {}
        for one in self.ledger.happenings:
            if isinstance(one, Written) and one.topic == JOURNAL:
                for entry in codec.decode_decision(one.value).entries:
                    if isinstance(entry, RunStarted) and entry.function == f"{APP}-{function}":
                        found[ulid_text(entry.run)] = None
        return list(found)

    # The whole.

    def run(self) -> Outcome:
        """Run the simulation to its end."""
        loop = self.loop
        try:
            with loop.lane(loop.world):
                try:
                    settled = loop.run_until_complete(self._run())
                except BaseException:
                    loop.run_until_complete(self._bury())
                    raise
            unsettled = [] if settled else self._what_is_left()
            outcome = Outcome(
                self.plan,
                self.shape,
                self.ledger,
                settled,
                self.faults,
                self._fault_number,
                loop.real_time(),
                unsettled,
                self._skew_ms,
            )
            # Nothing that happens from here on is of interest.
            self.ledger = Ledger()
            self.store.ledger = self.ledger
            with loop.lane(loop.world):
                loop.run_until_complete(self._bury())
            return outcome
        finally:
            loop.close()

    async def _run(self) -> bool:
        for number in range(self.shape.processes):
            self.begin("abc"[number])
        wrong = asyncio.ensure_future(self._go_wrong())
        async with asyncio.timeout(self.plan.duration_s + 36_000):
            await self._act()
        await wrong
        await asyncio.sleep(10)
        return await self._settle()

    async def _settle(self) -> bool:
        """Let nothing go wrong any more, and wait until nothing is left to do."""
        self._calm_down()
        until_s = self.loop.real_time() + PATIENCE_S
        while not self._settled():
            if self.loop.real_time() > until_s:
                return False
            await asyncio.sleep(1.0)
        return True

    def _calm_down(self) -> None:
        """Nothing goes wrong any more; everybody has the newest functions."""
        self.calm = True
        self.weather.calm()
        self.store.full = False
        for life in self._lives:
            life.client.lag_s.clear()
            self._go_on(life)
        for member in "abc"[: self.shape.processes]:
            known = self._current.get(member)
            if known is not None and known.only is None and not known.main.done():
                continue
            if known is not None:
                known.kill()
                del self._current[member]
                self.group.leave(member)
            self.begin(member)

    def _settled(self) -> bool:
        for partition in range(self.shape.partitions):
            life = self._current.get(self.group.owners.get(partition, ""))
            owner = life.owner(partition) if life is not None else None
            if life is None or owner is None or not life.settled(owner):
                return False
        return True

    def _what_is_left(self) -> list[str]:
        """Say, for a person, why it is not over."""
        found: list[str] = []
        for partition in range(self.shape.partitions):
            name = self.group.owners.get(partition, "nobody")
            life = self._current.get(name)
            owner = life.owner(partition) if life is not None else None
            if life is None or owner is None:
                found.append(f"partition {partition}, of {name}, is not owned")
                continue
            state = owner.state
            for run in state.runs:
                waits = [f"{o.kind} {o.name}" for o in run.operations.values()]
                unserved = run.id in life.node.native.unserved
                found.append(
                    f"run {ulid_text(run.id)} of {run.function}: stopped={run.stopped}"
                    f" parked={run.parked} unserved={unserved}"
                    f" live={life.node.native.is_live(run.id)} waits for {waits}"
                )
            found += [
                f"messages {p}→{d}: {sorted(u)}"
                for p, d, u in ((partition, d, u) for d, u in state.unsent.items())
                if u
            ]
            if not life.settled(owner) and not found:
                found.append(f"partition {partition} has unread inputs: {state.positions}")
        return found

    async def _bury(self) -> None:
        mains = [life.bury() for life in self._lives]
        await asyncio.wait(mains)
        for main in mains:
            if not main.cancelled():
                main.exception()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=60)


async def _rerun(node: Node, run: bytes, stimulus: Stimulus, request: str) -> RerunAnswer:
    """Ask for a rerun, as the HTTP API does. The same request again is the same run."""
    facts = await read_run(node.log, home_of(run), run)
    named = (getattr(f.entry, "name", "") for f in facts if getattr(f.entry, "step", b""))
    names = list(dict.fromkeys(name for name in named if name))
    where, step = str(stimulus.data["where"]), ""
    if where == FROM_STEP:
        step = names[int(stimulus.data["step"]) % len(names)] if names else "none"
    asked = Rerun(run, where, step, tag=request)
    return await node.rerun(asked, facts, asked_by="somebody", why=stimulus.text())


def codec_json(value: object) -> bytes:
    """Write plain values as an event's data."""
    return json.dumps(value).encode()
