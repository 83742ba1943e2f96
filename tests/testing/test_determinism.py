"""assert_deterministic: finds code outside steps that wavers, and says where."""

import random
import time
import warnings
from typing import Any

import pytest

import stepfold
from stepfold.testing import (
    Environment,
    NotDeterministicError,
    NotTriedWarning,
    assert_deterministic,
)
from tests.testing.wavering import app

HERE = ["hash-seed"]
"""Left out where this process is enough: other processes take a second."""


def findings_of(story: Any, without: list[str] = HERE) -> NotDeterministicError:
    with pytest.raises(NotDeterministicError) as found:
        assert_deterministic(app, story, without=without)
    return found.value


def test_steady_code_passes_under_all_conditions() -> None:
    def story(env: Environment) -> None:
        run = env.send("steady", {"n": 1}).run
        env.finish(run)
        assert run.result[1][-2:] == ["OSError: no", "late"] or run.status == "completed"

    assert_deterministic(app, story)


@pytest.mark.parametrize(
    ("function", "says", "uses"),
    [
        ("random-argument", "'charge' is not what it was", "random.randint() at"),
        ("random-branch", "expected: step 'step 0.", "random.random() at"),
        ("random-id", "it ends otherwise", "uuid.uuid4() at"),
        ("event-data", "'tell' is not what it was", "time.time_ns() at"),
        ("year", "when it is replayed at another time: it ends otherwise", "date.today() at"),
        ("sleeps-until", "'later' is not what it was", "time.perf_counter_ns() at"),
        ("setting", "expected: step 'go'; met: step 'approve'", "os.environ['WAVERING_LIMIT'] at"),
        ("counter", "expected: step 'count ", ""),
    ],
)
def test_code_that_wavers_is_found_and_named(function: str, says: str, uses: str) -> None:
    error = findings_of(function)
    assert says in str(error)
    assert uses in str(error)
    assert {finding.function for finding in error.findings} == {f"w-{function}"}
    if uses:
        assert f"{uses} tests/testing/wavering.py:" in str(error)


def test_a_divergence_names_the_line() -> None:
    assert "met: step 'step 0." in str(findings_of("random-branch"))
    assert "wavering.py:" in findings_of("random-branch").findings[0].text


def test_another_time_is_another_day() -> None:
    """A clock that has only moved on by milliseconds would not show it."""
    story = {"name": "hour", "data": {"limit": time.time() + 86_400}}
    assert "- returns 'before'\n  + returns 'after'" in str(findings_of(story))
    assert_deterministic(app, story, without=["hash-seed", "time"])


def test_a_setting_may_be_left_alone() -> None:
    assert_deterministic(app, "setting", without=["hash-seed", "environment"])


def test_the_order_of_a_set_is_found_with_another_hash_seed() -> None:
    error = findings_of("set-order", without=[])
    assert "with another hash seed (PYTHONHASHSEED=" in str(error)
    assert "wavering.py:" in str(error)
    assert_deterministic(app, "set-order", without=HERE)


def test_the_machines_time_zone_is_found() -> None:
    assert "TZ=" in str(findings_of("zone", without=[]))


def test_a_function_in_a_test_cannot_be_tried_with_other_hash_seeds_and_says_so() -> None:
    local = stepfold.App("local")

    @local.function("f", on="f")
    async def f(ctx: stepfold.Context) -> float:
        await ctx.step.sleep("nap", "1h")
        return random.random() if ctx.event.data.get("wavers") else 1

    with pytest.warns(
        NotTriedWarning, match=r"local-f is defined inside test_a_function_in_a_test"
    ):
        assert_deterministic(f, "f")
    with pytest.raises(NotDeterministicError, match="it ends otherwise"):
        assert_deterministic(f, {"name": "f", "data": {"wavers": True}}, without=HERE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_deterministic(f, "f", without=HERE)
        assert_deterministic(f, "f", hash_seeds=0)


def test_bodies_run_once_and_nothing_is_sent_by_replays() -> None:
    local, ran, sent = stepfold.App("local"), list[int](), list[int]()

    def body() -> float:
        ran.append(1)
        return random.random()

    async def sends() -> None:
        sent.append(1)

    @local.function("f", on="f")
    def f(ctx: stepfold.SyncContext) -> list[Any]:
        value = ctx.step.run("body", body)
        ctx.step.run("sends", sends)
        ctx.step.sleep("nap", "1h")
        return [value]

    assert_deterministic(f, "f", without=HERE, fresh=ran.clear)
    assert (len(ran), len(sent)) == (1, 1)


def test_failures_cancellations_and_unfinished_runs_are_compared_too() -> None:
    local = stepfold.App("local")
    stop = stepfold.CancelOn("stop")

    @local.function("f", on="f", retries=1, cancel_on=stop)
    async def f(ctx: stepfold.Context) -> None:
        await ctx.step.sleep("nap", "1h")
        if ctx.event.data["how"] == "raises":
            raise ValueError(f"attempt {ctx.attempt}")
        await ctx.step.wait_for_event("never", event="never", timeout="10d")

    @f.on_failure
    async def tell(ctx: stepfold.Context) -> str:
        return str(ctx.event.data["error"]["message"])

    def story(env: Environment) -> None:
        raises = env.send("f", {"how": "raises"}).run
        env.send("f", {"how": "waits"})
        env.at("2h").send("stop")
        env.advance("3h")
        env.send("f", {"how": "waits"})
        assert [run.status for run in env.runs] == ["failed", "cancelled", "completed", "waiting"]
        assert str(raises.error) == "ValueError: attempt 2"

    assert_deterministic(local, story, without=HERE)


def test_what_may_be_left_out_is_checked() -> None:
    with pytest.raises(ValueError, match=r"there is no \['tme'\]"):
        assert_deterministic(app, "steady", without=["tme"])


def test_a_story_that_fails_is_the_tests_own() -> None:
    def story(_: Environment) -> None:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        assert_deterministic(app, story, without=HERE)
