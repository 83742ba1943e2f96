"""Durations and times: a right number of milliseconds, or an error that shows what was given.

On a running engine: nothing is over before its time, and everything ends.
"""

import asyncio
import re
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import stepfold
from stepfold.durations import TEXT_CHARS_MAX, WAIT_MS_MAX, duration_ms, limit_ms, time_ms
from stepfold.errors import RetryAfterError, retry_after_ms
from stepfold.options import Retry, retry_policy
from stepfold_engine.core.retry import retry_delay_ms
from tests.behaviour.scenario import EPOCH_MS, Variant
from tests.fuzz.effort import LIVE, PURE
from tests.fuzz.engines import BOTH, ended_run, engine, new_app
from tests.fuzz.values import ANY_TEXT

NOW_MS = 1_800_000_000_000
MESSAGE_CHARS_MAX = 500

UNITS = {
    "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000,
    "millisecond": 1, "milliseconds": 1, "sec": 1_000, "seconds": 1_000, "min": 60_000,
    "minutes": 60_000, "hr": 3_600_000, "hours": 3_600_000, "day": 86_400_000, "weeks": 604_800_000,
}  # fmt: skip

_NUMBERS = (
    st.integers(0, 400).map(str)
    | st.decimals(0, 400, places=3).map(lambda d: f"{d:f}")
    | st.sampled_from(["0", "00", "0.0005", "1" + "0" * 40, "9" * 5_000, "0." + "0" * 5_000 + "1",
                       "1." + "0" * 40 + "1", "1" * 1_000_000])
)  # fmt: skip
WELL_FORMED = st.lists(st.tuples(_NUMBERS, st.sampled_from(sorted(UNITS))), min_size=1, max_size=5)
TEXTS = (
    st.builds(
        lambda parts, gap: gap.join(f"{n}{gap}{unit}" for n, unit in parts),
        WELL_FORMED,
        st.sampled_from(["", " ", ", ", "\t"]),
    )
    | ANY_TEXT
    | st.text("0123456789.smhdw -,e+_∞٣", max_size=12)
    | st.sampled_from(
        ["", " ", "1e3s", "-1s", "1s2", "٣s", "1 S", "1İs", "1\u00b5s", "P1D", "1:30"]
    )
)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from(
        [10**18, 10**400, -(10**4_400), 10**4_400, True, False, 2**63, WAIT_MS_MAX + 1]
    )
)
DELTAS = st.timedeltas() | st.sampled_from(
    [timedelta.max, timedelta.min, timedelta(microseconds=1), timedelta(microseconds=-1)]
)
THINGS: st.SearchStrategy[object] = st.sampled_from([None, b"1s", ["1s"], {}, object, 1j])


def said(error: Exception) -> str:
    """Return an error's words, which must be short enough to read and be no accident's."""
    text = str(error)
    assert 0 < len(text) < MESSAGE_CHARS_MAX, text[:MESSAGE_CHARS_MAX]
    assert "Errno" not in text
    assert "convert" not in text
    assert "digits" not in text
    return text


@PURE
@given(TEXTS | NUMBERS | DELTAS | THINGS)
@example(float("inf"))
@example(float("nan"))
@example(10**5_000)
@example("9" * 1_000_000 + "w")
def test_a_duration_is_read_or_refused_in_words(given_: Any) -> None:
    try:
        ms = duration_ms(given_, "sleep 'nap'")
    except (ValueError, TypeError) as error:
        assert said(error).startswith("sleep 'nap'")  # noqa: PT017 - either outcome is right
    else:
        assert type(ms) is int
        assert 0 <= ms <= WAIT_MS_MAX


@PURE
@given(WELL_FORMED)
def test_a_duration_in_words_is_the_sum_of_its_parts(parts: list[tuple[str, str]]) -> None:
    text = " ".join(f"{n} {unit}" for n, unit in parts)
    try:
        ms = duration_ms(text)
    except ValueError as error:
        said(error)
        if len(text) <= TEXT_CHARS_MAX:
            meant = sum(Fraction(n) * UNITS[unit] for n, unit in parts)
            assert meant > WAIT_MS_MAX or meant.denominator != 1
    else:
        assert ms == sum(Fraction(n) * UNITS[unit] for n, unit in parts)


@PURE
@given(st.timedeltas(timedelta(0), timedelta(days=366)))
def test_a_timedelta_is_itself(delta: timedelta) -> None:
    # What is below a millisecond is cut off: a sleep of 0.4 ms is over at once.
    assert (
        timedelta(0)
        <= delta - timedelta(milliseconds=duration_ms(delta))
        < timedelta(milliseconds=1)
    )


_ZONES = st.none() | st.builds(
    lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-1_439, 1_439)
)
MOMENTS = st.datetimes(timezones=_ZONES) | st.sampled_from(
    [
        edge.replace(tzinfo=zone)
        for edge in (datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC))
        for zone in (None, UTC, timezone(timedelta(hours=-23)), timezone(timedelta(hours=23)))
    ]
)


@PURE
@given(MOMENTS | MOMENTS.map(datetime.isoformat) | TEXTS | NUMBERS | THINGS)
def test_a_time_is_read_or_refused_in_words(given_: Any) -> None:
    try:
        ms = time_ms(given_, "sleep_until 'nap'")
    except (ValueError, TypeError) as error:
        assert said(error).startswith("sleep_until 'nap'")  # noqa: PT017 - as above
        assert not (isinstance(given_, datetime) and given_.tzinfo)
    else:
        moment = given_ if isinstance(given_, datetime) else datetime.fromisoformat(given_)
        assert moment.tzinfo is not None
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        assert ms == (moment - epoch) // timedelta(milliseconds=1)


@PURE
@given(NUMBERS | DELTAS | MOMENTS | TEXTS | THINGS)
def test_a_failure_that_asks_for_a_delay_gets_it_or_is_refused(after: Any) -> None:
    try:
        error = RetryAfterError("later", after)
    except (ValueError, TypeError) as refused:
        assert re.search("RetryAfterError|after", said(refused))  # noqa: PT017 - as above
        return
    delay = retry_after_ms(error, NOW_MS)
    assert type(delay) is int
    assert 0 <= delay <= WAIT_MS_MAX
    if isinstance(after, timedelta):
        assert abs(delay - after / timedelta(milliseconds=1)) <= 1 or delay == 0
    elif isinstance(after, datetime):
        assert (
            delay == WAIT_MS_MAX or abs(after.timestamp() * 1000 - NOW_MS - delay) <= 2 or not delay
        )


_FACTORS = (
    st.floats() | st.integers() | st.floats(1, 100) | st.sampled_from([1, 4.0, 1e308, 10**400])
)
_DELAYS = st.sampled_from(["2s", "0s", "366d", 1, timedelta(hours=1)]) | TEXTS | NUMBERS | DELTAS


@PURE
@given(
    st.integers(0, 20) | st.integers() | st.booleans(),
    _DELAYS,
    _FACTORS,
    _DELAYS,
    st.floats(0, 1) | st.floats() | st.integers(),
)
def test_a_retry_policy_is_declared_or_refused(
    retries: int, delay: Any, factor: float, delay_max: Any, jitter: float
) -> None:
    try:
        policy = retry_policy(Retry(retries, delay, factor, delay_max, jitter))
    except (ValueError, TypeError) as error:
        said(error)
        return
    for attempt in range(1, policy.retries + 2):
        assert 0 <= retry_delay_ms(policy, attempt, b"run") <= 2 * WAIT_MS_MAX


# On a running engine.

BODY_S = WAIT_MS_MAX // 1_000 + 1
"""How long a step's body takes that only its timeout may end earlier."""
RETRY_MS = 2_000
LATE_MS_MAX = 5_000
"""How late anything may be in virtual time: a wait ends when all events before it were read."""

KINDS = ["sleep", "sleep_until", "event", "signal", "since", "invoke", "timeout", "retry after"]


async def _wait(ctx: stepfold.Context, kind: str, given_: Any, failed: list[str]) -> None:
    """Use what is given as a duration or a time, for a step called ``nap``."""

    async def fail_once() -> None:
        if not failed:
            failed.append("once")
            raise RetryAfterError("later", given_)

    step = ctx.step
    match kind:
        case "sleep":
            await step.sleep("nap", given_)
        case "sleep_until":
            await step.sleep_until("nap", given_)
        case "event":
            assert await step.wait_for_event("nap", event="t/never", timeout=given_) is None
        case "signal":
            assert await step.wait_for_signal("nap", signal="never", timeout=given_) is None
        case "since":
            await step.wait_for_event("nap", event="t/never", timeout="1s", since=given_)
        case "invoke":
            await step.invoke("nap", function="t-endless", timeout=given_)
        case "timeout":
            await step.options(retries=0, timeout=given_).run("nap", asyncio.sleep, BODY_S)
        case _:
            await step.options(retries=1).run("nap", fail_once)


def _meant_ms(kind: str, given_: Any) -> int | None:
    """Return how long it should take from the start on, None if it is to be refused."""
    try:
        match kind:
            case "sleep_until":
                ms = time_ms(given_) - EPOCH_MS
                return max(0, ms) if ms <= WAIT_MS_MAX else None
            case "since":
                if given_ is not None:
                    time_ms(given_)
                return 1_000
            case "retry after":
                return retry_after_ms(RetryAfterError("later", given_), EPOCH_MS)
            case "timeout":
                return limit_ms(given_, "timeout") or 1_000 * BODY_S
            case _:
                return duration_ms(given_)
    except (ValueError, TypeError):
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", BOTH, ids=str)
@LIVE
@given(given_=TEXTS | NUMBERS | DELTAS | MOMENTS | MOMENTS.map(datetime.isoformat) | THINGS)
@example(given_="0s")
@example(given_="366d")
@example(given_=timedelta(microseconds=1))
@example(given_=datetime.max.replace(tzinfo=UTC))
@example(given_=datetime.min.replace(tzinfo=UTC))
def test_whatever_waits_ends_in_its_time_or_fails_in_words(
    variant: Variant, kind: str, given_: Any
) -> None:
    app, failed = new_app(), list[str]()

    @app.function("endless")
    async def endless(ctx: stepfold.Context) -> None:
        await ctx.step.wait_for_signal("s", signal="s", timeout="366d", on_conflict="replace")

    @app.function("f", on="t/go", retries=0)
    async def f(ctx: stepfold.Context) -> None:
        await _wait(ctx, kind, given_, failed)

    with engine(app, variant) as s:
        s.send("t/go")
        run = ended_run(s, "f", minutes=3 * WAIT_MS_MAX / 60_000)
        meant, took = _meant_ms(kind, given_), run.ended_ms - run.started_ms
        if kind == "retry after":
            # A delay that is refused is a failure like others, tried again as the policy says.
            assert run.status == "completed"
            assert took >= (meant if meant is not None else RETRY_MS)
        elif meant is None:
            assert run.status == "failed"
            assert "nap" in run.error or "timeout" in run.error
            assert len(run.error) < MESSAGE_CHARS_MAX
        else:
            in_vain = kind == "invoke" or (kind == "timeout" and given_ is not None)
            assert run.status == ("failed" if in_vain else "completed")
            assert meant <= took <= meant + LATE_MS_MAX
