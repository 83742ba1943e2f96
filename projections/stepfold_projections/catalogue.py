"""The tables and views that people ask: their columns, what each means, how each is made.

Every time is UTC. Every payload is JSON: ``data->>'order_id'``. Documentation and completion are
made from this list.
"""

from dataclasses import dataclass

_PARTS = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table or a view.

    Attributes:
        name: what it is called.
        about: what a row is.
        columns: (name, type, meaning) of each.
        view: made from the tables, rather than from the log.
        ends: what is not known of a row before its ``ended_at``; for questions as of a time.
        unended: its status before that.
        since: the column that says since when a row is there.
    """

    name: str
    about: str
    columns: tuple[_PARTS, ...]
    view: bool = False
    ends: tuple[str, ...] = ()
    unended: str = ""
    since: str = "started_at"


_RUN: _PARTS = ("run", "VARCHAR", "the run's id, a ULID")
_FUNCTION: _PARTS = ("function", "VARCHAR", "the function's full id, such as shop-fulfil")
_STEP: _PARTS = ("step", "VARCHAR", "the step's id, with :1, :2 for repeats")
_ERROR: tuple[_PARTS, ...] = (
    ("error_name", "VARCHAR", "the exception's class"),
    ("error_message", "VARCHAR", "the exception's text"),
    ("error_stack", "VARCHAR", "its traceback"),
)
_STARTED: _PARTS = ("started_at", "TIMESTAMP", "when it began")
_ENDED: tuple[_PARTS, ...] = (
    ("ended_at", "TIMESTAMP", "when it ended; null before"),
    ("duration_ms", "BIGINT", "how long it took; null before its end"),
)
_ERRORS = tuple(name for name, _, _ in _ERROR)

TABLES = (
    Table(
        "events",
        "an event of the log",
        (
            ("event", "VARCHAR", "its internal id, a ULID; or where it lies in the log"),
            ("sender_id", "VARCHAR", "the id that its sender gave it"),
            ("name", "VARCHAR", "what happened, such as shop/order.created"),
            ("data", "JSON", "its data"),
            ("user", "JSON", "who it concerns"),
            ("ts", "TIMESTAMP", "when it happened, by its sender; null if not said"),
            ("received_at", "TIMESTAMP", "when it was taken in"),
            ("partition", "BIGINT", "the partition of the topic where it lies"),
            ("offset", "BIGINT", "its offset there"),
        ),
        since="received_at",
    ),
    Table(
        "runs",
        "a run, unfinished or finished",
        (
            _RUN,
            _FUNCTION,
            ("version", "VARCHAR", "the function's version when the run started"),
            (
                "status",
                "VARCHAR",
                "scheduled, running, waiting, retrying, stopped; completed,"
                " failed, cancelled; unknown: it ended in a part of the log that was never read",
            ),
            ("event_name", "VARCHAR", "the event that started it"),
            ("event_id", "VARCHAR", "that event's id (events.event)"),
            ("event_ids", "VARCHAR[]", "all events that started it"),
            ("input", "JSON", "that event's data"),
            ("output", "JSON", "what the function returned"),
            *_ERROR,
            ("reason", "VARCHAR", "why it was cancelled"),
            ("invoker_run", "VARCHAR", "the run that invoked it"),
            ("invoker_step", "VARCHAR", "the step that did: sha1(invocations.step)"),
            ("rerun_of", "VARCHAR", "the run that it repeats, if it was asked for as a rerun"),
            ("rerun_from", "VARCHAR", "the step before which it shares that run's outcomes"),
            ("asked_by", "VARCHAR", "who asked for the rerun"),
            ("why", "VARCHAR", "why, as they said"),
            _STARTED,
            ("due_at", "TIMESTAMP", "when its code was to begin, if later than its start"),
            *_ENDED,
            ("attempts", "BIGINT", "attempts of the function's own code"),
            ("partition", "BIGINT", "the partition where it lives"),
            ("first_offset", "BIGINT", "the offset of its first record in that journal"),
            ("last_offset", "BIGINT", "that of its last one so far; others' lie between"),
            ("partial", "BOOLEAN", "it began before the log that the tables were made from"),
        ),
        ends=("output", *_ERRORS, "reason", "ended_at", "duration_ms"),
        unended="running",
    ),
    Table(
        "steps",
        "a step of a run: all its attempts together",
        (
            _RUN,
            _FUNCTION,
            _STEP,
            (
                "status",
                "VARCHAR",
                "running (for a second at least), retrying, completed, failed,"
                " or abandoned: the code, or the run, ended without it",
            ),
            ("attempts", "BIGINT", "how often it was tried so far"),
            ("started_at", "TIMESTAMP", "when its first attempt began"),
            ("attempt_started_at", "TIMESTAMP", "when its last attempt began"),
            *_ENDED,
            ("output", "JSON", "what it returned"),
            *_ERROR,
        ),
        ends=("output", *_ERRORS, "ended_at", "duration_ms"),
        unended="running",
    ),
    Table(
        "attempts",
        "one try of a step, or of the function's own code if it failed (then step is '')",
        (
            _RUN,
            _FUNCTION,
            _STEP,
            ("attempt", "BIGINT", "its number, from 1"),
            ("status", "VARCHAR", "running, completed, failed or abandoned"),
            ("started_at", "TIMESTAMP", "when it began; null for the function's own code"),
            *_ENDED,
            ("retry_at", "TIMESTAMP", "when the next one was to begin"),
            *_ERROR,
        ),
        ends=("retry_at", *_ERRORS, "ended_at", "duration_ms"),
        unended="running",
    ),
    Table(
        "waits",
        "a wait for an event, a sleep, or a timer of the run's own code",
        (
            _RUN,
            _FUNCTION,
            _STEP,
            ("kind", "VARCHAR", "event, sleep or timer"),
            (
                "status",
                "VARCHAR",
                "waiting; matched (an event came), timed-out, ended (the time came), abandoned",
            ),
            ("event_name", "VARCHAR", "the event, or pattern of events, it waits for"),
            ("expression", "VARCHAR", "the condition that the event must meet"),
            ("event_id", "VARCHAR", "the event that came"),
            ("data", "JSON", "that event's data"),
            _STARTED,
            ("due_at", "TIMESTAMP", "when it ends at the latest"),
            *_ENDED,
        ),
        ends=("event_id", "data", "ended_at", "duration_ms"),
        unended="waiting",
    ),
    Table(
        "signals",
        "a wait for a signal",
        (
            _RUN,
            _FUNCTION,
            _STEP,
            ("signal", "VARCHAR", "the signal's name"),
            (
                "status",
                "VARCHAR",
                "waiting, received, timed-out, refused (another run waits for it), abandoned",
            ),
            ("data", "JSON", "what came with it"),
            _STARTED,
            ("due_at", "TIMESTAMP", "when it ends at the latest"),
            *_ENDED,
        ),
        ends=("data", "ended_at", "duration_ms"),
        unended="waiting",
    ),
    Table(
        "invocations",
        "a run's call of another function",
        (
            _RUN,
            _FUNCTION,
            _STEP,
            ("invoked", "VARCHAR", "the full id of the function that is called"),
            ("status", "VARCHAR", "waiting, completed, failed, abandoned"),
            ("output", "JSON", "what it returned"),
            *_ERROR,
            _STARTED,
            ("due_at", "TIMESTAMP", "when it ends at the latest"),
            *_ENDED,
        ),
        ends=("output", *_ERRORS, "ended_at", "duration_ms"),
        unended="waiting",
    ),
    Table(
        "dead_letters",
        "an input that could not be read or handled",
        (
            ("source", "VARCHAR", "where it lay: topic-partition-offset"),
            ("error", "VARCHAR", "why it was rejected"),
            ("value", "BLOB", "its bytes, as they were"),
            ("rejected_at", "TIMESTAMP", "when it was rejected"),
            ("partition", "BIGINT", "the partition of the topic where it lies"),
            ("offset", "BIGINT", "its offset there"),
        ),
        since="rejected_at",
    ),
    Table(
        "recordings",
        "a finished run of a day that is over, as a run file holds it: to be exported, and run"
        " again, when its journal is gone",
        (
            _RUN,
            _FUNCTION,
            ("ended_at", "TIMESTAMP", "when it ended"),
            ("recording", "BLOB", "the run, in Avro's single-object encoding"),
        ),
        since="ended_at",
    ),
)

VIEWS = (
    Table(
        "failures",
        "failed steps, and failed runs whose own code raised, by what went wrong",
        (
            _FUNCTION,
            ("step", "VARCHAR", "the step; '' for the function's own code"),
            ("error_name", "VARCHAR", "the exception's class"),
            ("shape", "VARCHAR", "its text, with every number and id as #"),
            ("failures", "BIGINT", "how many there were"),
            ("runs", "BIGINT", "in how many runs"),
            ("first_at", "TIMESTAMP", "when the first one was"),
            ("last_at", "TIMESTAMP", "when the last one was"),
            ("example_run", "VARCHAR", "the run of the last one"),
            ("example", "VARCHAR", "the text of the last one"),
        ),
        view=True,
    ),
    Table(
        "slow_steps",
        "a step of a function, with the time that it takes, retries included",
        (
            _FUNCTION,
            _STEP,
            ("steps", "BIGINT", "how many ended"),
            ("p50_ms", "BIGINT", "half of them took at most this long (to 5 %)"),
            ("p95_ms", "BIGINT", "95 of 100 did (to 5 %)"),
            ("max_ms", "BIGINT", "the longest"),
            ("total_ms", "BIGINT", "all together"),
        ),
        view=True,
    ),
    Table(
        "flaky_steps",
        "a step of a function that was tried again, or failed",
        (
            _FUNCTION,
            _STEP,
            ("steps", "BIGINT", "how many ended"),
            ("retried", "BIGINT", "how many needed more than one attempt"),
            ("failed", "BIGINT", "how many failed for good"),
            ("retried_share", "DOUBLE", "the share that needed more than one attempt"),
            ("attempts", "BIGINT", "attempts of all of them"),
        ),
        view=True,
    ),
    Table(
        "run_timeline",
        "what a run did, one row for each thing: WHERE run = '…' ORDER BY started_at",
        (
            _RUN,
            _FUNCTION,
            (
                "kind",
                "VARCHAR",
                "run, step, attempt (one that failed), event, sleep, timer, signal, invocation",
            ),
            ("name", "VARCHAR", "the step's id; the function's for the run itself"),
            ("status", "VARCHAR", "as in the table it comes from"),
            ("attempt", "BIGINT", "attempts so far, or this one's number"),
            ("started_at", "TIMESTAMP", "when it began"),
            *_ENDED,
            ("detail", "VARCHAR", "the error's text; the event, signal or function"),
        ),
        view=True,
    ),
    Table(
        "throughput",
        "runs of a function in a minute",
        (
            ("minute", "TIMESTAMP", "its beginning"),
            _FUNCTION,
            ("started", "BIGINT", "runs that started"),
            ("completed", "BIGINT", "runs that completed"),
            ("failed", "BIGINT", "runs that failed"),
            ("cancelled", "BIGINT", "runs that were cancelled"),
        ),
        view=True,
    ),
    Table(
        "waiting_now",
        "something that an unfinished run waits for",
        (
            _RUN,
            _FUNCTION,
            ("kind", "VARCHAR", "event, sleep, timer, signal, invocation, or retry of a step"),
            _STEP,
            ("target", "VARCHAR", "the event, signal or function; a retry's last error"),
            ("since", "TIMESTAMP", "since when"),
            ("due_at", "TIMESTAMP", "until when at the latest"),
        ),
        view=True,
    ),
)

ALL = TABLES + VIEWS
BY_NAME = {table.name: table for table in ALL}


def describe(name: str = "") -> str:
    """Return what there is, as text: all tables, or one with its columns.

    Raises:
        KeyError: there is no table of this name.
    """
    if not name:
        blocks = [describe(table.name) for table in ALL]
        return "\n\n".join(blocks)
    table = BY_NAME[name]
    kind = "view" if table.view else "table"
    width = max(len(c) for c, _, _ in table.columns)
    lines = [f"{table.name} ({kind}): {table.about}"]
    lines += [f"  {c:<{width}}  {t:<9}  {about}" for c, t, about in table.columns]
    return "\n".join(lines)
