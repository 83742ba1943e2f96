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
