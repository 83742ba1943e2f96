"""Homes are found as the Java client finds partitions."""

import pytest

from stepfold_schemas.ids import murmur2, partition_of

VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""What the Java client's own test of murmur2 holds: ``UtilsTest.testMurmur2`` of Apache Kafka."""


@pytest.mark.parametrize(("key", "hashed"), VECTORS.items())
def test_murmur2_is_that_of_the_java_client(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF


def test_a_negative_hash_has_its_sign_taken_off_as_in_java() -> None:
    assert partition_of("foobar", 1_000) == (-790332482 & 0x7FFFFFFF) % 1_000
