"""Durations and times as authors write them."""

import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepfold.durations import WAIT_MS_MAX, duration_ms, moment, time_ms

UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("3d", 259_200_000),
        ("7 days", 604_800_000),
        ("1h30m", 5_400_000),
        ("1 hour 30 minutes", 5_400_000),
        ("1 hour, 30 minutes", 5_400_000),
        ("1w2d3h4m5s6ms", 788_645_006),
        ("1.5h", 5_400_000),
        ("0.25s", 250),
        ("90 secs", 90_000),
        ("2 Weeks", 1_209_600_000),
        (" 5 min ", 300_000),
        ("0s", 0),
        ("366d", WAIT_MS_MAX),
        (timedelta(days=1, milliseconds=1), 86_400_001),
        (60_000, 60_000),
        (0, 0),
    ],
)
def test_durations(text: Any, ms: int) -> None:
    assert duration_ms(text) == ms


@given(st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 20), min_size=1))
def test_any_sum_of_units(parts: dict[str, int]) -> None:
    text = "".join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    assert duration_ms(text) == sum(UNITS[unit] * count for unit, count in parts.items())


@given(st.timedeltas(timedelta(0), timedelta(days=366)))
def test_any_timedelta(value: timedelta) -> None:
    assert duration_ms(value) == value // timedelta(milliseconds=1)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert duration_ms(text) >= 0
    except ValueError as error:
        # Its beginning, if it is long.
        assert repr(text[:80])[1:-1] in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (1.5, TypeError, 'write "1.5s" for seconds, or 1500 for milliseconds'),
        (True, TypeError, "is a bool"),
        (None, TypeError, "is a NoneType"),
        ("", ValueError, "cannot be read"),
        ("5", ValueError, "cannot be read"),
        ("5 fortnights", ValueError, "units"),
        ("h1", ValueError, "cannot be read"),
        ("-5s", ValueError, "cannot be read"),
        ("0.0005s", ValueError, "whole number of milliseconds"),
        (-1, ValueError, "negative"),
        (timedelta(days=-1), ValueError, "negative"),
        ("367d", ValueError, "366 days, the limit"),
        (timedelta(days=400), ValueError, "366 days, the limit"),
    ],
)
def test_what_is_no_duration_is_refused_with_advice(
    value: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        duration_ms(value)


def test_a_small_number_gets_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "stepfold"):
        assert duration_ms(5, "sleep 's'") == 5
        assert duration_ms(1000) == 1000
    assert [r.message for r in caplog.records] == ["sleep 's': 5 is 5 ms; did you mean '5s'?"]


@pytest.mark.parametrize(
    "value",
    [
        "2030-01-02T03:04:05Z",
        "2030-01-02T04:04:05+01:00",
        datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2030, 1, 2, 8, 4, 5, tzinfo=timezone(timedelta(hours=5))),
    ],
)
def test_times(value: Any) -> None:
    assert time_ms(value) == 1_893_553_445_000


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_comes_back_to_the_millisecond(value: datetime) -> None:
    assert timedelta(0) <= value - moment(time_ms(value)) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (datetime(2030, 1, 1), ValueError, r"datetime.now\(UTC\)"),  # noqa: DTZ001
        ("2030-01-01T00:00:00", ValueError, r"2030-01-01T00:00:00Z"),
        ("tomorrow", ValueError, "ISO 8601"),
        (5, TypeError, "is a int"),
    ],
)
def test_what_names_no_instant_is_refused_with_advice(
    value: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        time_ms(value)
