"""`POST /v1/events`: the reference's literal request, the log's record, and every way to be refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from atlas.core.errors import ApiError, InvalidRequest, LogUnavailable, Unavailable
from atlas.core.facts import event_topic
from atlas.core.ids import id_time_ms, is_id
from atlas.core.murmur2 import partition_for
from atlas.gateway.call import Principal
from atlas.gateway.ingest import Ingest
from atlas.ports.log import TopicPartition
from atlas.runtime.registry import CATCH_UP_MAX_S, Registry
from atlas.runtime.telemetry import Metrics
from tests.ingest.harness import (
    OTHER_WORKSPACE,
    SHARDS,
    WORKSPACE,
    Installation,
    api_key,
    call,
    installation,
)
from tests.virtual_time import VirtualClock, settle, virtual_time

#: The reference's request, byte for byte.
REFERENCE_REQUEST = b"""{
"stream": "orders-prod",
"type": "order.fulfilled",
"occurred_at": "2026-05-18T14:22:11Z",
"data": {
"order_id": "ord_8K2N1Q7",
"currency": "USD",
"total_cents": 4299,
"line_items": [
{ "sku": "BK-1042", "qty": 1, "unit_cents": 4299 }
]
},
"actor": {
"type": "user",
"id": "usr_7T3Q9HBN2P",
"tenant_id": "tnt_acme_eu",
"ip": "203.0.113.42",
"user_agent": "AcmeCheckout/3.4 (iOS 18.2)"
},
"metadata": {
"region": "eu-west-1",
"channel": "web",
"experiment": "checkout_v7"
}
}"""
REFERENCE_KEY = "6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa"
#: The reference's response, but for the id.
REFERENCE_RESPONSE = """{
"id": "%s",
"object": "event",
"stream": "orders-prod",
"type": "order.fulfilled",
"status": "accepted",
"received_at": "2026-05-18T14:22:11.482Z",
"occurred_at": "2026-05-18T14:22:11Z",
"idempotency_key": "6f1a3b9c-0d29-4d6b-9c0e-1f4b7a2e88aa",
"routes": [
{ "workflow_id": "wf_billing_sync", "status": "queued" },
{ "workflow_id": "wf_search_index", "status": "queued" }
]
}"""
#: 2026-05-18T14:22:11.482Z
RECEIVED_MS = 1_779_114_131_482

EVENT = {
    "stream": "orders-prod",
    "type": "order.fulfilled",
    "occurred_at": "2026-05-18T14:22:11Z",
    "data": {"order_id": "ord_8K2N1Q7"},
}


@virtual_time
async def test_the_reference_request(clock: VirtualClock, tmp_path: Path) -> None:
    clock.epoch_ms = RECEIVED_MS
    async with installation(clock, tmp_path) as atlas:
        reply = await atlas.send(REFERENCE_REQUEST, REFERENCE_KEY)
        body = orjson.loads(reply.body)
        assert reply.status == 202
        assert reply.headers == ()
        assert is_id("evt_", body["id"])
        assert id_time_ms(body["id"]) == RECEIVED_MS
        # Names, order and values alike: compared as text.
        assert reply.body == orjson.dumps(orjson.loads(REFERENCE_RESPONSE % body["id"]))

        (record,) = await atlas.records("orders-prod")
        value = orjson.loads(record.value or b"")
        sent = orjson.loads(REFERENCE_REQUEST)
        assert record.headers == (("atlas-schema", b"atlas.event/1"),)
        assert record.key == body["id"].encode()
        assert {name: value.pop(name) for name in sent} == sent
        assert len(bytes.fromhex(value.pop("payload_hash"))) == 16
        assert value == {
            "id": body["id"],
            "workspace_id": WORKSPACE.id,
            "environment": "live",
            "received_at": "2026-05-18T14:22:11.482Z",
            "ordering_key": None,
            "idempotency_key": REFERENCE_KEY,
            "routes": ["wf_billing_sync", "wf_search_index"],
            "ordered_routes": [],
            "control_offset": atlas.registry.position,
        }
        assert atlas.count("appended") == 1


@virtual_time
async def test_the_quickstart_request(clock: VirtualClock, tmp_path: Path) -> None:
    literal = (
        '{ "stream": "orders-prod", "type": "order.fulfilled", "occurred_at": "2026-05-18T14:22:11Z", '
        '"data": { "order_id": "ord_8K2N1Q7", "total_cents": 4299 } }'
    )
    async with installation(clock, tmp_path) as atlas:
        reply = await atlas.send(literal.encode(), REFERENCE_KEY)
        assert orjson.loads(reply.body)["status"] == "accepted"


@virtual_time
async def test_without_a_key_every_request_is_a_new_event(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        bodies = [orjson.loads((await atlas.send(EVENT)).body) for _ in range(3)]
        events = await atlas.events("orders-prod")
        assert {event.id for event in events} == {body["id"] for body in bodies}
        assert len(events) == 3
        assert [body["idempotency_key"] for body in bodies] == [None] * 3
        assert [(event.idempotency_key, event.payload_hash) for event in events] == [(None, None)] * 3


@virtual_time
async def test_nulls_are_absent_and_times_are_kept(clock: VirtualClock, tmp_path: Path) -> None:
    sent = {
        **EVENT,
        "occurred_at": "2026-05-18T16:22:11.123456789+02:00",
        "actor": None,
        "metadata": None,
        "ordering_key": None,
    }
    async with installation(clock, tmp_path) as atlas:
        reply = await atlas.send(sent)
        (event,) = await atlas.events("orders-prod")
        assert orjson.loads(reply.body)["occurred_at"] == "2026-05-18T14:22:11.123456789Z"
        assert event.occurred_at == "2026-05-18T14:22:11.123456789Z"
        assert (event.actor, event.metadata, event.ordering_key) == (None, None, None)


@virtual_time
async def test_events_with_one_ordering_key_share_a_partition(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        for number in range(8):
            await atlas.send({**EVENT, "data": {"n": number}, "ordering_key": "ord_8K2N1Q7"})
        records = await atlas.records("orders-prod")
        assert [orjson.loads(record.value or b"")["data"]["n"] for record in records] == list(range(8))
        assert {record.key for record in records} == {b"ord_8K2N1Q7"}
        topic = event_topic("live", WORKSPACE.id, "orders-prod")
        ends = await atlas.log.end_offsets([TopicPartition(topic, shard) for shard in range(SHARDS)])
        expected = partition_for(b"ord_8K2N1Q7", SHARDS)
        assert {source.partition: end for source, end in ends.items() if end} == {expected: 8}


@virtual_time
async def test_data_is_stored_as_it_was_sent(clock: VirtualClock, tmp_path: Path) -> None:
    data = '{"z":1,"a":[1.0,1e2,-0,null,"\\u0000\\ud83d\\ude00"],"":{}}'
    rest = '"stream":"orders-prod","type":"order.fulfilled","occurred_at":"2026-05-18T14:22:11Z"}'
    body = f'{{"data":{data},{rest}'
    async with installation(clock, tmp_path) as atlas:
        await atlas.send(body.encode())
        (event,) = await atlas.events("orders-prod")
        assert bytes(event.data) == orjson.dumps(orjson.loads(data))
        assert list(orjson.loads(bytes(event.data))) == ["z", "a", ""]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"stream": None}, "stream"),
        ({"type": "fulfilled"}, "type"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"data": []}, "data"),
        ({"actor": {"ip": "1.2.3"}}, "actor.ip"),
        ({"metadata": {"region": 1}}, "metadata.region"),
        ({"ordering_key": ""}, "ordering_key"),
        ({"colour": "red"}, "colour"),
        ({"idempotency_key": "k"}, "idempotency_key"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], field: str, tmp_path: Path) -> None:
    @virtual_time
    async def scenario(clock: VirtualClock) -> None:
        async with installation(clock, tmp_path) as atlas:
            with pytest.raises(InvalidRequest) as refused:
                await atlas.send({**EVENT, **change}, "k")
            assert refused.value.field == field
            assert await atlas.records("orders-prod") == []
            assert atlas.count("rejected") == 1
            # Only 202s are stored: the key is still free.
            assert (await atlas.send(EVENT, "k")).headers == ()

    scenario()


@pytest.mark.parametrize("missing", ["stream", "type", "occurred_at", "data"])
def test_a_missing_field_is_named(missing: str, tmp_path: Path) -> None:
    @virtual_time
    async def scenario(clock: VirtualClock) -> None:
        async with installation(clock, tmp_path) as atlas:
            with pytest.raises(InvalidRequest) as refused:
                await atlas.send({name: value for name, value in EVENT.items() if name != missing})
            assert refused.value.field == missing

    scenario()


@virtual_time
async def test_data_is_under_256_kb(clock: VirtualClock, tmp_path: Path) -> None:
    def sized(serialized_bytes: int) -> dict[str, Any]:
        return {**EVENT, "data": {"a": "x" * (serialized_bytes - len('{"a":""}'))}}

    async with installation(clock, tmp_path) as atlas:
        assert (await atlas.send(sized(262_143))).status == 202
        with pytest.raises(InvalidRequest) as refused:
            await atlas.send(sized(262_144))
        assert refused.value.field == "data"


@virtual_time
async def test_an_idempotency_key_has_1_to_255_characters(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        for key in ("k", "k" * 255, " ~"):
            assert orjson.loads((await atlas.send(EVENT, key)).body)["idempotency_key"] == key
        for key in ("", "k" * 256, "a\x7f", "é", "a\tb"):
            with pytest.raises(InvalidRequest) as refused:
                await atlas.send(EVENT, key)
            assert refused.value.field == "Idempotency-Key"


@virtual_time
async def test_a_query_parameter_is_unknown(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        made = call(EVENT)
        made.query_string = "dry_run=1"
        with pytest.raises(InvalidRequest) as refused:
            await atlas.ingest.send(made)
        assert refused.value.field == "dry_run"


async def _refusal(send: Any) -> tuple[str, int, str, object]:
    with pytest.raises(ApiError) as refused:
        await send
    error = refused.value
    return (error.code, error.status, error.message, error.details)


@virtual_time
async def test_no_such_stream_looks_the_same_in_every_case(clock: VirtualClock, tmp_path: Path) -> None:
    event = {**EVENT, "stream": "audit-prod"}
    scoped = Principal(api_key(streams=("orders-prod",)), WORKSPACE)
    other = Principal(api_key(OTHER_WORKSPACE), OTHER_WORKSPACE)
    test_environment = Principal(api_key(environment="test"), WORKSPACE)
    async with installation(clock, tmp_path) as atlas:
        unknown = await _refusal(atlas.send(event))
        await atlas.stream("audit-prod")
        assert (await atlas.send(event)).status == 202
        assert await _refusal(atlas.send(event, principal=scoped)) == unknown
        assert await _refusal(atlas.send(event, principal=other)) == unknown
        assert await _refusal(atlas.send(event, principal=test_environment)) == unknown
        await atlas.archive("audit-prod")
        assert await _refusal(atlas.send(event)) == unknown
        assert await _refusal(atlas.send(event, "k")) == unknown
        assert unknown[:2] == ("stream_not_found", 404)
        assert len(await atlas.records("audit-prod")) == 1


def other_gateway(atlas: Installation) -> Ingest:
    """Another process on the same log; its registry has folded nothing until it runs."""
    registry = Registry(atlas.log, atlas.clock)
    return Ingest(replace(atlas.services, registry=registry, metrics=Metrics()))


@virtual_time
async def test_a_stream_made_elsewhere_is_waited_for(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        gateway = other_gateway(atlas)
        sending = asyncio.create_task(gateway.send(call(EVENT)))
        await settle()
        assert not sending.done()
        folding = asyncio.create_task(gateway._registry.run())
        assert (await sending).status == 202
        folding.cancel()


@virtual_time
async def test_a_stream_that_nobody_can_tell_of_is_no_404(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        with pytest.raises(Unavailable):
            await other_gateway(atlas).send(call(EVENT))
        assert clock.monotonic_s() == pytest.approx(CATCH_UP_MAX_S)


@virtual_time
async def test_a_log_that_is_away_is_a_503(clock: VirtualClock, tmp_path: Path) -> None:
    async with installation(clock, tmp_path) as atlas:
        await atlas.archive("orders-prod")
        await atlas.stream("audit-prod")
        await atlas.log.close()
        for send in (
            atlas.send({**EVENT, "stream": "audit-prod"}),
            atlas.send_batch([EVENT, {**EVENT, "stream": "audit-prod"}, 5]),
        ):
            with pytest.raises(Unavailable) as refused:
                await send
            assert refused.value.headers == {"retry-after": "1"}
        with pytest.raises(LogUnavailable):  # the front's 503: what became of it before is in the log too
            await atlas.send_batch([{**EVENT, "idempotency_key": "k"}])
        assert atlas.count("rejected") == 0


@virtual_time
async def test_a_retry_outlives_its_stream(clock: VirtualClock, tmp_path: Path) -> None:
    scoped = Principal(api_key(streams=("audit-prod",)), WORKSPACE)
    async with installation(clock, tmp_path) as atlas:
        first = await atlas.send(EVENT, "k")
        await atlas.archive("orders-prod")
        again = await atlas.send(EVENT, "k")
        assert again.body == first.body
        assert again.headers == ((b"idempotent-replayed", b"true"),)
        with pytest.raises(ApiError) as conflict:
            await atlas.send({**EVENT, "data": {}}, "k")
        assert conflict.value.code == "duplicate_event"
        with pytest.raises(ApiError) as free:
            await atlas.send(EVENT, "k2")
        assert free.value.code == "stream_not_found"
        with pytest.raises(ApiError) as hidden:
            await atlas.send(EVENT, "k", scoped)
        assert hidden.value.code == "stream_not_found"
        assert len(await atlas.records("orders-prod")) == 1
