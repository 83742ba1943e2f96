"""An engine under fire, and the one question of all live properties: does it still work?

A ``Scenario`` runs the whole engine in virtual time on the memory log; one lives for an example
and costs a few milliseconds. Besides the functions of a test its app has ``ordinary`` ones.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import stepfold
from stepfold_engine.log.base import DEAD_LETTERS, Record
from stepfold_schemas.ids import partition_of, ulid_text
from tests.behaviour.scenario import RunRecord, Scenario, Variant

MINUTES_MAX = 150.0
"""How much virtual time anything may take that is not meant to wait."""

HOT, REPLAYED = Variant("memory", False, 1), Variant("memory", True, 1)
THREE = Variant("memory", False, 3)
BOTH = [HOT, REPLAYED]

_NOWHERE = Path("/nonexistent")  # the memory log needs no folder


def new_app() -> stepfold.App:
    """Return an app with the ordinary functions, to which a test adds its own."""
    app = stepfold.App("t")

    @app.function("child")
    async def child(ctx: stepfold.Context) -> int:
        return int(ctx.event.data["n"]) + 1

    @app.function("ordinary", on="ordinary/go")
    async def ordinary(ctx: stepfold.Context) -> int:
        n = await ctx.step.run("one", lambda: int(ctx.event.data["n"]) + 1)
        await ctx.step.sleep("nap", "1s")
        return await ctx.step.invoke("two", function=child, data={"n": n})

    return app


@contextmanager
def engine(
    app: stepfold.App, variant: Variant = HOT, *, check: bool = True, **settings: Any
) -> Iterator[Scenario]:
    """Run an engine while the block runs; behind it every partition must still do its work."""
    s = Scenario(variant, app, _NOWHERE, settings)
    try:
        s.start()
    except BaseException:
        # Its functions were refused: there is nothing to stop.
        s.loop.close()
        raise
    try:
        yield s
        if check:
            goes_on(s)
    finally:
        s.close()


def goes_on(s: Scenario, partitions: list[int] | None = None) -> None:
    """Let an ordinary event start a run in each partition, and see all of them to their end."""
    count = s.variant.partitions
    before = set(s.runs)
    wanted = list(range(count)) if partitions is None else partitions
    for number in wanted:
        s.send("ordinary/go", {"n": number}, id=id_at_home_in(number, count, len(s.runs)))

    def ended() -> list[RunRecord]:
        runs = [r for r in s.of("ordinary") if r.id not in before]
        return [r for r in runs if r.end is not None]

    until(s, lambda: len(ended()) == len(wanted))
    assert sorted(r.result for r in ended()) == sorted(n + 2 for n in wanted)


def until(s: Scenario, found: Any, minutes: float = MINUTES_MAX) -> None:
    """Run until this holds; if it never does, say what the engine died of, if it did."""
    try:
        s.until(found, minutes)
    except TimeoutError:
        main = s._main
        if main is not None and main.done() and not main.cancelled():
            main.result()
        stopped = s.node.stopped_partitions
        where = [[str(r.status), r.function, r.steps] for r in s.runs.values()]
        raise AssertionError(f"it is stuck; stopped: {stopped}; runs: {where}"[:2_000]) from None


def ended_run(
    s: Scenario, function: str, index: int = 0, minutes: float = MINUTES_MAX
) -> RunRecord:
    """Run until a run of the function has ended, or was stopped; return it."""

    def found() -> bool:
        runs = s.of(function)
        return len(runs) > index and runs[index].status != "running"

    until(s, found, minutes)
    return s.of(function)[index]


def dead_letters(s: Scenario) -> list[Record]:
    """Return all records of the dead letters."""

    async def read() -> list[Record]:
        found: list[Record] = []
        for partition in range(s.variant.partitions):
            found += (await s.log.read(DEAD_LETTERS, partition, 0, bytes_max=1 << 40)).records
        return found

    return s.do(read())


def settle(s: Scenario) -> None:
    """Let everything happen that happens at once."""
    s.do(asyncio.sleep(5))


def id_at_home_in(partition: int, count: int, salt: int) -> str:
    """Return an id for an event whose home is this partition of so many."""
    for n in range(10_000):
        text = f"ordinary-{salt}-{ulid_text(n.to_bytes(16, 'big'))}"
        if partition_of(text, count) == partition:
            return text
    raise AssertionError("no such id")
