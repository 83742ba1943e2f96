"""The guarded clock: S22, a clock that is a day ahead for two seconds."""

import logging

import pytest

from stepfold_engine.clock import JUMP_HOLD_MS, SystemClock

DAY_MS = 86_400_000


class Machine(SystemClock):
    """A system clock on a machine whose clocks are set by hand."""

    wall = 1_800_000_000_000
    monotonic = 5_000

    def _wall_ms(self) -> int:
        return self.wall

    def _monotonic_ms(self) -> int:
        return self.monotonic

    def passes(self, ms: int) -> None:
        self.wall += ms
        self.monotonic += ms


def test_s22_a_short_jump_ahead_is_not_followed_and_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "stepfold")
    clock = Machine()
    start = clock.now_ms()
    clock.wall += DAY_MS
    clock.passes(1_000)
    assert clock.now_ms() == start + 1_000
    clock.passes(1_000)
    assert clock.now_ms() == start + 2_000
    clock.wall -= DAY_MS
    clock.passes(1_000)
    assert clock.now_ms() == start + 3_000
    assert len([r for r in caplog.records if "jumped" in r.message]) == 1


def test_a_jump_that_lasts_is_believed() -> None:
    clock = Machine()
    start = clock.now_ms()
    clock.wall += DAY_MS
    clock.now_ms()
    clock.passes(JUMP_HOLD_MS + 1)
    clock.now_ms()
    assert clock.now_ms() == start + DAY_MS + JUMP_HOLD_MS + 1


def test_time_never_goes_back_and_small_corrections_are_followed() -> None:
    clock = Machine()
    start = clock.now_ms()
    clock.wall -= 5_000
    assert clock.now_ms() == start
    clock.passes(6_000)
    assert clock.now_ms() == start + 1_000
    clock.wall += 30_000
    assert clock.now_ms() == start + 31_000
