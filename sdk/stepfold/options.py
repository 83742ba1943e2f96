"""Options of functions and steps, as authors write them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stepfold.durations import Duration, duration_ms, limit_ms, shown
from stepfold_schemas import entries, strict

RETRIES_MAX = 20
FACTOR_MAX = 1_000_000
TRIGGERS_MAX = 10
CANCELLATIONS_MAX = 5
EVENT_NAME_CHARS_MAX = 255
EXPRESSION_CHARS_MAX = 4_096
CRON_CHARS_MAX = 255
DEBOUNCE_MS_MIN = 1_000
DEBOUNCE_MS_MAX = 7 * 86_400_000

_PATH = re.compile(r"data(\.[A-Za-z_][A-Za-z0-9_]*)+")


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event that starts a function.

    Attributes:
        event: its name, or a pattern that ends in ``/*`` or ``.*``.
        if_: a CEL expression over ``event`` that must be true, such as ``event.data.total > 100``.
    """

    event: str
    if_: str | None = None


@dataclass(frozen=True, slots=True)
class CancelOn:
    """An event that cancels a function's runs.

    Attributes:
        event: its name, or a pattern that ends in ``/*`` or ``.*``.
        if_: a CEL expression over ``event``, which started the run, and ``async``, this one.
        match: a path such as ``data.order_id`` that must be equal in both events.
        timeout: how long after the run's start it may come; None for as long as the run lasts.
    """

    event: str
    if_: str | None = None
    match: str | None = None
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True)
class Debounce:
    """Of events in quick succession only the last one starts a run.

    Attributes:
        period: it starts when no other event came for so long; from 1 second to 7 days.
        key: a CEL expression over ``event``, or a path such as ``data.document``: events with the
            same value count as others of each other; None for all events of the function.
        timeout: how long after the first of them it starts at the latest; None for no limit.
    """

    period: Duration
    key: str | None = None
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how late something that failed is tried again.

    The delay before retry n (from 1) is ``delay * factor ** (n - 1)``, at most ``max_delay``, plus
    a share of up to ``jitter`` of it.
    """

    retries: int = 4
    delay: Duration = "2s"
    factor: float = 4.0
    max_delay: Duration = "1h"
    jitter: float = 0.25


def retry_policy(given: int | Retry | None) -> entries.RetryPolicy:
    """Return a retry policy as it is declared.

    Raises:
        ValueError: a number is out of range.
    """
    if given is None:
        return entries.RetryPolicy()
    if isinstance(given, int):
        given = Retry(given)
    if not 0 <= given.retries <= RETRIES_MAX:
        raise ValueError(f"retries is {given.retries}: it must be from 0 to {RETRIES_MAX}")
    # Written so that a NaN, which is neither below nor above anything, does not pass.
    if not 1 <= given.factor <= FACTOR_MAX:
        raise ValueError(f"factor is {given.factor}: it must be from 1 to {FACTOR_MAX:,}")
    if not 0 <= given.jitter <= 1:
        raise ValueError(f"jitter is {given.jitter}: it is a share, from 0 to 1")
    return entries.RetryPolicy(
        given.retries,
        duration_ms(given.delay, "delay"),
        float(given.factor),
        duration_ms(given.max_delay, "max_delay"),
        float(given.jitter),
    )


def triggers(
    given: str | Trigger | Sequence[str | Trigger] | None, if_: str | None
) -> list[entries.Trigger]:
    """Return what starts a function as it is declared.

    Raises:
        ValueError: there are too many, or a name is empty or too long.
        TypeError: ``if_`` is given with something else than one event's name.
    """
    if given is None:
        given = ()
    if if_ is not None and not isinstance(given, str):
        raise TypeError("if_ goes with one event's name; otherwise write Trigger(event, if_=…)")
    if isinstance(given, str):
        given = Trigger(given, if_)
    listed = [given] if isinstance(given, Trigger) else list(given)
    if len(listed) > TRIGGERS_MAX:
        raise ValueError(f"{len(listed)} triggers; the limit is {TRIGGERS_MAX} a function")
    all_ = [Trigger(one) if isinstance(one, str) else one for one in listed]
    return [entries.Trigger(_event_name(one.event), _expression(one.if_)) for one in all_]


def crons(given: str | Sequence[str] | None, *, besides: int = 0) -> list[str]:
    """Return the cron expressions that start a function; the engine says whether they are any.

    ``besides`` says how many other triggers it has.

    Raises:
        ValueError: one is empty, too long, or there twice, or there are too many.
        TypeError: one is no text.
    """
    if given is None:
        return []
    listed = [given] if isinstance(given, str) else list(given)
    for one in listed:
        if not isinstance(one, str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise TypeError(f'a cron is text such as "0 9 * * 1-5", not {one!r}')
        strict.check_name("a cron", one, CRON_CHARS_MAX)
    count = len(listed) + besides
    if count > TRIGGERS_MAX:
        text = f"{count} triggers, crons among them; the limit is {TRIGGERS_MAX} a function"
        raise ValueError(text)
    twice = [one for one in listed if listed.count(one) > 1]
    if twice:
        raise ValueError(f"cron {twice[0]!r} is given twice")
    return listed


def debounce(given: Debounce | Duration | None) -> entries.Debounce | None:
    """Return how events start a function by their last one, as it is declared.

    Raises:
        ValueError: a time is out of range, or the key is too long.
    """
    if given is None:
        return None
    if not isinstance(given, Debounce):
        given = Debounce(given)
    period_ms = duration_ms(given.period, "period of debounce")
    if not DEBOUNCE_MS_MIN <= period_ms <= DEBOUNCE_MS_MAX:
        text = f"period of debounce is {shown(given.period)}: it must be from 1 second to 7 days"
        raise ValueError(text)
    timeout_ms = limit_ms(given.timeout, "timeout of debounce")
    if 0 < timeout_ms < period_ms:
        text = f"timeout of debounce is {shown(given.timeout)}, less than the period"
        raise ValueError(f"{text} {shown(given.period)}: it counts from the first event")
    return entries.Debounce(period_ms, key_expression(given.key), timeout_ms)


def cancellations(given: CancelOn | Sequence[CancelOn] | None) -> list[entries.CancelOn]:
    """Return what cancels a function's runs as it is declared.

    Raises:
        ValueError: there are too many, or one is not well formed.
    """
    if given is None:
        return []
    listed = [given] if isinstance(given, CancelOn) else list(given)
    if len(listed) > CANCELLATIONS_MAX:
        raise ValueError(f"{len(listed)} in cancel_on; the limit is {CANCELLATIONS_MAX} a function")
    return [
        entries.CancelOn(
            _event_name(one.event),
            _expression(" && ".join(_terms(one))),
            limit_ms(one.timeout, "timeout of cancel_on"),
        )
        for one in listed
    ]


def _terms(one: CancelOn) -> list[str]:
    terms = [f"({one.if_})"] if one.if_ and one.match else [one.if_] if one.if_ else []
    if one.match:
        path = checked_path(one.match, "match")
        terms.append(f"event.{path} == async.{path}")
    return terms


def key_expression(given: str | None) -> str:
    """Return a key, of idempotency or debounce, as a CEL expression over ``event``; "" for none.

    >>> key_expression("data.order_id")
    'event.data.order_id'
    """
    if not given:
        return ""
    return f"event.{given}" if _PATH.fullmatch(given) else _expression(given)


def checked_path(path: str, what: str) -> str:
    """Return a path below an event, without a leading ``event.``.

    Raises:
        ValueError: it is not a path into the event's data.
    """
    path = path.removeprefix("event.")
    if not _PATH.fullmatch(path):
        raise ValueError(f"{what} is {path!r}: it is a path into the event such as data.order_id")
    return path


def _expression(given: str | None) -> str:
    """Return an expression that can be declared; the engine says whether it means anything."""
    if not given:
        return ""
    strict.check_text("the expression", given, EXPRESSION_CHARS_MAX)
    return given


def _event_name(name: str) -> str:
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
        raise ValueError(f"an event's name is text that is not empty, not {name!r}")
    strict.check_text("the event's name", name, EVENT_NAME_CHARS_MAX)
    return name
