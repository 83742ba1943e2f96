"""Cron expressions: when they come due, across changes of the clocks too; what is refused."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepfold_engine.crons import due_after, due_until
from stepfold_engine.errors import InvalidOptionError

MINUTE_MS = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def local(at_ms: int, zone: str = "UTC") -> str:
    return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")


def times(cron: str, after: str, count: int, zone: str = "UTC") -> list[str]:
    found: list[str] = []
    at_ms = ms(after)
    for _ in range(count):
        at_ms = due_after(cron, at_ms)
        found.append(local(at_ms, zone))
    return found


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("0 9 * * 1-5", "2026-07-31T09:00+00:00", "2026-08-03T09:00+00:00"),
        ("*/20 8-10 * * *", "2026-07-31T10:40+00:00", "2026-08-01T08:00+00:00"),
        ("5,10 0 1 jan *", "2026-07-31T10:40+00:00", "2027-01-01T00:05+00:00"),
        ("0 0 * * sun", "2026-07-31T10:40+00:00", "2026-08-02T00:00+00:00"),
        ("0 0 * * 7", "2026-07-31T10:40+00:00", "2026-08-02T00:00+00:00"),
        ("30 6 29 2 *", "2026-07-31T10:40+00:00", "2028-02-29T06:30+00:00"),
        ("@hourly", "2026-07-31T10:40+00:00", "2026-07-31T11:00+00:00"),
        ("@monthly", "2026-07-31T10:40+00:00", "2026-08-01T00:00+00:00"),
        ("TZ=Asia/Kolkata 0 9 * * *", "2026-07-31T00:00+00:00", "2026-07-31T03:30+00:00"),
        ("CRON_TZ=America/New_York @daily", "2026-07-31T00:00+00:00", "2026-07-31T04:00+00:00"),
    ],
)
def test_when_a_cron_comes_due(cron: str, after: str, due: str) -> None:
    assert times(cron, after, 1) == [due]


def test_a_time_is_after_the_one_given_and_a_millisecond_decides() -> None:
    nine = ms("2026-07-31T09:00+00:00")
    assert due_after("0 9 * * *", nine - 1) == nine
    assert due_after("0 9 * * *", nine) == nine + 24 * 60 * MINUTE_MS


@pytest.mark.parametrize(
    ("days", "meant"),
    [
        # Both are restricted: either will do. July 2026: Fridays are 3, 10, 17, 24, 31.
        ("13 * 5", ["2026-07-03", "2026-07-10", "2026-07-13", "2026-07-17"]),
        # One begins with a star: both must be met.
        ("*/2 * 5", ["2026-07-03", "2026-07-17", "2026-07-31", "2026-08-07"]),
        ("13 * *", ["2026-07-13", "2026-08-13", "2026-09-13", "2026-10-13"]),
        ("* * 5", ["2026-07-03", "2026-07-10", "2026-07-17", "2026-07-24"]),
    ],
)
def test_day_of_month_and_day_of_week(days: str, meant: list[str]) -> None:
    found = times(f"0 12 {days}", "2026-07-01T00:00+00:00", 4)
    assert found == [f"{day}T12:00+00:00" for day in meant]


BERLIN = "Europe/Berlin"


def test_a_time_of_day_that_is_left_out_comes_once_right_after_the_gap() -> None:
    found = times(f"TZ={BERLIN} 30 2 * * *", "2026-03-28T00:00+01:00", 3, BERLIN)
    assert found == ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]
    found = times(f"TZ={BERLIN} 0,30 2 * * *", "2026-03-28T02:30+01:00", 2, BERLIN)
    assert found == ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]


def test_a_time_of_day_that_comes_twice_is_due_the_first_time() -> None:
    found = times(f"TZ={BERLIN} 30 2 * * *", "2026-10-24T12:00+02:00", 2, BERLIN)
    assert found == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    # Asked in the hour that comes the second time, it is not found in the past.
    found = times(f"TZ={BERLIN} 30 2 * * *", "2026-10-25T02:10+01:00", 1, BERLIN)
    assert found == ["2026-10-26T02:30+01:00"]


def test_intervals_go_by_elapsed_time() -> None:
    spring = times(f"TZ={BERLIN} */30 * * * *", "2026-03-29T01:15+01:00", 3, BERLIN)
    assert spring == [
        "2026-03-29T01:30+01:00",
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:30+02:00",
    ]
    autumn = times(f"TZ={BERLIN} 0 * * * *", "2026-10-25T01:30+02:00", 3, BERLIN)
    assert autumn == [
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]


CRONS = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "0 * * * *",
        "15 2,3 * * *",
        "0 9 * * 1-5",
        "30 2 * * *",
        "0,30 2 * * 0",
        "10 1-3 25-31 3,10 *",
        "0 0 1 * 1",
    ]
)
ZONES = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Beirut"])
AROUND = st.integers(ms("2026-03-20T00:00+00:00"), ms("2026-11-10T00:00+00:00"))


@given(CRONS, ZONES, AROUND, st.integers(0, 40 * 24 * 60))
def test_the_times_are_the_same_from_wherever_one_starts(
    cron: str, zone: str, start_ms: int, minutes: int
) -> None:
    cron = f"TZ={zone} {cron}"
    later_ms = start_ms + minutes * MINUTE_MS
    at_ms, steps = start_ms, 0
    while (next_ms := due_after(cron, at_ms)) <= later_ms and steps < 200:
        assert next_ms > at_ms
        at_ms, steps = next_ms, steps + 1
    if next_ms > later_ms:
        assert due_after(cron, later_ms) == next_ms


@given(CRONS, ZONES, AROUND, st.integers(0, 3 * 24 * 60))
def test_the_last_time_up_to_now(cron: str, zone: str, start_ms: int, minutes: int) -> None:
    cron = f"TZ={zone} {cron}"
    first_ms = due_after(cron, start_ms)
    now_ms = first_ms + minutes * MINUTE_MS
    last_ms = due_until(cron, first_ms, now_ms)
    assert first_ms <= last_ms <= now_ms < due_after(cron, last_ms)


def test_what_was_missed_in_a_year_of_minutes_is_found_at_once() -> None:
    now_ms = ms("2027-08-01T00:00:30+00:00")
    assert due_until("* * * * *", ms("2026-08-01T00:00+00:00"), now_ms) == now_ms - 30_000
    assert due_until("0 0 1 1 *", ms("1990-01-01T00:00+00:00"), now_ms) == ms(
        "2027-01-01T00:00+00:00"
    )


def test_a_day_that_no_year_has() -> None:
    with pytest.raises(InvalidOptionError, match="bad day-of-month"):
        due_after("0 0 30 2 *", 0)


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields: write minute, hour"),
        ("0 0 9 * * *", "6 fields"),
        ("61 * * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 0 0 * *", "bad day-of-month"),
        ("0 0 * 13 *", "bad month"),
        ("0 0 * * 8", "bad day-of-week"),
        ("0 0 * * fri-mon", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("a b c d e", "bad minute"),
        ("@noon", "@daily"),
        ("TZ=Europe/Atlantis 0 9 * * *", "no time zone 'Europe/Atlantis'"),
        ("TZ=../etc 0 9 * * *", "no time zone"),
        ("TZ=Europe 0 9 * * *", "no time zone"),
        ("TZ= 0 9 * * *", "no time zone"),
        ("TZ=UTC", "0 fields"),
        ("9" * 256, "256 characters"),
    ],
)
def test_what_is_no_cron_is_refused_with_the_reason(cron: str, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        due_after(cron, 0)


@given(st.text(alphabet="0123456789*/,-LW#@TZ= monfrijan\u00e9\u0661", max_size=40))
def test_any_text_is_read_or_refused(cron: str) -> None:
    try:
        due_after(cron, ms("2026-01-01T00:00+00:00"))
    except InvalidOptionError:
        return
