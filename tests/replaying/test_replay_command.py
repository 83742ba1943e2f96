"""``stepfold replay``: the timeline, other code, what if, and going on live."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.replaying.program import Program, make


@pytest.fixture
def shop(tmp_path: Path) -> Program:
    return make(tmp_path)


def ran() -> list[Any]:
    """Return the bodies that ran since the app was loaded last."""
    found: list[Any] = sys.modules["stepfold_app_app" if "app" not in sys.modules else "app"].RAN
    return found


def test_a_run_is_told_step_by_step_and_nothing_is_executed(shop: Program) -> None:
    told = shop.says(0, "replay", shop.run("order", 9), shop.file)
    assert "of shop-fulfil" in told
    assert 'then: completed: {"share":-6}' in told
    assert "the function's code is the same as then" in told
    lines = [line.split() for line in told.splitlines() if "app.py:" in line]
    assert [line[:4] for line in lines] == [
        ["+0", "ms", "step", "charge"],
        ["+1", "h", "sleep", "cool"],
        ["+1", "h", "step", "reserve"],
        ["+1", "h", "step", "tell"],
    ]
    assert '{"payment": "pay-9", "amount": 12}' in told
    source = (shop.folder / "app.py").read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(source) if 'run("charge", charge' in line)
    assert f"app.py:{number}" in told
    assert 'returns {"share":-6}, as it did then' in told
    assert ran() == []


def test_verbose_tells_asks_values_and_logs(
    shop: Program, caplog: pytest.LogCaptureFixture
) -> None:
    run = shop.run("order", 9)
    caplog.clear()
    shop.says(0, "replay", run, shop.file)
    assert "charged 9" not in caplog.text
    told = shop.says(0, "replay", run, shop.file, "-v")
    assert "asks for step charge" in told
    assert "charged 9" in caplog.text


def test_a_plain_function_is_replayed_in_its_thread(shop: Program) -> None:
    told = shop.says(0, "replay", shop.run("plain", 3), shop.file)
    assert 'returns {"total":19}, as it did then' in told
    source = (shop.folder / "app.py").read_text().splitlines()
    number = 1 + next(
        i
        for i, line in enumerate(source)
        if 'ctx.step.run("reserve"' in line and "await" not in line
    )
    assert f"app.py:{number}" in told


def test_a_run_that_failed_fails_again(shop: Program) -> None:
    told = shop.says(0, "replay", shop.run("order", 7), shop.file)
    assert "raises ZeroDivisionError: integer division or modulo by zero, as it did then" in told


def test_the_fix_is_tried_on_the_run_that_failed(shop: Program) -> None:
    run = shop.run("order", 7)
    shop.change("(shelf - order)", "max(shelf - order, 1)")
    told = shop.says(1, "replay", run, shop.file)
    assert "the function's code is other than then" in told
    assert "goes on with step 'tell'" in told
    assert "then, it ended here" in told


def test_code_that_diverges_is_told_with_cause_and_advice(shop: Program) -> None:
    run = shop.run("order", 9)
    shop.change('"reserve", reserve)\n    share', '"put aside", reserve)\n    share')
    told = shop.says(1, "replay", run, shop.file)
    assert "diverges at step 'reserve'" in told
    assert "the run did      step 'reserve'" in told
    assert "the code is at   step 'put aside'" in told
    assert "'put aside'" in told
    assert "likely: " in told
    assert "as far as recorded outcomes reach, it now comes to step 'put aside'" in told


def test_an_earlier_attempt_of_the_code_can_be_replayed(shop: Program) -> None:
    shop.change('"fulfil", on="shop/order", retries=0', '"fulfil", on="shop/order", retries=2')
    run = shop.run("order", 7)
    told = shop.says(0, "replay", run, shop.file, "--attempt", "1")
    assert "raises ZeroDivisionError" in told
    assert "as it did then" in told
    said = shop.says(2, "replay", run, shop.file, "--attempt", "9")
    assert "attempt 9: the function's code was tried 3 times" in said


# What if.


def test_what_if_a_step_had_given_something_else(shop: Program) -> None:
    run = shop.run("order", 7)
    told = shop.says(0, "replay", run, shop.file, "--set", "reserve=9")
    assert "what if: step 'reserve' gives 9 instead of 7" in told
    assert "then: failed: ZeroDivisionError" in told
    assert "first difference: step 'tell'" in told
    assert "now: it comes to step 'tell'" in told
    assert "of which nothing is recorded" in told


def test_what_if_a_later_step_gets_other_arguments(shop: Program) -> None:
    run = shop.run("order", 9)
    told = shop.says(0, "replay", run, shop.file, "--set-event", "order=8")
    assert "what if: event.data.order is 8 instead of 9" in told
    assert "first difference: step 'charge'" in told
    assert "step with (8) instead of step with (9)" in told
    assert 'now: it returns {"share":-12}' in told


def test_what_if_a_step_had_failed(shop: Program) -> None:
    told = shop.says(0, "replay", shop.run("order", 9), shop.file, "--fail", "charge=declined")
    assert "what if: step 'charge' gives an error: declined instead of" in told
    assert "first difference: sleep 'cool off'" in told
    assert "now: it raises StepError: step 'charge' failed" in told


def test_what_if_nothing_depends_on_it(shop: Program) -> None:
    told = shop.says(0, "replay", shop.run("order", 9), shop.file, "--set", "tell=[]")
    assert "first difference: none; every step is asked for as before" in told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--set", "nope=1"], "the run has no step 'nope', only: 'charge', 'cool off'"),
        (["--set", "charge"], "write STEP=VALUE"),
        (["--set", "charge={"], "--set charge: not JSON: {"),
        (["--set", "cool off=1"], "--set cool off: a sleep has no value"),
        (["--fail", "cool off=1"], "--fail cool off: a sleep does not fail"),
        (["--set-event", "data.a.b=1"], "the event has no 'a' there"),
        (["--set-event", "order"], "write PATH=JSON"),
        (["--set-event", "order=x"], "not JSON: x"),
        (["--step", "nope"], "the run has no step 'nope'"),
        (["--execute-from", "nope"], "the run has no step 'nope'"),
    ],
)
def test_a_change_that_cannot_be_made_is_told(shop: Program, change: list[str], says: str) -> None:
    assert says in shop.says(2, "replay", shop.run("order", 9), shop.file, *change)


# Going on live.


def test_a_dry_run_shows_what_would_run(shop: Program) -> None:
    run = shop.run("order", 9)
    told = shop.says(0, "replay", run, shop.file, "--execute-from", "charge", "--dry-run")
    words = [line.split()[:3] for line in told.splitlines() if "app.py:" in line]
    assert words == [
        ["run", "step", "'charge'"],
        ["no", "wait", "sleep"],
        ["run", "step", "'reserve'"],
        ["run", "step", "'tell'"],
    ]
    assert ran() == []


def test_steps_run_live_from_a_step_on(shop: Program) -> None:
    run = shop.run("order", 9)
    told = shop.says(0, "replay", run, shop.file, "--execute-from", "reserve", "--yes")
    assert ran() == [("reserve",)]
    assert "not sent: event shop/told" in told
    assert 'returns {"share":-6}' in told


def test_nobody_who_can_be_asked_means_that_nothing_runs(shop: Program) -> None:
    run = shop.run("order", 9)
    told = shop.says(2, "replay", run, shop.file, "--execute-from", "reserve")
    assert "nobody can be asked: give --yes, or see with --dry-run" in told
    assert ran() == []


# What cannot be replayed.


def test_wrong_files_are_told(shop: Program) -> None:
    run = shop.run("order", 9)
    assert "there is no such file" in shop.says(2, "replay", run, "nope.py")
    assert "cannot be read" in shop.says(2, "replay", "nope.avro", shop.file)
    assert "not a run file" in shop.says(1, "replay", shop.file, shop.file)
    shop.change('"fulfil"', '"other"')
    told = shop.says(2, "replay", run, shop.file)
    assert "the run is one of shop-fulfil, which is not in the app; there is" in told
