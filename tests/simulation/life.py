"""One life of a simulated process: the whole engine and a worker, from its start to its death."""

import asyncio
import random
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

import stepfold
from stepfold.crew import WorkerSettings
from stepfold.serving import serves_of
from stepfold.worker import NativeWorker
from stepfold_engine.clock import SystemClock
from stepfold_engine.errors import EngineError, RequestRefusedError
from stepfold_engine.log.base import EVENTS, INBOX
from stepfold_engine.matching import CelMatching
from stepfold_engine.native import Native
from stepfold_engine.node import Node
from stepfold_engine.owner import Owner
from stepfold_engine.ownership import Claimant
from stepfold_schemas import codec
from tests.simulation.group import Member
from tests.simulation.ledger import Seen
from tests.simulation.log import Client
from tests.simulation.loop import Lane

if TYPE_CHECKING:
    from tests.simulation.world import World

MATCHING = CelMatching()
"""Shared: it is pure, and compiling expressions takes longer than a simulation."""

HOUR_MS = 3_600_000
"""What a cron starts later than in an hour is not waited for."""


class SimClock(SystemClock):
    """A process's guarded clock over virtual time, and wrong by as much as the world wants."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start_ms: int, skew_ms: int) -> None:
        self._loop, self._start_ms, self.skew_ms = loop, start_ms, skew_ms
        super().__init__()

    def _wall_ms(self) -> int:
        return self._start_ms + self._monotonic_ms() + self.skew_ms

    def _monotonic_ms(self) -> int:
        return int(self._loop.real_time() * 1000)  # type: ignore[attr-defined] # pyright: ignore


class Life:
    """From the start of a process to its end."""

    def __init__(
        self, world: "World", member: str, number: int, only: Collection[str] | None
    ) -> None:
        self.world, self.member, self.name = world, member, f"{member}.{number}"
        self.only = only
        self.engine_lane, self.user_lane = Lane(f"{self.name}"), Lane(f"{self.name} user")
        self.clock = SimClock(world.loop, world.start_ms, world.skew_of(self.name))
        self.alive = True
        self.paused = False
        self.group_member: Member
        self.client: Client
        self.node: Node
        self.worker: NativeWorker | None = None
        self.app: stepfold.App
        self.main: asyncio.Task[None]
        self._stop: asyncio.Event

    def start(self) -> None:
        """Begin to live."""
        world = self.world
        with world.loop.lane(self.engine_lane):
            self._stop = asyncio.Event()
            self.client = world.client(self.name)
            self.group_member = Member(world.group, self.member)
            entropy = random.Random(f"{world.seed}/entropy/{self.name}").randbytes
            claimant = Claimant(self.member, self.name, entropy)
            self.node = Node(
                self.client,
                self.clock,
                MATCHING,
                world.settings,
                assignment=self.group_member,
                claimant=claimant,
            )
            self.app = world.app_for(self)
            self.main = world.loop.create_task(self._live())
        world.group.join(self.group_member)

    async def _live(self) -> None:
        await asyncio.sleep(0.001)
        while self.client.reachable:
            # What is behind a log that cannot be reached yet is tried again.
            with suppress(EngineError):
                async with self.node.running(self._make_worker):
                    self.node.resume()
                    await self._declare()
                    await self._stop.wait()
                    if self.worker is not None:
                        self.worker.close()
                return
            await asyncio.sleep(0.5)

    def _make_worker(self, native: Native) -> NativeWorker:
        settings = WorkerSettings(
            always_replay=self.world.settings.always_replay, idle_max=self.world.idle_max
        )
        functions = self.app.functions
        worker = NativeWorker(functions, native, decode_event=codec.decode_event, settings=settings)
        with self.world.loop.lane(self.user_lane):
            worker.run_inline(self.world.loop)
        native.serves = serves_of(lambda: functions)
        self.worker = worker
        return worker

    async def _declare(self) -> None:
        specs = [f.spec() for f in self.app.functions.values()]
        while not self._stop.is_set():
            try:
                await self.node.declare(self.app.id, specs, complete=True, forced=False)
            except RequestRefusedError as error:
                if error.status == 409:
                    # A newer process has declared more; this one works for it as it can.
                    return
            except EngineError:
                pass
            else:
                self.world.declared = True
                return
            await asyncio.sleep(0.5)

    # What happens to it.

    def stop(self) -> None:
        """Stop cleanly."""
        self._stop.set()

    def kill(self) -> None:
        """Kill it: no callback of it runs any more."""
        self.alive = False
        self.engine_lane.stopped += 1
        self.user_lane.stopped += 1
        self.client.die()

    def pause(self) -> None:
        """Stop it at whatever it does."""
        self.paused = True
        self.engine_lane.stopped += 1
        self.user_lane.stopped += 1

    def go_on(self) -> None:
        """Let it go on as if no time had passed."""
        if self.paused:
            self.paused = False
            self.engine_lane.stopped -= 1
            self.user_lane.stopped -= 1

    def bury(self) -> asyncio.Task[None]:
        """Cancel all that it left; nothing that it still does has any effect."""
        self.alive = False
        self.client.die()
        self.engine_lane.stopped = self.user_lane.stopped = 0
        self.node.crash()
        if self.worker is not None:
            self.worker.close()
        self.main.cancel()
        return self.main

    # What programs ask of it (``programs.Hooks``).

    def seen(self, run: str, what: str, step: str = "", attempt: int = 0, value: str = "") -> None:
        if self.alive:
            world = self.world
            world.ledger.add(
                Seen(
                    world.ledger.next_order,
                    world.loop.now_ms(),
                    self.name,
                    run,
                    what,
                    step,
                    attempt,
                    value,
                )
            )

    async def die(self) -> None:
        if self.alive and self.world.may("died of a step", self.name):
            self.world.kill(self)
            await asyncio.get_running_loop().create_future()

    async def block(self, seconds: float) -> None:
        if self.alive and self.world.may("blocked", self.name):
            self.user_lane.stopped += 1
            self.world.later(seconds, self._unblock)
            await asyncio.sleep(0)

    def _unblock(self) -> None:
        self.user_lane.stopped = max(0, self.user_lane.stopped - 1)

    def flaky(self, run: str, step: str, attempt: int) -> random.Random:
        return random.Random(f"{self.world.seed}/{run}/{step}/{attempt}")

    # What the world sees of it.

    def owner(self, partition: int) -> Owner | None:
        """Return the owner of a partition that is running here."""
        owner = self.node.owners.get(partition)
        return owner if owner is not None and owner.running else None

    def settled(self, owner: Owner) -> bool:
        """Say whether a partition has nothing left to do."""
        state, world = owner.state, self.world
        return (
            not len(state.runs)
            and not state.debounces
            and all(cron.due_ms > owner.now_ms() + HOUR_MS for cron in state.crons.values())
            and not any(state.unsent.values())
            and state.seq == owner.confirmed_seq
            # Noted in the journal, too: that may take a while.
            and all(
                state.positions.get((topic, p), (0, 0))[0] >= world.store.topics[topic][p].end
                for topic, p in [
                    (INBOX, state.number),
                    *((EVENTS, p) for p in range(world.events)),
                ]
            )
        )
