"""Kafka's default partitioner for keyed records, so that every client agrees where a key lies.

`org.apache.kafka.common.utils.Utils.murmur2` and `toPositive(murmur2(key)) % partitions`
(`BuiltInPartitioner.partitionForKey`).
"""

from __future__ import annotations

from struct import unpack
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF


def partition_for(key: bytes, partitions: int) -> int:
    """The partition, from 0, that Kafka's clients choose for a record with this key."""
    return (murmur2(key) & _POSITIVE) % partitions


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
