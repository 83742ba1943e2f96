"""Orders of events that broke drafts of the design, each played by several processes on one log.

The names say which schedule. Those that one process shows are in ``tests/behaviour``.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import stepfold
from stepfold_engine.errors import LogError
from stepfold_engine.log.base import EVENTS, JOURNAL
from stepfold_engine.settings import Settings
from stepfold_schemas import codec
from stepfold_schemas.entries import (
    Decision,
    Entry,
    EventMatched,
    PartitionClaimed,
    RunCancelled,
    RunCompleted,
    RunStarted,
)
from stepfold_schemas.events import Event
from tests.simulation.auditor import Setup, audit
from tests.simulation.ledger import Written
from tests.simulation.life import Life
from tests.simulation.world import Shape, World

PLAIN = Shape(
    processes=2,
    partitions=2,
    events=1,
    always_replay=False,
    idle_max=1000,
    round_records=10_000,
    keep_ms=10**9,
    positions_every_inputs=1,
    rolling=False,
)


ACTIVE = 4_000


class Town(World):
    """A world in which a test says what happens."""

    def __init__(self, make: Callable[[Life], stepfold.App], shape: Shape = PLAIN) -> None:
        super().__init__(0, shape=shape)
        self.make = make
        self.script: Callable[[], Awaitable[None]]

    def app_for(self, life: Life) -> stepfold.App:
        return self.make(life)

    async def _run(self) -> bool:
        for number in range(self.shape.processes):
            self.begin("abc"[number])
        while not self.declared:
            await asyncio.sleep(0.05)
        await self.script()
        return await self._settle()

    def life(self, member: str) -> Life:
        return self._current[member]

    def owner_of(self, partition: int) -> Life:
        return self._current[self.group.owners[partition]]

    async def send(self, name: str, *ids: str, by: str = "a") -> None:
        """Publish an event for each id, or one; a sender whose append fails sends them again."""
        events = [Event(name, b"{}", id_) for id_ in ids or [""]]
        while True:
            with self.loop.lane(self.life(by).engine_lane):
                task = self.loop.create_task(self.life(by).node.publish(events))
            try:
                await task
            except LogError:
                await asyncio.sleep(0.1)
            else:
                return

    def entries(self) -> list[Entry]:
        return [
            entry
            for one in self.ledger.happenings
            if isinstance(one, Written) and one.topic == JOURNAL
            for entry in codec.decode_decision(one.value).entries
        ]

    def play(self, script: Callable[[], Awaitable[None]]) -> list[Entry]:
        """Run the script to its end; return what was recorded once every promise is checked."""
        self.script = script
        outcome = self.run()
        assert outcome.settled, outcome.unsettled
        self.ledger = outcome.ledger
        broken = audit(outcome.ledger, Setup(self.shape.partitions, outcome.skew_ms))
        assert not broken, broken
        return self.entries()


def waiting(life: Life) -> stepfold.App:
    app = stepfold.App("sim")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> bool:
        return await ctx.step.wait_for_event("paid", event="t/paid", timeout="1m") is not None

    return app


def stepping(life: Life) -> stepfold.App:
    app = stepfold.App("sim")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        for n in range(3):
            await ctx.step.run("work", _slow, n)
            await ctx.step.sleep("rest", "2s")
        return 3

    return app


async def _slow(value: int) -> int:
    await asyncio.sleep(0.5)
    return value


def kinds(entries: list[Entry]) -> Counter[str]:
    return Counter(type(entry).__name__ for entry in entries)


def test_s1_a_decision_is_whole_or_not_there_when_batches_are_cut() -> None:
    town = Town(stepping)

    async def script() -> None:
        town.weather.split, town.weather.cut = 0.5, 0.2
        for n in range(20):
            await town.send("t/go", f"id-{n}", by="a")
        town.kill(town.life("b"), 1.0)
        await asyncio.sleep(30)

    entries = town.play(script)
    started = {e.run for e in entries if isinstance(e, RunStarted)}
    assert len(started) == 20
    assert {e.run for e in entries if isinstance(e, RunCompleted)} == started


def test_s7_a_wait_gets_the_event_although_the_owner_lags_behind() -> None:
    town = Town(waiting)

    async def script() -> None:
        await town.send("t/go")
        await asyncio.sleep(1)
        for member in "ab":
            town.life(member).client.lag_s[EVENTS, 0] = 600.0
        await town.send("t/paid")
        await asyncio.sleep(1200)

    found = kinds(town.play(script))
    assert found["EventMatched"] == 1
    assert not found["WaitTimedOut"]


def test_s11_a_run_waits_for_a_process_that_can_run_it() -> None:
    def make(life: Life) -> stepfold.App:
        app = stepping(life)
        if life.member == "b" or life.world.calm:

            @app.function("f2", on="t/new")
            async def f2(ctx: stepfold.Context) -> str:
                return "done"

        return app

    town = Town(make, replace(PLAIN, processes=1, partitions=4))

    async def script() -> None:
        town.begin("b")
        await asyncio.sleep(5)
        for n in range(8):
            await town.send("t/new", f"n{n}")
        await asyncio.sleep(5)
        unserved = town.life("a").node.native.unserved
        assert unserved, "the older process shows what waits for a newer one"
        for partition in range(4):
            town.group.move(partition, "b")
        await asyncio.sleep(5)

    found = kinds(town.play(script))
    assert found["RunCompleted"] == 8


def test_s19_no_run_fails_because_its_process_is_killed_again_and_again() -> None:
    town = Town(stepping, replace(PLAIN, processes=1))
    town.settings = town.settings.model_copy(update={"deaths_max": Settings().deaths_max})

    async def script() -> None:
        await town.send("t/go", *(f"id-{n}" for n in range(ACTIVE)))
        for _ in range(3):
            town.kill(town.life("a"), 0.1)
            await asyncio.sleep(0.1 + 0.7)
        await asyncio.sleep(60)

    found = kinds(town.play(script))
    assert found["RunCompleted"] == ACTIVE
    assert not found["RunFailed"]


def test_s21_who_is_fenced_asks_the_group_and_stays_quiet() -> None:
    town = Town(stepping)

    async def script() -> None:
        for n in range(6):
            await town.send("t/go", f"id-{n}")
        town.life("a").pause()
        town.group.leave("a")
        await asyncio.sleep(20)
        town.life("a").go_on()
        await asyncio.sleep(60)

    claims = [e for e in town.play(script) if isinstance(e, PartitionClaimed)]
    assert len(claims) == 3, "two at the start, one for the partition that was taken over"


def test_s29_a_void_record_at_the_end_names_a_place_that_was_trimmed() -> None:
    def make(life: Life) -> stepfold.App:
        app = waiting(life)

        @app.function("work", on="t/work")
        async def work(ctx: stepfold.Context) -> int:
            return await ctx.step.run("work", lambda: 1)

        return app

    town = Town(make, replace(PLAIN, round_records=8, keep_ms=0))

    def last(partition: int) -> Decision:
        return codec.decode_decision(town.store.topics[JOURNAL][partition].records[-1].value)

    def is_zombies(partition: int) -> bool:
        owner = town.life("b").node.owners.get(partition)
        return owner is not None and last(partition).epoch < owner.state.epoch

    async def script() -> None:
        zombie = town.life("a")
        (partition,) = zombie.node.owners
        named = last(partition).fold_from
        zombie.pause()
        town.group.leave("a")
        await asyncio.sleep(10)
        for n in range(20):
            await town.send("t/go", f"id-{n}", by="b")
        for n in range(100):
            await town.send("t/work", f"work-{n}", by="b")
        await asyncio.sleep(5)
        assert town.store.topics[JOURNAL][partition].start > named, "trimmed meanwhile"
        zombie.go_on()
        while not is_zombies(partition):
            await asyncio.sleep(0.001)
        for member in "ab":
            town.kill(town.life(member), 1.0)
        assert last(partition).fold_from == named
        await asyncio.sleep(20)
        await town.send("t/paid")

    found = kinds(town.play(script))
    assert found["RunCompleted"] == 20 + 100
    assert found["WaitTimedOut"] == 0


def test_s30_the_owner_dies_in_the_middle_of_a_round_again_and_again() -> None:
    town = Town(stepping, replace(PLAIN, round_records=8, keep_ms=0))

    async def script() -> None:
        for n in range(40):
            await town.send("t/go", f"id-{n}", by=town.owner_of(0).member)
            if n % 5 == 4:
                town.kill(town.owner_of(n % 2), 0.3)
                await asyncio.sleep(1.0)
        await asyncio.sleep(30)

    found = town.play(script)
    assert kinds(found)["PartitionRestated"] > kinds(found)["RoundFinished"] > 2
    assert len({e.run for e in found if isinstance(e, RunCompleted)}) == 40


def test_s31_an_id_is_remembered_by_the_machine_that_takes_over() -> None:
    town = Town(stepping, replace(PLAIN, round_records=8, keep_ms=0))

    async def script() -> None:
        for n in range(10):
            await town.send("t/go", f"id-{n}")
        await asyncio.sleep(60)
        town.kill(town.life("a"), 1e6)
        await asyncio.sleep(3600)
        for n in range(10):
            await town.send("t/go", f"id-{n}", by="b")
        await asyncio.sleep(60)

    assert len({e.run for e in town.play(script) if isinstance(e, RunStarted)}) == 10


def test_s33_two_versions_declare_at_once_and_one_of_them_dies() -> None:
    def make(life: Life) -> stepfold.App:
        app = stepfold.App("sim")

        @app.function("f", on="t/go", version=f"of-{life.member}")
        async def f(ctx: stepfold.Context) -> None:
            return None

        return app

    town = Town(make, replace(PLAIN, partitions=4))

    async def script() -> None:
        town.kill(town.life("b"), 20.0)
        await asyncio.sleep(60)
        lists = {
            tuple(f.version for f in owner.state.functions.values())
            for owner in town.life("a").node.owners.values()
        } | {
            tuple(f.version for f in owner.state.functions.values())
            for owner in town.life("b").node.owners.values()
        }
        assert len(lists) == 1, "all partitions hold the same list"

    town.play(script)


def test_s40_a_request_is_answered_by_the_owner_whatever_a_zombie_wrote() -> None:
    town = Town(waiting)
    answers: list[str] = []

    async def script() -> None:
        for n in range(6):
            await town.send("t/go", f"id-{n}")
        await asyncio.sleep(1)
        run = next(e.run for e in town.entries() if isinstance(e, RunStarted))
        zombie = town.owner_of(0 if run[6:] in town.owner_of(0).node.owners[0].state.runs else 1)
        other = "b" if zombie.member == "a" else "a"
        zombie.pause()
        town.group.leave(zombie.member)
        await town.send("t/other", by=other)
        await asyncio.sleep(5)
        zombie.go_on()
        with town.loop.lane(town.life(other).engine_lane):
            asked = town.loop.create_task(town.life(other).node.cancel(run, "asked to"))
        await asked
        answers.append("cancelled")
        await asyncio.sleep(120)

    entries = town.play(script)
    assert answers == ["cancelled"]
    assert len([e for e in entries if isinstance(e, RunCancelled)]) == 1
    assert not [e for e in entries if isinstance(e, EventMatched)]
