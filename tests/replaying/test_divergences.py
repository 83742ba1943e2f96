"""Each kind of change in the code has a report that a person can read: what, where, what helps."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import stepfold
from stepfold import Context
from stepfold_engine.replaying.machine import Machine, story_of
from stepfold_engine.replaying.verdicts import Verdict, judge
from stepfold_schemas.runfile import ExportedRun
from tests.behaviour.scenario import Variant, scenario
from tests.replaying.shop import exported

Code = Callable[[Context], Awaitable[Any]]


async def work(value: Any = None) -> Any:
    return value


def app_of(code: Code) -> stepfold.App:
    app = stepfold.App("shop")
    app.function("order", on="shop/order", retries=0)(code)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType, reportCallIssue]
    return app


def recorded(code: Code, folder: Path, seconds: float = 0) -> ExportedRun:
    """Run code on an engine; return the run: ended, or as far as it came in some time."""
    with scenario(Variant("embedded", False, 1), app_of(code), folder) as s:
        run = s.start_run("shop/order", {"amount": 7})
        if seconds:
            s.advance(seconds)
        else:
            s.ended(run)
    return exported(folder, run.id)[0]


def judged(run: ExportedRun, code: Code) -> Verdict:
    machine = Machine(app_of(code).functions)
    try:
        return judge(machine, story_of(run))
    finally:
        machine.close()


def line_at(verdict: Verdict) -> str:
    """Return the line of source that a verdict points to."""
    file, _, line = verdict.place.rpartition(":")
    return Path(file).read_text().splitlines()[int(line) - 1]


async def charge_reserve_ship(ctx: Context) -> str:
    await ctx.step.run("charge", work, 1)
    await ctx.step.run("reserve", work, 2)
    await ctx.step.run("ship", work, 3)
    return "shipped"


def diverged(folder: Path, before: Code, after: Code, seconds: float = 0) -> Verdict:
    verdict = judged(recorded(before, folder, seconds), after)
    assert verdict.verdict == "diverges", verdict
    assert verdict.advice
    return verdict


def test_the_same_code(tmp_path: Path) -> None:
    assert judged(recorded(charge_reserve_ship, tmp_path), charge_reserve_ship).verdict == "same"


def test_a_renamed_step(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.run("put aside", work, 2)
        await ctx.step.run("ship", work, 3)
        return "shipped"

    verdict = diverged(tmp_path, charge_reserve_ship, after)
    assert verdict.step == "reserve"
    assert "put aside" in line_at(verdict)
    assert verdict.text == (
        "'reserve' is nowhere in the code any more; in its place there is 'put aside'"
    )
    assert "If it is the same step, keep its name" in verdict.advice


def test_a_removed_step(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.run("reserve", work, 2)
        return "shipped"

    verdict = diverged(tmp_path, charge_reserve_ship, after)
    assert (verdict.step, verdict.text) == ("ship", "'ship' is nowhere in the code any more")
    assert "Keep it for the runs that did it" in verdict.advice


def test_a_removed_step_in_the_middle(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.run("ship", work, 3)
        return "shipped"

    verdict = diverged(tmp_path, charge_reserve_ship, after)
    assert verdict.step == "reserve"
    assert "'reserve'" in verdict.text
    assert '"ship"' in line_at(verdict)


def test_reordered_steps(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.run("ship", work, 3)
        await ctx.step.run("reserve", work, 2)
        return "shipped"

    verdict = diverged(tmp_path, charge_reserve_ship, after)
    assert verdict.step == "reserve"
    assert verdict.text == (
        "the run did step 'reserve' before 'ship'; now the code waits for 'ship' first"
    )
    assert '"ship"' in line_at(verdict)
    assert "Keep the order of steps" in verdict.advice


def test_an_added_step_in_the_middle(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.run("audit", work, 1)
        await ctx.step.run("reserve", work, 2)
        await ctx.step.run("ship", work, 3)
        return "shipped"

    verdict = diverged(tmp_path, charge_reserve_ship, after)
    assert verdict.text == "'audit' is new, and comes before 'reserve', which the run did next"
    assert '"audit"' in line_at(verdict)
    assert "Put new steps behind the old ones" in verdict.advice


def test_an_added_step_at_the_end_is_no_divergence(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        result = await charge_reserve_ship(ctx)
        await ctx.step.run("notify", work, 4)
        return result

    verdict = judged(recorded(charge_reserve_ship, tmp_path), after)
    assert (verdict.verdict, verdict.step) == ("new-steps", "notify")
    assert '"notify"' in line_at(verdict)
    assert verdict.text == "the run completed: \"shipped\"; the code then goes on with 'notify'"


async def two_pings(ctx: Context) -> str:
    for number in range(2):
        await ctx.step.run("ping", work, number)
    await ctx.step.run("done", work)
    return "ok"


async def three_pings(ctx: Context) -> str:
    for number in range(3):
        await ctx.step.run("ping", work, number)
    await ctx.step.run("done", work)
    return "ok"


def test_a_loop_that_goes_round_less_often(tmp_path: Path) -> None:
    verdict = diverged(tmp_path, three_pings, two_pings)
    assert verdict.step == "ping:2"
    assert verdict.text == (
        "the run used 'ping' 3 times, the code asks for it twice: a loop around it goes round"
        " less often"
    )
    assert '"done"' in line_at(verdict)


def test_a_loop_that_goes_round_more_often(tmp_path: Path) -> None:
    verdict = diverged(tmp_path, two_pings, three_pings)
    assert verdict.step == "done"
    assert verdict.text == (
        "the run used 'ping' twice, the code asks for it once more before 'done': a loop around"
        " it goes round more often"
    )
    assert '"ping"' in line_at(verdict)


async def by_amount(ctx: Context) -> str:
    if ctx.event.data["amount"] < 10:
        await ctx.step.run("wave through", work)
    else:
        await ctx.step.run("inspect", work)
    return "ok"


def test_a_changed_branch(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        if ctx.event.data["amount"] < 5:
            await ctx.step.run("wave through", work)
        else:
            await ctx.step.run("inspect", work)
        return "ok"

    verdict = diverged(tmp_path, by_amount, after)
    assert verdict.step == "wave through"
    assert '"inspect"' in line_at(verdict)
    assert verdict.text == (
        "the run came to 'wave through'; now a condition leads the code to 'inspect'"
    )


def test_a_branch_that_is_skipped(tmp_path: Path) -> None:
    async def before(ctx: Context) -> str:
        if ctx.event.data["amount"] > 5:
            await ctx.step.run("inspect", work)
        return "ok"

    async def after(ctx: Context) -> str:
        if ctx.event.data["amount"] > 50:
            await ctx.step.run("inspect", work)
        return "ok"

    verdict = diverged(tmp_path, before, after)
    assert verdict.text == (
        "the run came to 'inspect'; now a condition leads the code past it, to the end"
    )


async def side_by_side(ctx: Context) -> list[int]:
    one, two = ctx.step.run("slow", slow, 1), ctx.step.run("quick", work, 2)
    return list(await asyncio.gather(one, two, ctx.step.run("last", slow, 3)))


async def slow(value: int) -> int:
    await asyncio.sleep(value)
    return value


def test_another_order_in_a_gather_is_no_divergence(tmp_path: Path) -> None:
    async def after(ctx: Context) -> list[int]:
        last, quick, first = await asyncio.gather(
            ctx.step.run("last", slow, 3),
            ctx.step.run("quick", work, 2),
            ctx.step.run("slow", slow, 1),
        )
        return [first, quick, last]

    assert judged(recorded(side_by_side, tmp_path), after).verdict == "same"


def test_a_gather_that_became_one_after_the_other(tmp_path: Path) -> None:
    async def after(ctx: Context) -> list[int]:
        first = await ctx.step.run("slow", slow, 1)
        second = await ctx.step.run("quick", work, 2)
        return [first, second, await ctx.step.run("last", slow, 3)]

    verdict = diverged(tmp_path, side_by_side, after)
    assert verdict.step == "quick"
    assert verdict.text == (
        "the run did step 'quick' before 'slow'; now the code waits for 'slow' first"
    )
    assert "asyncio.gather, must be asked for together" in verdict.advice


CLOCK = itertools.count()


def test_time_or_chance_outside_steps(tmp_path: Path) -> None:
    async def code(ctx: Context) -> str:
        # As datetime.now() or random() would: another value each time.
        await ctx.step.run("even" if next(CLOCK) % 2 == 0 else "odd", work)
        return "ok"

    run = recorded(code, tmp_path)
    while next(CLOCK) % 2 != 0:
        pass
    verdict = judged(run, code)
    assert verdict.verdict == "diverges"
    assert verdict.step == "even"
    assert "the function's code is the same as then" in verdict.text
    assert "it asks for 'odd'" in verdict.text
    assert "ctx.now(), ctx.random() or ctx.uuid()" in verdict.advice
    assert '"odd"' in line_at(verdict)


def test_another_kind_under_the_same_name(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        await ctx.step.sleep("charge", "1s")
        return "?"

    verdict = diverged(tmp_path, charge_reserve_ship, after)
    assert verdict.text == "'charge' was a step then and is a sleep now"


def test_a_run_that_waits_still_and_code_that_no_longer_does(tmp_path: Path) -> None:
    async def before(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        await ctx.step.wait_for_event("packed", event="shop/packed", timeout="7d")
        return "ok"

    async def after(ctx: Context) -> str:
        await ctx.step.run("charge", work, 1)
        return "ok"

    verdict = diverged(tmp_path, before, after, seconds=60)
    assert (verdict.status, verdict.step) == ("unfinished", "packed")


def test_code_that_raises_where_it_did_not(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        result = await ctx.step.run("charge", work, 1)
        return result["id"]

    verdict = judged(recorded(charge_reserve_ship, tmp_path), after)
    assert verdict.verdict == "raises"
    assert 'return result["id"]' in line_at(verdict)
    assert re.match(r"raises TypeError: .*; the run completed", verdict.text)


def test_another_result(tmp_path: Path) -> None:
    async def after(ctx: Context) -> str:
        return (await charge_reserve_ship(ctx)).upper()

    verdict = judged(recorded(charge_reserve_ship, tmp_path), after)
    assert (verdict.verdict, verdict.text) == (
        "other-end",
        'returns "SHIPPED"; the run completed: "shipped"',
    )


def test_a_function_that_is_gone(tmp_path: Path) -> None:
    run = recorded(charge_reserve_ship, tmp_path)
    machine = Machine({})
    try:
        assert judge(machine, story_of(run)).verdict == "same"
    finally:
        machine.close()


@pytest.mark.parametrize("name", ["charge", "reserve"])
def test_names_that_are_put_together_count_as_known(tmp_path: Path, name: str) -> None:
    async def before(ctx: Context) -> str:
        for what in ("charge", "reserve"):
            await ctx.step.run(f"do {what}", work)
        return "ok"

    async def after(ctx: Context) -> str:
        for what in ("charge", "audit", "reserve"):
            if what != name:
                await ctx.step.run(f"do {what}", work)
        return "ok"

    verdict = diverged(tmp_path, before, after)
    assert "nowhere in the code" not in verdict.text
