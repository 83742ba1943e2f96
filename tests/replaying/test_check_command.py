"""``stepfold replay-check`` and ``stepfold diff``: verdicts for people and CI, and what differs."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from stepfold_engine.cli.checks import sampled
from tests.replaying.program import Program, make

pytestmark = pytest.mark.process


@pytest.fixture
def shop(tmp_path: Path) -> Program:
    return make(tmp_path)


def test_runs_that_fit_pass_and_a_run_that_diverges_fails_the_check(
    shop: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = shop.write("all", [shop.record("order", 9), shop.record("plain", 3)])
    told = shop.says(0, "replay-check", shop.file, "--runs", runs, "--processes", "1")
    assert "shop-fulfil  1 run\n  same: 1\n" in told
    shop.change('run("reserve", reserve)\n    total', 'run("put aside", reserve)\n    total')
    page, xml = shop.folder / "page.md", shop.folder / "junit.xml"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    args = ["--runs", runs, "--junit", str(xml), "--processes", "1"]
    told = shop.says(1, "replay-check", shop.file, *args)
    assert "shop-fulfil  1 run\n  same: 1\n" in told
    assert "diverges: 1  at 'reserve'" in told
    assert "app.py:" in told
    assert "put aside" in told
    assert "::error file=" in told
    suites = ET.parse(xml).getroot()
    failures = [
        case.get("classname")
        for case in suites.iter("testcase")
        if case.find("failure") is not None
    ]
    assert failures == ["shop-plain"]
    assert "| `shop-plain` | 1 | ❌ diverges |" in page.read_text()
    assert shop.says(0, "replay-check", shop.file, "-f", "shop-fulfil", *args)
    assert "nothing was checked" in shop.says(0, "replay-check", shop.file, "-f", "other", *args)


def test_new_steps_pass_unless_the_check_is_strict(shop: Program) -> None:
    run = shop.run("plain", 3)
    shop.change(
        '    return {"total": total}',
        '    ctx.step.run("more", reserve)\n    return {"total": total}',
    )
    args = ["replay-check", shop.file, "--runs", run, "--processes", "1"]
    assert "only new steps at the end: 1  at 'more'" in shop.says(0, *args)
    assert "only new steps" in shop.says(1, *args, "--strict")


def test_a_folder_is_checked_without_an_engine(shop: Program) -> None:
    shop.record("order", 9)
    folder = str(shop.folder / "log-order-9" / "log")
    told = shop.says(0, "replay-check", shop.file, "--data", folder, "--processes", "1")
    assert "same: 1" in told
    assert "--status x" in shop.says(2, "replay-check", shop.file, "--status", "x")


def test_a_sample_is_of_each_function_and_always_the_same(shop: Program) -> None:
    runs = [shop.record("order", order) for order in (8, 9, 10)] + [shop.record("plain", 3)]
    first = sampled(runs, 2)
    assert [run.function for run in first] == ["shop-fulfil", "shop-fulfil", "shop-plain"]
    assert {r.run for r in sampled(runs[::-1], 2)} == {r.run for r in first}


def test_two_runs_part_in_a_value(shop: Program) -> None:
    one, other = shop.run("order", 9), shop.run("order", 8)
    told = shop.says(1, "diff", one, other)
    assert "they part at the event" in told
    assert "data.order\n    A  9\n    B  8" in told
    assert 'payment\n    A  "pay-9"\n    B  "pay-8"' in told
    assert "share\n    A  -6\n    B  -12" in told
    found = json.loads(shop.says(1, "diff", one, other, "--json"))
    assert found["parts_at"] == "the event"
    assert "they are alike" in shop.says(0, "diff", one, one)


def test_two_runs_part_where_one_failed(shop: Program) -> None:
    told = shop.says(1, "diff", shop.run("order", 9), shop.run("order", 7))
    assert "step 'tell'" in told
    assert "only in A" in told
    assert "B  failed: ZeroDivisionError" in told
    told = shop.says(2, "diff", shop.run("order", 5), shop.run("plain", 5))
    assert "one is a run of shop-fulfil, the other of shop-plain" in told
