"""Identifiers: how run, step and event ids are made, parsed and mapped to a partition.

Nothing here reads a clock or a random source; times and entropy are passed in, so that the same
input gives the same id, hot, replayed or on another machine.
"""

from hashlib import sha1

RUN_ID_BYTES = 16
RUN_KEY_BYTES = 10
STEP_KEY_BYTES = 20
PARTITIONS_MAX = 4096
"""A run's key begins with 12 bits that name the partition it lives in."""

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {c: i for i, c in enumerate(CROCKFORD)} | {c.lower(): i for i, c in enumerate(CROCKFORD)}
ULID_CHARS = 26
_HASH_BITS = 68


def murmur2(data: bytes) -> int:
    """Hash bytes as Kafka's Java client does, as an unsigned 32-bit number.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2`` (Austin Appleby's MurmurHash2,
    seed 0x9747b28c).

    >>> hex(murmur2(b"21"))
    '0xc5f2f8ec'
    """
    length = len(data)
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def partition_of(key: str, partitions: int) -> int:
    """Return the partition, 0 to ``partitions`` - 1, that is the home of a key.

    The same as the Java client's default partitioner for that key in UTF-8.
    """
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def run_key(home: int, function: str, cause: str) -> bytes:
    """Make the 10-byte key of the run that ``cause`` starts of ``function`` in partition ``home``.

    The key is the entropy of the run's ULID. It depends on nothing but its arguments: starting
    the same function for the same cause again gives the same key, and so the same run.
    """
    digest = sha1(f"{function}\0{cause}".encode(), usedforsecurity=False).digest()
    low = int.from_bytes(digest[:9], "big") & ((1 << _HASH_BITS) - 1)
    return ((home << _HASH_BITS) | low).to_bytes(RUN_KEY_BYTES, "big")


def invocation_cause(run: bytes, step: bytes) -> str:
    """Return what a run that another one's step invokes is started for: the cause in its key."""
    return f"step {step.hex()} of {ulid_text(run)}"


def key_at(home: int, key: bytes) -> bytes:
    """Return the key that the same function and cause have in another partition.

    >>> key_at(7, run_key(0, "shop-fulfil", "event-1")) == run_key(7, "shop-fulfil", "event-1")
    True
    """
    low = int.from_bytes(key, "big") & ((1 << _HASH_BITS) - 1)
    return ((home << _HASH_BITS) | low).to_bytes(RUN_KEY_BYTES, "big")


def run_id(at_ms: int, key: bytes) -> bytes:
    """Make a run's id, a ULID in 16 bytes, from the time of its start and its key."""
    return at_ms.to_bytes(6, "big") + key


def key_of(run: bytes) -> bytes:
    """Return the 10-byte key in a run's id."""
    return run[6:]


def home_of(run: bytes) -> int:
    """Return the partition in which a run lives, from its id.

    >>> home_of(run_id(0, run_key(7, "shop-fulfil", "event-1")))
    7
    """
    return (run[6] << 4) | (run[7] >> 4)


def time_of(ulid: bytes) -> int:
    """Return the time, in milliseconds since 1970, that a ULID carries."""
    return int.from_bytes(ulid[:6], "big")


def ulid_text(ulid: bytes) -> str:
    """Write a ULID's 16 bytes as 26 characters of Crockford's base 32.

    >>> ulid_text(bytes(16))
    '00000000000000000000000000'
    """
    value = int.from_bytes(ulid, "big")
    return "".join(CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def parse_ulid(text: str) -> bytes:
    """Read the 26 characters of a ULID; upper and lower case are the same.

    Raises:
        ValueError: the text is not a ULID.
    """
    if len(text) != ULID_CHARS or any(c not in _VALUES for c in text):
        msg = f"not a ULID: {text!r} (26 characters of 0-9 and A-Z without I, L, O, U)"
        raise ValueError(msg)
    value = 0
    for c in text:
        value = value << 5 | _VALUES[c]
    if value >> 128:
        msg = f"not a ULID: {text!r} is larger than 128 bits"
        raise ValueError(msg)
    return value.to_bytes(RUN_ID_BYTES, "big")


def step_key(name: str, index: int = 0) -> bytes:
    """Return a step's identity: SHA-1 of its id, with ``:1``, ``:2``, … for repeats.

    This is the identity that the protocol of Inngest's SDKs gives a step.

    >>> step_key("fetch").hex()[:8], step_key("fetch", 1) == step_key("fetch:1")
    ('ad8cee67', True)
    """
    text = f"{name}:{index}" if index else name
    return sha1(text.encode(), usedforsecurity=False).digest()
