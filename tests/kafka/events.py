"""Events as the gateway makes them, for tests of what lies beneath it."""

from __future__ import annotations

import uuid

from atlas.adapters.system_clock import SystemClock
from atlas.core.acceptance import Circumstances, Key, accept, derived_key, sent_key
from atlas.core.commands import CreateStream
from atlas.core.entities import Stream
from atlas.core.event_requests import read_event
from atlas.core.facts import EVENT_SCHEMA, SCHEMA_HEADER
from atlas.ports.acceptor import Candidate
from atlas.ports.log import NewRecord
from tests.kafka.control import Control


def stream_named(workspace_id: str, name: str) -> Stream:
    """A stream of the live environment."""
    return Stream(
        id=f"stm_{name}",
        workspace_id=workspace_id,
        environment="live",
        name=name,
        description=None,
        retention_days=14,
        default_routes=(),
        created_at_ms=0,
    )


async def write_down(control: Control, stream: Stream) -> None:
    """Have the control log know the stream; its topic is made elsewhere."""
    command = CreateStream(id=control.ids.new("cmd_"), at_ms=0, stream=stream, streams_max=100)
    await control.registry.propose(command)


def event(
    stream: Stream,
    key: str | None,
    number: int = 0,
    *,
    shards: int,
    of_batch: int | None = None,
    ago_ms: int = 0,
    note: str = "\u2603 \x7f",
) -> Candidate:
    """One event.

    Args:
        of_batch: it is that item of a batch whose header key it is.
        ago_ms: since it was received.
        note: in its data.
    """
    scope = (stream.workspace_id, stream.environment)
    body = {
        "stream": stream.name,
        "type": "order.made",
        "occurred_at": "2026-05-18T16:22:11.4820+02:00",
        "data": {"n": number, "of": note},
    }
    used: Key | None = None
    if key is not None and of_batch is None:
        used = sent_key(scope, key, body)
    elif key is not None and of_batch is not None:
        used = derived_key(scope, key, of_batch, body)
    now = Circumstances(SystemClock().now_ms() - ago_ms, 0, shards)
    made = accept(read_event(body), stream, used, lambda: uuid.uuid4().bytes[:10], now)
    record = NewRecord(made.value, made.record_key, ((SCHEMA_HEADER, EVENT_SCHEMA),))
    dedup = (None, b"") if used is None else (used.dedup_key, used.payload_hash)
    return Candidate(stream.topic, made.partition, record, made.response, *dedup)
