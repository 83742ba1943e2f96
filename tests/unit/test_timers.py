"""Timers: what is due comes in order, and what means nothing any more takes no room for long."""

import random

import pytest

from stepfold_engine.core import timers
from stepfold_engine.core.timers import Timers


def drained(given: Timers) -> tuple[list[timers.Due], list[timers.Due]]:
    return given.pop_free(10**15, 10**9), given.pop_held(10**15, 10**9)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_not_cancelled_comes_in_order_however_much_was(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "GONE_MIN", 10)
    chance, given = random.Random(seed), Timers()
    live: set[tuple[bool, timers.Due]] = set()
    for _ in range(5_000):
        due = (chance.randrange(1, 50), bytes([chance.randrange(8)]), bytes([chance.randrange(4)]))
        held = chance.random() < 0.5
        if chance.random() < 0.45:
            (given.add_held if held else given.add)(*due)
            live.add((held, due))
        else:
            # Whoever cancels a time means it, in whichever heap it may be.
            given.cancel(*due)
            live -= {(True, due), (False, due)}
    free, waiting = drained(given)
    assert free == sorted(free)
    assert waiting == sorted(waiting)
    assert {(False, due) for due in free} | {(True, due) for due in waiting} >= live


def test_a_time_that_is_set_again_stays() -> None:
    given = Timers()
    given.add(5, b"run", b"step")
    given.cancel(5, b"run", b"step")
    given.add(5, b"run", b"step")
    for n in range(2 * timers.GONE_MIN):
        given.cancel(n + 10, b"other", b"")
    assert (5, b"run", b"step") in given.free


def test_no_time_at_all_cannot_be_cancelled() -> None:
    given = Timers()
    given.cancel(0, b"run", b"step")
    assert not given._gone
