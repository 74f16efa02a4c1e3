"""Kafka's default partitioner for keyed records, so that every client agrees where a key lies.

`org.apache.kafka.common.utils.Utils.murmur2` and `toPositive(murmur2(key)) % partitions`
(`BuiltInPartitioner.partitionForKey`).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF
#: Fewer keys are hashed faster one by one.
_TOGETHER_MIN: Final = 8


def partition_for(key: bytes, partitions: int) -> int:
    """The partition, from 0, that Kafka's clients choose for a record with this key."""
    return (murmur2(key) & _POSITIVE) % partitions


def partitions_for(keys: Sequence[bytes], partitions: int) -> list[int]:
    """`partition_for` of each; a seventh of the time for many keys of one length, as event ids are."""
    if len(keys) < _TOGETHER_MIN or len(set(map(len, keys))) > 1:
        return [partition_for(key, partitions) for key in keys]
    return [(h & _POSITIVE) % partitions for h in _together(keys)]


def _together(keys: Sequence[bytes]) -> tuple[int, ...]:
    """`murmur2` of keys of one length, each in a lane of 64 bits of one large integer.

    A product of two numbers of 32 bits stays in its lane; what a shift brings in from the next lane lies
    above the 32 bits that `mask` leaves.
    """
    count, length = len(keys), len(keys[0])
    words = -(-length // 4)
    padding = bytes(words * 4 - length)
    columns = unpack(f"<{count * words}I", padding.join(keys) + padding)
    mask, h = _lanes([_MASK] * count), _lanes([_SEED ^ length] * count)
    for at in range(length >> 2):
        k = _lanes(columns[at::words]) * _M & mask
        h = (h * _M ^ (k ^ k >> 24 & mask) * _M) & mask
    if padding:
        h = (h ^ _lanes(columns[words - 1 :: words])) * _M & mask
    h = (h ^ h >> 13 & mask) * _M & mask
    h ^= h >> 15 & mask
    return unpack(f"<{count}Q", h.to_bytes(count * 8, "little"))


def _lanes(values: Sequence[int]) -> int:
    return int.from_bytes(pack(f"<{len(values)}Q", *values), "little")


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned (Java shows it signed)."""
    length = len(data)
    words = length >> 2
    h = _SEED ^ length
    for k in unpack(f"<{words}I", data if length == words << 2 else data[: words << 2]):
        k = k * _M & _MASK
        h = (h * _M ^ (k ^ k >> 24) * _M) & _MASK
    tail = data[words << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15
