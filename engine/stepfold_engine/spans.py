"""Ids of traces that follow from a run's, so that whoever writes or names a span means the same.

Source: W3C Trace Context. A trace's id is the run's id; of spans, see ``tracing``.
"""

from hashlib import sha256

from stepfold_schemas.ids import STEP_KEY_BYTES, parse_ulid

_KEY_CHARS = 2 * STEP_KEY_BYTES


def span_id(run: bytes, salt: bytes = b"") -> int:
    """Return the id of a run's span; ``salt`` tells it from the run's others, its own has none."""
    return int.from_bytes(sha256(run + salt).digest()[:8]) or 1


def traceparent(run: bytes) -> str:
    """Return the header that says that something was done by a run.

    >>> traceparent(bytes(15) + b"x")
    '00-00000000000000000000000000000078-d3d4de0af3ead607-01'
    """
    return f"00-{run.hex()}-{span_id(run):016x}-01"


def sender_of(event_id: str) -> bytes | None:
    """Return the run whose step sent an event with this id, if the step gave it no other.

    >>> sender_of("order-7") is None
    True
    """
    text, _, rest = event_id.partition(":")
    key, _, index = rest.partition(":")
    if len(key) != _KEY_CHARS or not index.isdecimal():
        return None
    try:
        return parse_ulid(text)
    except ValueError:
        return None
