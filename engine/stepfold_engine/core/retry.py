"""When something that failed is tried again. Pure: the jitter comes from what is retried."""

from hashlib import sha1

from stepfold_schemas.entries import RetryPolicy

RETRIES_MAX = 20


def retry_delay_ms(policy: RetryPolicy, attempt: int, what: bytes) -> int:
    """Return how long to wait after attempt ``attempt`` (from 1) of ``what`` failed.

    The jitter spreads retries of different things and is the same whenever it is asked for.

    >>> retry_delay_ms(RetryPolicy(delay_ms=1000, factor=2.0, jitter=0.0), 3, b"")
    4000
    """
    delay = policy.delay_ms * policy.factor ** min(attempt - 1, 64)
    delay = min(delay, float(policy.delay_ms_max))
    digest = sha1(what + attempt.to_bytes(4, "big"), usedforsecurity=False).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return int(delay * (1 + policy.jitter * share))
