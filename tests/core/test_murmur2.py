from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.murmur2 import murmur2, partition_for, partitions_for

#: Kafka's own: `UtilsTest.testMurmur2`, signed as Java has them.
KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def by_the_byte(data: bytes) -> int:
    """The Java method, statement by statement, in unsigned arithmetic."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for at in range(0, len(data) // 4 * 4, 4):
        k = data[at] + (data[at + 1] << 8) + (data[at + 2] << 16) + (data[at + 3] << 24)
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = (h * m) & mask
        h ^= k
    at = len(data) // 4 * 4
    rest = len(data) % 4
    if rest >= 3:
        h ^= data[at + 2] << 16
    if rest >= 2:
        h ^= data[at + 1] << 8
    if rest >= 1:
        h ^= data[at]
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


@pytest.mark.parametrize(("key", "signed"), KAFKA.items())
def test_kafkas_own_vectors(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32
    assert partition_for(key, 1000) == (signed & 0x7FFFFFFF) % 1000


@given(st.binary(max_size=80), st.integers(1, 64))
def test_same_as_the_plain_algorithm(key: bytes, partitions: int) -> None:
    assert murmur2(key) == by_the_byte(key)
    assert partition_for(key, partitions) == (by_the_byte(key) & 0x7FFFFFFF) % partitions


@given(st.integers(0, 40).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), max_size=40)))
def test_keys_of_one_length_together(keys: list[bytes]) -> None:
    assert partitions_for(keys, 2**31) == [partition_for(key, 2**31) for key in keys]


@given(st.lists(st.binary(max_size=40), max_size=40), st.integers(1, 64))
def test_any_keys_together(keys: list[bytes], partitions: int) -> None:
    assert partitions_for(keys, partitions) == [partition_for(key, partitions) for key in keys]
