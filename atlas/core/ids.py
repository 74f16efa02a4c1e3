"""Identifiers: a prefix and a ULID (Crockford base32, 26 characters; design section 6). Pure.

48 bits of milliseconds since the epoch, then 80 bits: random, or for a keyed event a hash of what the
key is unique within. Text order is time order. The id of a delivery to a workflow is a hash alone and carries
no time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cache, lru_cache
from struct import Struct
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ULID_CHARS: Final = 26
ENTROPY_BYTES: Final = 10
DEDUP_KEY_BYTES: Final = 16
#: The ULID's time has 48 bits.
TIME_MS_MAX: Final = 2**48 - 1
#: Ids that one draw of randomness is good for: one system call instead of so many.
_POOLED_IDS: Final = 512

_PAIRS: Final = tuple(a + b for a in ALPHABET for b in ALPHABET)
_ULID: Final = f"[0-7][{ALPHABET}]{{25}}"
_TO_BASE32: Final = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_HALVES: Final = Struct(">BIBI")


def ulid(ms: int, entropy: int | bytes) -> str:
    """A ULID.

    Args:
        ms: milliseconds since the epoch, at most `TIME_MS_MAX`.
        entropy: 80 bits, as a number or as 10 bytes.
    """
    if not isinstance(entropy, bytes):
        entropy = entropy.to_bytes(ENTROPY_BYTES, "big")
    return _time_chars(ms) + _entropy_chars(entropy)


def event_id(received_ms: int, entropy: bytes) -> str:
    """`evt_`; `entropy` is 10 bytes, random or, for a keyed event, the start of its `dedup_key`."""
    return "evt_" + ulid(received_ms, entropy)


def event_ids(received_ms: int, entropy: bytes) -> list[str]:
    """`event_id` for each 10 bytes of `entropy`."""
    start = "evt_" + _time_chars(received_ms)
    return [start + _halves(a << 32 | b, c << 32 | d) for a, b, c, d in _HALVES.iter_unpack(entropy)]


def dedup_key(workspace_id: str, environment: str, namespace: str, key: str) -> bytes:
    """16 bytes naming an idempotency key within what it is unique in (design section 7).

    Every part goes in with its length, so that no two tuples are the same text. `namespace` tells
    apart keys sent by a client from those that a batch's header key gives its items.
    """
    text = (
        f"{len(workspace_id)}:{workspace_id}{len(environment)}:{environment}"
        f"{len(namespace)}:{namespace}{len(key)}:{key}"
    )
    return hashlib.sha256(text.encode()).digest()[:DEDUP_KEY_BYTES]


def keyed_event_id(received_ms: int, workspace_id: str, environment: str, namespace: str, key: str) -> str:
    """`evt_` of an event with an idempotency key: the same for the same time and key."""
    return event_id(received_ms, dedup_key(workspace_id, environment, namespace, key)[:ENTROPY_BYTES])


def delivery_id(event_id: str, target_id: str, replay_number: int) -> str:
    """`whd_` of one event on one route: the same on every attempt, another after a replay."""
    text = f"{len(event_id)}:{event_id}{len(target_id)}:{target_id}{replay_number}"
    digest = hashlib.sha256(text.encode()).digest()
    return "whd_" + ulid(int.from_bytes(digest[:6], "big"), digest[6:16])


def notice_id(
    created_ms: int,
    event_id: str,
    endpoint_id: str,
    outcome_type: str,
    workflow_id: str,
    attempt: int,
    replay_number: int,
) -> str:
    """`whd_` of one outcome told to one endpoint. A replay's is new, even if it ended before an attempt.

    It carries the outcome's time, so that it says where in an endpoint's list it stands, as a cursor has to
    when what it named is past retention.
    """
    parts = (event_id, endpoint_id, outcome_type, workflow_id, str(attempt), str(replay_number))
    text = "".join(f"{len(part)}:{part}" for part in parts)
    # A fact's time may be beyond what an id holds, if somebody else wrote it: that must not stop a fold.
    return "whd_" + ulid(min(created_ms, TIME_MS_MAX), hashlib.sha256(text.encode()).digest()[:ENTROPY_BYTES])


def id_pattern(prefix: str) -> str:
    """The form of an id, as a regular expression that every language reads."""
    return f"^{prefix}{_ULID}$"


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` is `prefix` (`evt_`, ...) and a ULID, in upper case; nothing else is an id."""
    return _pattern(prefix)(text) is not None


def id_time_ms(identifier: str) -> int:
    """Milliseconds since the epoch that a well-formed id carries."""
    return int(identifier[-ULID_CHARS : 10 - ULID_CHARS].translate(_TO_BASE32), 32)


class IdSource:
    """Makes new ids from a clock and a source of randomness, which it draws from in bulk.

    For one thread (the event loop's). A forked process must make its own: it would repeat the pool.

    Args:
        entropy: n -> n random bytes, of cryptographic quality (`os.urandom`).
        now_ms: milliseconds since the epoch.
    """

    def __init__(self, entropy: Callable[[int], bytes], now_ms: Callable[[], int]) -> None:
        self._entropy = entropy
        self._now_ms = now_ms
        self._pool = b""
        self._next = 0

    def new(self, prefix: str) -> str:
        """A new id: `prefix` (`req_`, `cmd_`, ...) and a ULID of now."""
        return f"{prefix}{_time_chars(self._now_ms())}{_entropy_chars(self.entropy80())}"

    def event_id(self, received_ms: int) -> str:
        """A new `evt_` id for an event without an idempotency key, received at a time already taken."""
        return event_id(received_ms, self.entropy80())

    def entropy80(self) -> bytes:
        """10 fresh random bytes."""
        start = self._next
        if start == len(self._pool):
            self._pool = self._entropy(_POOLED_IDS * ENTROPY_BYTES)
            start = 0
        self._next = start + ENTROPY_BYTES
        return self._pool[start : start + ENTROPY_BYTES]


@lru_cache(maxsize=16)
def _time_chars(ms: int) -> str:
    """10 characters; 50 bits, of which the first two are 0. The events of a batch share them."""
    if not 0 <= ms <= TIME_MS_MAX:
        raise ValueError(f"not a time that a ULID can hold: {ms}")
    return (
        f"{_PAIRS[ms >> 40]}{_PAIRS[ms >> 30 & 1023]}{_PAIRS[ms >> 20 & 1023]}"
        f"{_PAIRS[ms >> 10 & 1023]}{_PAIRS[ms & 1023]}"
    )


def _entropy_chars(entropy: bytes) -> str:
    """16 characters."""
    a, b, c, d = _HALVES.unpack(entropy)
    return _halves(a << 32 | b, c << 32 | d)


def _halves(high: int, low: int) -> str:
    """Two of 40 bits each, because small numbers are faster to shift."""
    return (
        f"{_PAIRS[high >> 30]}{_PAIRS[high >> 20 & 1023]}{_PAIRS[high >> 10 & 1023]}{_PAIRS[high & 1023]}"
        f"{_PAIRS[low >> 30]}{_PAIRS[low >> 20 & 1023]}{_PAIRS[low >> 10 & 1023]}{_PAIRS[low & 1023]}"
    )


@cache
def _pattern(prefix: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(re.escape(prefix) + _ULID).fullmatch
