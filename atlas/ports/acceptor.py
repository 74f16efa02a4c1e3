"""Acceptance: idempotency and append as one decision (design section 7).

For one dedup key within 24 hours, every candidate with the same payload hash gets the same frozen
response and the log holds one record; another hash is a conflict and appends nothing. This holds for
concurrent candidates, across gateways, and across a crash between append and reply.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from atlas.ports.log import NewRecord


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A validated event on its way into the log.

    Attributes:
        topic: the stream's topic.
        partition: the event's shard.
        record: the event record to append.
        response: the body of the 202 for exactly this record; frozen when it is appended.
        dedup_key: 16 bytes naming (workspace, environment, namespace, idempotency key), or None.
        payload_hash: hash of the payload's JSON value; empty when there is no key.
    """

    topic: str
    partition: int
    record: NewRecord
    response: bytes
    dedup_key: bytes | None = None
    payload_hash: bytes = b""


class Verdict(enum.Enum):
    """What became of a candidate."""

    APPENDED = "appended"
    REPLAYED = "replayed"
    CONFLICT = "conflict"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """`response` is the frozen 202 body for APPENDED and REPLAYED, empty for CONFLICT."""

    verdict: Verdict
    response: bytes = b""


class Acceptor(Protocol):
    """Port of the one write path for events."""

    async def accept(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """Decide and append, in order; returns one outcome each, durable.

        Raises:
            LogUnavailable: for all of them; keyed ones may be sent again with the same key.
        """

    async def find(self, dedup_key: bytes, payload_hash: bytes) -> Outcome | None:
        """The outcome a candidate with this key and hash would get, or None when the key is free."""
