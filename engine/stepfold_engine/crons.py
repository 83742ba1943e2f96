"""Cron expressions: when they come due. The only importer of cronsim.

Five fields (minute, hour, day of the month, month, day of the week) with the semantics of Debian's
cron, or ``@hourly``, ``@daily`` and so on; before them ``TZ=Europe/Berlin`` (or ``CRON_TZ=``), else
they are in UTC. Rules:

* If both days are restricted, either may be met. If one of the two fields begins with ``*``, both
  must be.
* Where clocks are put forward, times of day that are left out come due once, right after the gap.
  Where they are put back, times of day that come twice are due the first time only.
* An expression whose minutes or hours begin with ``*`` means intervals, not times of day: it goes
  by elapsed time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from stepfold_engine.errors import InvalidOptionError

CRON_CHARS_MAX = 255
HOUR_MS = 3_600_000
FIELDS = 5

_PREFIXES = ("TZ=", "CRON_TZ=")
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class _Cron:
    fields: str
    zone: tzinfo


def due_after(cron: str, after_ms: int) -> int:
    """Return the first time after this one at which an expression comes due; 0 if there is none.

    >>> due_after("*/15 * * * *", 0)
    900000

    Raises:
        InvalidOptionError: it is no cron expression.
    """
    return next(_times(cron, after_ms), 0)


def due_until(cron: str, first_ms: int, now_ms: int) -> int:
    """Return the last time up to now at which an expression came due.

    It costs the same for an hour and for a year of minutes.

    Args:
        cron: the expression.
        first_ms: a time at which it came due, not after now.
        now_ms: now.

    Raises:
        InvalidOptionError: it is no cron expression.
    """
    window_ms = HOUR_MS
    while True:
        start_ms = max(first_ms, now_ms - window_ms)
        last_ms = first_ms if start_ms == first_ms else 0
        for due_ms in _times(cron, start_ms):
            if due_ms > now_ms:
                break
            last_ms = due_ms
        if last_ms:
            return last_ms
        window_ms *= 2


def _times(cron: str, after_ms: int) -> Iterator[int]:
    """Yield the times after this one, in order."""
    parsed = _parsed(cron)
    last_s = after_ms // 1000
    for found in CronSim(parsed.fields, datetime.fromtimestamp(last_s, parsed.zone)):
        # In the hour that comes twice, what was due the first time is found again.
        due_s = int(found.timestamp())
        if due_s > last_s:
            last_s = due_s
            yield due_s * 1000


@lru_cache(maxsize=1_000)
def _parsed(cron: str) -> _Cron:
    shown = repr(cron) if len(cron) <= CRON_CHARS_MAX else f"{cron[:CRON_CHARS_MAX]!r}…"
    if len(cron) > CRON_CHARS_MAX:
        text = f"cron {shown} has {len(cron)} characters, the limit is {CRON_CHARS_MAX}"
        raise InvalidOptionError(text)
    words = cron.split()
    zone: tzinfo = UTC
    if words and words[0].startswith(_PREFIXES):
        zone = _zone(words.pop(0).partition("=")[2], shown)
    if len(words) == 1 and words[0].startswith("@"):
        if words[0] not in _NAMED:
            raise InvalidOptionError(f"cron {shown}: there are {', '.join(sorted(_NAMED))}")
        words = _NAMED[words[0]].split()
    if len(words) != FIELDS:
        text = (
            f"cron {shown} has {len(words)} fields: write minute, hour, day of the month, month and"
            ' day of the week, such as "0 9 * * 1-5"; before them TZ=Europe/Berlin if not in UTC'
        )
        raise InvalidOptionError(text)
    fields = " ".join(words)
    try:
        CronSim(fields, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError) as error:
        text = f"cron {shown}: {str(error).lower() or 'a field cannot be read'}"
        raise InvalidOptionError(text) from error
    return _Cron(fields, zone)


def _zone(name: str, shown: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        text = f"cron {shown}: there is no time zone {name!r}; write one such as Europe/Berlin"
        raise InvalidOptionError(text) from error
