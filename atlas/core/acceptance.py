"""A checked event becomes the record that is its acceptance, and the 202 that tells of it.

Both are made of the same arguments here, before anything is appended, so that the response can be
frozen in the same transaction as the record (design section 7). Pure: time, randomness and
configuration are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import orjson
from msgspec import Struct

from atlas.core.answers import AcceptedEvent
from atlas.core.entities import Scope, Stream
from atlas.core.event_requests import CheckedEvent
from atlas.core.facts import EventRecord, encode
from atlas.core.ids import ENTROPY_BYTES, dedup_key, event_id, event_ids, id_time_ms
from atlas.core.lifecycle import ACCEPTED, QUEUED
from atlas.core.murmur2 import partitions_for
from atlas.core.strict_json import PAYLOAD_HASH_BYTES, payload_hash
from atlas.core.timestamps import format_ms

#: Keys that clients send: the header of a single POST, `idempotency_key` of a batch's item.
SENT: Final = "sent"
#: Keys that a batch's header gives its items. Apart, so that nobody's own `K/0` meets them.
DERIVED: Final = "batch"

#: The field of a batch's item that is no part of its payload: a single POST carries it in a header.
KEY_FIELD: Final = "idempotency_key"


class Key(NamedTuple):
    """An idempotency key and the payload it was used with.

    Attributes:
        text: as responses and the record show it; a derived key shows as `K/i`.
        dedup_key: 16 bytes naming it within workspace, environment and namespace.
        payload_hash: equal for equal JSON values.
    """

    text: str
    dedup_key: bytes
    payload_hash: bytes


class Acceptance(Struct, frozen=True, gc=False):
    """What is appended, and answered once it is durable.

    Attributes:
        partition: the event's shard.
        record_key: the bytes that chose it: the ordering key, or the event's id.
        value: the event record.
        response: the body of the 202.
    """

    partition: int
    record_key: bytes
    value: bytes
    response: bytes


class Routing(NamedTuple):
    """The routes that an event gets, for ever; `ordered` are those of them where its ordering key counts."""

    routes: tuple[str, ...]
    ordered: tuple[str, ...] = ()


class Circumstances(Struct, frozen=True, gc=False):
    """What is the same for every event of one request.

    Attributes:
        received_ms: milliseconds since the epoch.
        control_offset: the next control offset that the gateway would fold.
        shards: partitions of every event topic.
    """

    received_ms: int
    control_offset: int
    shards: int


def sent_key(scope: Scope, text: str, payload: Mapping[str, object]) -> Key:
    """The key that a client sent with one event.

    Args:
        scope: workspace and environment.
        text: the key.
        payload: the whole request object, or a batch's item, whose `idempotency_key` does not count.
    """
    return Key(text, dedup_key(*scope, SENT, text), _hash(payload))


def derived_key(scope: Scope, header: str, index: int, payload: Mapping[str, object]) -> Key:
    """The key that a batch's header gives its item `index`, from 0 (API notes)."""
    text = f"{header}/{index}"
    return Key(text, dedup_key(*scope, DERIVED, text), _hash(payload))


def accept(
    event: CheckedEvent,
    stream: Stream,
    key: Key | None,
    entropy: Callable[[], bytes],
    now: Circumstances,
    routing: Routing | None = None,
) -> Acceptance:
    """Decide everything about an event that is about to be appended.

    Args:
        event: checked.
        stream: the one it names.
        routing: of the stream's default routes those that take the event; None: all.
        key: None for an event without an idempotency key.
        entropy: gives 10 random bytes for the id; not asked when there is a key.
        now: of the request.
    """
    [made] = accept_all([(event, stream, key, routing or Routing(stream.default_routes))], entropy, now)
    return made


def accept_all(
    events: Sequence[tuple[CheckedEvent, Stream, Key | None, Routing]],
    entropy: Callable[[], bytes],
    now: Circumstances,
) -> list[Acceptance]:
    """`accept` for each event of a request, with its routes, in less time."""
    ids = event_ids(now.received_ms, b"".join(_low_bits([key for _, _, key, _ in events], entropy)))
    received_at = format_ms(now.received_ms)
    records = [
        _record(identifier, received_at, *one, now.control_offset)
        for identifier, one in zip(ids, events, strict=True)
    ]
    keys = [(record.ordering_key or record.id).encode() for record in records]
    return [
        Acceptance(partition, record_key, encode(record), response_to(record))
        for partition, record_key, record in zip(partitions_for(keys, now.shards), keys, records, strict=True)
    ]


def _low_bits(keys: Sequence[Key | None], entropy: Callable[[], bytes]) -> list[bytes]:
    """A key's are a hash of it; the others rise, so that ids without a key are in the order sent."""
    rising = iter(sorted([entropy() for key in keys if key is None]))
    return [next(rising) if key is None else key.dedup_key[:ENTROPY_BYTES] for key in keys]


def _record(
    identifier: str,
    received_at: str,
    event: CheckedEvent,
    stream: Stream,
    key: Key | None,
    routing: Routing,
    control_offset: int,
) -> EventRecord:
    return EventRecord(
        id=identifier,
        workspace_id=stream.workspace_id,
        environment=stream.environment,
        stream=event.stream,
        type=event.type,
        occurred_at=event.occurred_at,
        received_at=received_at,
        data=msgspec.Raw(event.data_json),
        actor=event.actor,
        metadata=event.metadata,
        ordering_key=event.ordering_key,
        idempotency_key=None if key is None else key.text,
        payload_hash=None if key is None else key.payload_hash.hex(),
        routes=routing.routes,
        ordered_routes=routing.ordered,
        control_offset=control_offset,
    )


def key_of(record: EventRecord) -> Key | None:
    """The key that a record was accepted with; None if it had none, or none that `accept` would give it.

    The record does not say which namespace its key was in. The id does: its low bits are the key's.
    """
    if record.idempotency_key is None or record.payload_hash is None:
        return None
    for namespace in (SENT, DERIVED):
        key = dedup_key(record.workspace_id, record.environment, namespace, record.idempotency_key)
        if record.id == event_id(id_time_ms(record.id), key[:ENTROPY_BYTES]):
            hashed = _from_hex(record.payload_hash)
            return None if hashed is None else Key(record.idempotency_key, key, hashed)
    return None


def response_to(record: EventRecord) -> bytes:
    """The body of the 202 (reference, "Send an event"): the same bytes for the record as it is read back."""
    accepted: AcceptedEvent = {
        "id": record.id,
        "object": "event",
        "stream": record.stream,
        "type": record.type,
        "status": ACCEPTED,
        "received_at": record.received_at,
        "occurred_at": record.occurred_at,
        "idempotency_key": record.idempotency_key,
        "routes": [{"workflow_id": target, "status": QUEUED} for target in record.routes],
    }
    return orjson.dumps(accepted)


def _from_hex(text: str) -> bytes | None:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == PAYLOAD_HASH_BYTES else None


def _hash(payload: Mapping[str, object]) -> bytes:
    if KEY_FIELD in payload:
        payload = {name: value for name, value in payload.items() if name != KEY_FIELD}
    return payload_hash(payload)
