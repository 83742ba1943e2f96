"""Bytes of records: whatever they are, a reader gets a value or an ``UndecodableError``.

Never another exception, and never memory out of proportion to the bytes.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stepfold_schemas import codec
from stepfold_schemas.codec import UndecodableError
from stepfold_schemas.entries import Decision
from stepfold_schemas.events import Event
from stepfold_schemas.messages import Letter
from tests.fuzz.effort import PURE
from tests.fuzz.values import ANYTHING_WRITTEN, ENTRIES, MESSAGES

DECODERS: dict[Callable[[bytes], Any], tuple[type, ...]] = {
    codec.decode_event: (Event,),
    codec.decode_letter: (Letter,),
    codec.decode_message: MESSAGES,
    codec.decode_entry: ENTRIES,
    codec.decode_decision: (Decision,),
}
MEMORY_BYTES_MAX = 1 << 20
MEMORY_FACTOR_MAX = 2_000
"""One byte may become an object of some hundred bytes in a list of records, but not a gigabyte."""

_HEADERS = sorted(codec._BY_HEADER)
_LONGS = st.sampled_from(
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # the smallest: a negative length
        b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # the largest: 2**63 - 1 bytes to come
        b"\xfe\xff\xff\xff\x0f",
        b"\x80\xa0\x80\xf4\x03",
        b"\x01",
        b"\xff" * 11 + b"\x01",
        b"\xff" * 300 + b"\x01",
        b"\x80" * 20 + b"\x00",
    ]
)


def read(data: bytes) -> list[Any]:
    """Read bytes as everything that they may be; return what they are taken for."""
    found: list[Any] = []
    for decode, classes in DECODERS.items():
        try:
            value = decode(data)
        except UndecodableError as error:
            assert str(error)  # noqa: PT017 - either outcome is right
        else:
            assert isinstance(value, classes)
            found.append(value)
    return found


@PURE
@given(ANYTHING_WRITTEN)
def test_whatever_is_written_is_read_back(value: Any) -> None:
    data = codec.encode(value)
    (found,) = read(data)
    # A NaN is not equal to itself; its bytes are.
    assert type(found) is type(value)
    assert codec.encode(found) == data


Harm = tuple[str, int, int, bytes]
"""What is done to bytes, where (modulo their length), how much of it, and with what."""

HARM = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "insert", "put", "splice", "drop", "repeat"]),
        st.integers(0, 300),
        st.integers(0, 16),
        _LONGS | st.binary(max_size=8) | ANYTHING_WRITTEN.map(codec.encode),
    ),
    min_size=1,
    max_size=3,
)


def harmed(data: bytes, harm: list[Harm]) -> bytes:
    """Damage bytes as disks, networks and other programs do."""
    found = bytearray(data)
    for kind, where, size, other in harm:
        at = where % (len(found) + 1)
        match kind:
            case "cut":
                del found[at:]
            case "flip" if at < len(found):
                found[at] ^= 1 << size % 8
            case "insert":
                found[at:at] = other
            case "put":
                found[at : at + size] = other
            case "splice":
                found[at:] = other[at:]
            case "drop":
                del found[at : at + size]
            case _:
                found[at:at] = found[max(0, at - size) : at]
    return bytes(found)


def damage(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Write values, and damage their bytes."""
    return st.builds(harmed, values.map(codec.encode), HARM)


DAMAGED = damage(ANYTHING_WRITTEN)
GARBAGE = st.binary(max_size=64) | st.builds(
    lambda header, rest: header + rest,
    st.sampled_from(_HEADERS) | st.binary(min_size=8, max_size=8).map(lambda f: b"\xc3\x01" + f),
    st.binary(max_size=80) | st.lists(_LONGS | st.binary(max_size=6), max_size=8).map(b"".join),
)


@PURE
@given(DAMAGED | GARBAGE)
def test_damaged_bytes_are_refused_or_are_another_value(data: bytes) -> None:
    for value in read(data):
        again = codec.encode(value)
        (found,) = read(again)
        assert codec.encode(found) == again


@PURE
@given(st.sampled_from(_HEADERS), st.lists(_LONGS | st.binary(max_size=4), max_size=40))
def test_a_length_that_lies_takes_no_memory(header: bytes, rest: list[bytes]) -> None:
    data = header + b"".join(rest)
    tracemalloc.start()
    try:
        read(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MEMORY_BYTES_MAX + MEMORY_FACTOR_MAX * len(data)


@PURE
@given(st.binary(min_size=8, max_size=8), st.binary(max_size=40))
def test_an_unknown_schema_is_named(fingerprint: bytes, rest: bytes) -> None:
    data = b"\xc3\x01" + fingerprint + rest
    for decode in DECODERS:
        try:
            decode(data)
        except UndecodableError as error:
            if data[:10] not in _HEADERS:
                assert fingerprint.hex() in str(error)  # noqa: PT017 - the words are the point
