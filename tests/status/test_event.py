"""`GET /v1/events/{id}`, its payload and its attempts: the reference's shapes, and who may see them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from atlas.core.errors import ApiError, InvalidRequest, StoreUnavailable, Unavailable
from atlas.core.facts import (
    DeliveryAttempted,
    DeliveryClosed,
    DeliveryStarted,
    FactError,
    Timings,
    event_topic,
)
from atlas.core.murmur2 import partition_for
from atlas.gateway.call import Principal
from atlas.ports.log import TopicPartition
from atlas.runtime.registry import Registry
from atlas.status.handlers import EventStatus
from tests.ingest.harness import LIVE, OTHER_WORKSPACE, SHARDS, WORKSPACE, FakeCall, api_key
from tests.ingest.test_single import EVENT, RECEIVED_MS, REFERENCE_KEY, REFERENCE_REQUEST
from tests.status.harness import status_installation
from tests.virtual_time import VirtualClock, pass_time, virtual_time

UNKNOWN = "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
DAY_S = 86_400.0
#: The reference's response, but for the id.
REFERENCE_STATUS = """{
"id": "%s",
"object": "event",
"stream": "orders-prod",
"type": "order.fulfilled",
"status": "retried",
"received_at": "2026-05-18T14:22:11.482Z",
"occurred_at": "2026-05-18T14:22:11Z",
"attempts": [
{
"workflow_id": "wf_billing_sync",
"status": "delivered",
"attempt": 1,
"completed_at": "2026-05-18T14:22:12.910Z"
},
{
"workflow_id": "wf_search_index",
"status": "retry_scheduled",
"attempt": 2,
"next_attempt_at": "2026-05-18T14:24:42.000Z",
"last_error": {
"code": "upstream_timeout",
"message": "Search indexer did not respond within 5s"
}
}
]
}"""


def attempted(target: str, attempt: int, outcome: str, at_ms: int, **more: object) -> DeliveryAttempted:
    fields: dict[str, Any] = {
        "epoch": 0,
        "event_id": "",
        "topic": "",
        "offset": 0,
        "target": target,
        "attempt": attempt,
        "outcome": outcome,
        "started_at_ms": at_ms - 28,
        "completed_at_ms": at_ms,
        "duration_ms": 28,
        **more,
    }
    return DeliveryAttempted(**fields)


TIMEOUT = FactError("upstream_timeout", "Search indexer did not respond within 5s")
BILLED = attempted(
    "wf_billing_sync",
    1,
    "delivered",
    RECEIVED_MS + 1_428,
    http_status=200,
    response_body="ok",
    address="192.0.2.7",
    timings=Timings(3.5, None, 21.0),
)
FIRST = attempted(
    "wf_search_index", 1, "retry_scheduled", RECEIVED_MS + 5_028, error=TIMEOUT,
    next_attempt_at_ms=RECEIVED_MS + 36_000,
)  # fmt: skip
SECOND = attempted(
    "wf_search_index", 2, "retry_scheduled", RECEIVED_MS + 41_028, error=TIMEOUT,
    next_attempt_at_ms=RECEIVED_MS + 150_518,
)  # fmt: skip


async def refusal(answer: object) -> tuple[str, int, str, object]:
    with pytest.raises(ApiError) as refused:
        await answer  # type: ignore[misc]  # a coroutine of whatever
    error = refused.value
    return (error.code, error.status, error.message, error.details)


@virtual_time
async def test_the_reference_status(clock: VirtualClock, tmp_path: Path) -> None:
    clock.epoch_ms = RECEIVED_MS
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(REFERENCE_REQUEST, REFERENCE_KEY)
        await status.deliver(event_id, BILLED, FIRST, SECOND)
        await status.projected()
        # Names, order and values alike: compared as text.
        got = orjson.dumps(await status.get(event_id))
        assert got == orjson.dumps(orjson.loads(REFERENCE_STATUS % event_id))


@virtual_time
async def test_every_state_of_a_route(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        got = await status.get(event_id)
        assert got["status"] == "accepted"
        assert got["attempts"] == [
            {"workflow_id": "wf_billing_sync", "status": "queued", "attempt": 0},
            {"workflow_id": "wf_search_index", "status": "queued", "attempt": 0},
        ]
        at_ms = clock.now_ms()
        place = {"epoch": 0, "event_id": "", "topic": "", "offset": 0}
        started = DeliveryStarted(target="wf_billing_sync", attempt=1, started_at_ms=at_ms, **place)  # type: ignore[arg-type]  # spelled out above
        closed = DeliveryClosed(
            target="wf_search_index",
            error=FactError("target_disabled", "The workflow is disabled."),
            at_ms=at_ms,
            **place,  # type: ignore[arg-type]  # as above
        )
        await status.deliver(event_id, started, closed)
        await status.projected()
        got = await status.get(event_id)
        assert got["status"] == "processing"
        assert got["attempts"] == [
            {"workflow_id": "wf_billing_sync", "status": "processing", "attempt": 1},
            {
                "workflow_id": "wf_search_index",
                "status": "failed",
                "attempt": 0,
                "completed_at": "2026-01-01T00:00:00.000Z",
                "last_error": {"code": "target_disabled", "message": "The workflow is disabled."},
            },
        ]


@virtual_time
async def test_an_event_without_routes_is_delivered(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        await status.atlas.stream("audit-prod")
        got = await status.get(await status.accepted({**EVENT, "stream": "audit-prod"}))
        assert (got["status"], got["attempts"]) == ("delivered", [])


@virtual_time
async def test_attempts(clock: VirtualClock, tmp_path: Path) -> None:
    clock.epoch_ms = RECEIVED_MS
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        assert await status.attempts(event_id) == {
            "object": "list",
            "data": [],
            "has_more": False,
            "next_cursor": None,
        }
        await status.deliver(event_id, BILLED, FIRST, SECOND)
        await status.projected()
        got = await status.attempts(event_id)
        assert (got["has_more"], got["next_cursor"]) == (False, None)
        assert [(item["workflow_id"], item["attempt"]) for item in got["data"]] == [
            ("wf_billing_sync", 1),
            ("wf_search_index", 1),
            ("wf_search_index", 2),
        ]
        assert list(got["data"][0].items()) == [
            ("workflow_id", "wf_billing_sync"),
            ("attempt", 1),
            ("status", "delivered"),
            ("started_at", "2026-05-18T14:22:12.882Z"),
            ("completed_at", "2026-05-18T14:22:12.910Z"),
            ("duration_ms", 28),
            ("http_status", 200),
            ("error", None),
            ("response_body", "ok"),
            ("address", "192.0.2.7"),
            ("timings", {"connect_ms": 3.5, "tls_ms": None, "first_byte_ms": 21.0}),
            ("next_attempt_at", None),
        ]
        last = got["data"][2]
        assert last["error"] == {"code": TIMEOUT.code, "message": TIMEOUT.message}
        assert last["next_attempt_at"] == "2026-05-18T14:24:42.000Z"


@virtual_time
async def test_the_payload_comes_back_as_it_is_stored(clock: VirtualClock, tmp_path: Path) -> None:
    data = b'{"z":1,"a":[1.0,"\\u0000"],"big":18446744073709551615}'
    rest = b'"stream":"orders-prod","type":"order.fulfilled","occurred_at":"2026-05-18T14:22:11Z"'
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(b'{"data":%b,"metadata":{"b":"1","a":"2"},%b}' % (data, rest))
        reply = await status.payload(event_id)
        assert reply.body == (
            b'{"id":"%b","object":"event_payload","data":%b,"actor":null,"metadata":{"b":"1","a":"2"}}'
            % (event_id.encode(), data)
        )


@virtual_time
async def test_a_payload_that_the_log_dropped_is_gone(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        await status.projected()
        topic = event_topic("live", WORKSPACE.id, "orders-prod")
        await status.atlas.log.delete_records(
            TopicPartition(topic, partition_for(event_id.encode(), SHARDS)), 1
        )
        assert (await refusal(status.payload(event_id)))[:2] == ("payload_expired", 410)
        assert (await status.get(event_id))["id"] == event_id


@virtual_time
async def test_a_read_model_that_is_away_is_no_404(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        await status.projected()
        await status.stop_projecting()
        await status.read_model.close()
        for answer in (status.get(event_id), status.attempts(event_id), status.page()):
            with pytest.raises(StoreUnavailable):  # the front's 503
                await answer


@virtual_time
async def test_what_is_not_there_looks_the_same_in_every_case(clock: VirtualClock, tmp_path: Path) -> None:
    outsiders = (
        Principal(api_key(streams=("audit-prod",)), WORKSPACE),
        Principal(api_key(OTHER_WORKSPACE), OTHER_WORKSPACE),
        Principal(api_key(environment="test"), WORKSPACE),
    )
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        assert (await status.get(event_id))["id"] == event_id
        for look in (status.get, status.payload, status.attempts):
            unknown = await refusal(look(UNKNOWN))
            assert unknown[:2] == ("event_not_found", 404)
            for principal in outsiders:
                assert await refusal(look(event_id, principal)) == unknown
            for malformed in ("evt_", "", event_id.lower(), event_id + "0", "evt_" + "Z" * 26, "..", "é"):
                assert await refusal(look(malformed)) == unknown
        inside = Principal(api_key(streams=("audit-prod", "orders-prod")), WORKSPACE)
        assert (await status.get(event_id, inside))["id"] == event_id
        assert clock.monotonic_s() == 0  # nothing of this had to wait


@virtual_time
async def test_a_query_parameter_is_unknown(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        for look in (status.get, status.payload, status.attempts):
            with pytest.raises(InvalidRequest) as refused:
                await look(UNKNOWN, LIVE, "expand=all")
            assert refused.value.field == "expand"


@virtual_time
async def test_an_event_is_visible_until_its_retention_ends(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        await status.atlas.retain("orders-prod", 1)
        event_id = await status.accepted(EVENT)
        received_s = clock.monotonic_s()
        await status.projected()
        await pass_time(received_s + DAY_S - 0.001 - clock.monotonic_s())
        assert (await status.get(event_id))["id"] == event_id
        assert await status.ids() == [event_id]
        await pass_time(0.001)
        for look in (status.get, status.payload, status.attempts):
            assert await refusal(look(event_id)) == await refusal(look(UNKNOWN))
        assert await status.ids() == []
        # It is the retention of now that counts, not that of the acceptance.
        await status.atlas.retain("orders-prod", 2)
        assert await status.ids() == [event_id]
        assert (await status.get(event_id))["id"] == event_id


@virtual_time
async def test_the_history_of_an_archived_stream_is_readable(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        await status.atlas.archive("orders-prod")
        assert (await status.get(event_id))["id"] == event_id
        assert await status.ids(stream="orders-prod") == [event_id]


@virtual_time
async def test_a_get_waits_for_its_own_202(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path, projecting=False) as status:
        event_id = await status.accepted(EVENT)
        looking = asyncio.create_task(status.get(event_id))
        await pass_time(1.9)
        assert not looking.done()
        status.project()
        assert (await looking)["id"] == event_id


@virtual_time
async def test_a_doubtful_404_is_a_503(clock: VirtualClock, tmp_path: Path) -> None:
    scoped = Principal(api_key(streams=("audit-prod",)), WORKSPACE)
    async with status_installation(clock, tmp_path) as status:
        shown = await status.accepted(EVENT)
        await status.projected()
        await status.stop_projecting()
        event_id = await status.accepted(EVENT)
        # What is out of the caller's sight is told from what is not there in no way at all.
        for name, principal in ((event_id, LIVE), (UNKNOWN, LIVE), (shown, scoped)):
            before_s = clock.monotonic_s()
            with pytest.raises(Unavailable) as doubt:
                await status.get(name, principal)
            assert doubt.value.headers == {"retry-after": "1"}
            assert clock.monotonic_s() - before_s == pytest.approx(2.0, abs=0.01)
        status.project()
        assert (await status.get(event_id))["id"] == event_id
        assert (await refusal(status.get(UNKNOWN)))[1] == 404


@virtual_time
async def test_nobody_can_tell_without_the_control_topic(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        event_id = await status.accepted(EVENT)
        await status.projected()
        services = status.atlas.services
        late = EventStatus(replace(services, registry=Registry(services.log, clock)))  # folds nothing
        for name in (event_id, UNKNOWN):
            with pytest.raises(Unavailable):
                await late.retrieve(FakeCall(path_params={"event_id": name}))
