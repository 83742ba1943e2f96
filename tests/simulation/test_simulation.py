"""A few hundred seeds of the whole engine, and that a seed is always the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.trial import judge, simulate

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 20
CHUNKS = 15


@pytest.mark.parametrize("first", range(0, CHUNK * CHUNKS, CHUNK))
def test_seeds_keep_every_promise(first: int) -> None:
    for seed in range(first, first + CHUNK):
        verdict = judge(seed)
        assert not verdict.violations, verdict.report


@pytest.mark.parametrize("seed", [104393, 105155, 400047])
def test_a_partition_that_fails_while_it_is_told_to_end_ends(seed: int) -> None:
    """In these, the log fails in the moment in which the process's tasks are cancelled."""
    verdict = judge(seed)
    assert not verdict.violations, verdict.report


@pytest.mark.parametrize("seed", [406450, 423523])
def test_what_a_blocked_loop_does_late_does_not_count_when_its_partition_was_given_up(
    seed: int,
) -> None:
    """In these a partition goes and comes back while a body blocks the loop."""
    verdict = judge(seed)
    assert not verdict.violations, verdict.report


def test_what_a_blocked_loop_does_late_does_not_count_when_another_had_its_partition() -> None:
    """In this one another process records a step whose body has not begun in the first one."""
    verdict = judge(621568)
    assert not verdict.violations, verdict.report


@pytest.mark.parametrize("seed", [440458, 442826, 633240])
def test_an_answer_about_a_version_that_is_on_its_way_is_not_asked_for_again(seed: int) -> None:
    """In these a life is dropped while it is, and another one begins."""
    verdict = judge(seed)
    assert not verdict.violations, verdict.report


def test_the_next_attempt_begins_when_the_failure_of_the_last_one_is_durable() -> None:
    """In this one a worker asks for a run whose failure has only been decided."""
    verdict = judge(422844)
    assert not verdict.violations, verdict.report


def test_a_seed_is_the_same_under_another_hash_seed() -> None:
    """Else a seed that fails could not be looked at again."""
    verdict, _ = simulate(7)
    program = (
        "from tests.simulation.trial import simulate\n"
        "verdict, _ = simulate(7)\n"
        "print(verdict.records, verdict.virtual_s, sorted(verdict.faults.items()))"
    )
    expected = f"{verdict.records} {verdict.virtual_s} {sorted(verdict.faults.items())}"
    for hash_seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == expected
