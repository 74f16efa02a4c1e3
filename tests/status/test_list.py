"""`GET /v1/events`: filters, pages, scope, and the barrier before a first page (guarantees G8, G9)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from atlas.core.errors import ApiError, InvalidRequest
from atlas.core.timestamps import format_ms
from atlas.gateway.call import Principal
from atlas.runtime.registry import Registry
from atlas.status.handlers import EventStatus
from tests.ingest.harness import LIVE, OTHER_WORKSPACE, WORKSPACE, FakeCall, api_key
from tests.ingest.test_single import EVENT, RECEIVED_MS, REFERENCE_REQUEST
from tests.status.harness import StatusInstallation, body, status_installation
from tests.status.test_event import BILLED, FIRST
from tests.virtual_time import VirtualClock, pass_time, virtual_time


async def refused(status: StatusInstallation, query: str, principal: Principal = LIVE) -> ApiError:
    with pytest.raises(ApiError) as error:
        await status.page(principal, query)
    return error.value


@virtual_time
async def test_an_item(clock: VirtualClock, tmp_path: Path) -> None:
    clock.epoch_ms = RECEIVED_MS
    async with status_installation(clock, tmp_path) as status:
        first = await status.accepted(REFERENCE_REQUEST)
        await pass_time(1)
        second = await status.accepted(EVENT)
        reply = await status.page()
        sent = orjson.loads(REFERENCE_REQUEST)
        expected = {
            "object": "list",
            "data": [
                {
                    "id": event_id,
                    "object": "event",
                    "stream": "orders-prod",
                    "type": "order.fulfilled",
                    "status": "accepted",
                    "received_at": received_at,
                    "occurred_at": "2026-05-18T14:22:11Z",
                    "actor": actor,
                    "metadata": metadata,
                }
                for event_id, received_at, actor, metadata in (
                    (first, "2026-05-18T14:22:11.482Z", sent["actor"], sent["metadata"]),
                    (second, "2026-05-18T14:22:12.482Z", None, None),
                )
            ],
            "has_more": False,
            "next_cursor": None,
        }
        assert reply.headers == ()
        assert reply.body == orjson.dumps(expected)


@virtual_time
async def test_a_walk_returns_everything_once(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        accepted = []
        for number in range(57):
            accepted.append(await status.accepted({**EVENT, "data": {"n": number}}))
            await pass_time(0.001)
        pages: list[list[str]] = []
        filters = {"stream": "orders-prod", "limit": "10"}
        while True:
            page = body(await status.page(LIVE, None, **filters))
            pages.append([item["id"] for item in page["data"]])
            if not page["has_more"]:
                break
            assert page["next_cursor"] == pages[-1][-1]
            filters["cursor"] = page["next_cursor"]
            await status.accepted(EVENT, key=f"k{len(pages)}")  # one that came later may show, or not
        assert page["next_cursor"] is None
        walked = [event_id for page_ids in pages for event_id in page_ids]
        assert walked[:57] == accepted
        assert len(set(walked)) == len(walked)
        assert {len(page_ids) for page_ids in pages[:-1]} == {10}


@virtual_time
async def test_a_page_has_1_to_100_events(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        await status.atlas.send_batch([EVENT] * 101)
        for query, count in (("", 25), ("limit=1", 1), ("limit=100", 100)):
            page = body(await status.page(query=query))
            assert (len(page["data"]), page["has_more"]) == (count, True)
        last = body(await status.page(limit="100"))["next_cursor"]
        page = body(await status.page(cursor=last))
        assert (len(page["data"]), page["has_more"], page["next_cursor"]) == (1, False, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=", "limit"),
        ("limit=+5", "limit"),
        ("limit=5.0", "limit"),
        ("limit=%D9%A5", "limit"),
        ("limit=05", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("cursor=", "cursor"),
        ("cursor=evt_1", "cursor"),
        ("cursor=stm_01HX9Z0F8C5G3R8K2V1NQ7M4WP", "cursor"),
        ("cursor=evt_81HX9Z0F8C5G3R8K2V1NQ7M4WP", "cursor"),
        ("status=queued", "status"),
        ("status=", "status"),
        ("route_status=accepted", "route_status"),
        ("received_after=yesterday", "received_after"),
        ("received_before=2026-05-18", "received_before"),
        ("received_before=", "received_before"),
        ("metadata.=x", "metadata."),
        ("metadata." + "k" * 65 + "=x", "metadata." + "k" * 65),
        ("metadata=x", "metadata"),
        ("order=desc", "order"),
        ("Limit=5", "Limit"),
        ("=x", ""),
        ("type=a.b&type=a.b", "type"),
        ("metadata.a=1&metadata.a=2", "metadata.a"),
        ("limit=5&limit=5", "limit"),
        ("type=%00", "type"),
        ("metadata.a%00=1", "metadata.a\0"),
        ("&".join(f"metadata.k{n}=1" for n in range(21)), "metadata.k20"),
    ],
)
def test_a_wrong_parameter_is_named(query: str, field: str, tmp_path: Path) -> None:
    @virtual_time
    async def scenario(clock: VirtualClock) -> None:
        async with status_installation(clock, tmp_path) as status:
            error = await refused(status, query)
            assert isinstance(error, InvalidRequest)
            assert error.field == field

    scenario()


@virtual_time
async def test_filters(clock: VirtualClock, tmp_path: Path) -> None:
    clock.epoch_ms = RECEIVED_MS
    async with status_installation(clock, tmp_path) as status:
        await status.atlas.stream("audit-prod")
        a = await status.accepted(REFERENCE_REQUEST, "K/0")
        await pass_time(1)
        b = await status.accepted({**EVENT, "type": "order.refunded", "metadata": {"region": "eu-west-1"}})
        await pass_time(1)
        c = await status.accepted({**EVENT, "stream": "audit-prod", "metadata": {"a.b": "ü=&"}})
        await status.deliver(a, BILLED, FIRST)
        await status.projected()
        for filters, found in (
            ({"stream": "orders-prod"}, [a, b]),
            ({"stream": "audit-prod"}, [c]),
            ({"type": "order.refunded"}, [b]),
            ({"type": "no such type"}, []),
            ({"status": "retried"}, [a]),
            ({"status": "accepted"}, [b]),
            ({"status": "delivered"}, [c]),
            ({"workflow_id": "wf_billing_sync"}, [a, b]),
            ({"route_status": "retry_scheduled"}, [a]),
            ({"workflow_id": "wf_billing_sync", "route_status": "retry_scheduled"}, []),
            ({"workflow_id": "wf_search_index", "route_status": "retry_scheduled"}, [a]),
            ({"actor_id": "usr_7T3Q9HBN2P"}, [a]),
            ({"tenant_id": "tnt_acme_eu"}, [a]),
            ({"tenant_id": "tnt_acme"}, []),
            ({"idempotency_key": "K/0"}, [a]),
            ({"metadata__region": "eu-west-1"}, [a, b]),
            ({"metadata__region": "eu-west-1", "metadata__channel": "web"}, [a]),
            ({"metadata__region": ""}, []),
            ({"metadata__a__b": "ü=&"}, [c]),
            ({"received_after": format_ms(RECEIVED_MS + 1_000)}, [b, c]),
            ({"received_before": format_ms(RECEIVED_MS + 1_000)}, [a]),
            ({"received_after": "2026-05-18T14:22:12.4820001Z"}, [c]),
            ({"received_before": "2026-05-18T14:22:12.4820001Z"}, [a, b]),
            ({"received_after": "2026-05-18T16:22:12.482+02:00"}, [b, c]),
            ({"stream": "orders-prod", "cursor": a, "type": "order.refunded"}, [b]),
            ({f"metadata__k{n}": "1" for n in range(20)}, []),
        ):
            assert await status.ids(LIVE, None, **filters) == found, filters


@virtual_time
async def test_a_stream_that_is_not_visible(clock: VirtualClock, tmp_path: Path) -> None:
    scoped = Principal(api_key(streams=("orders-prod",)), WORKSPACE)
    async with status_installation(clock, tmp_path) as status:
        unknown = await refused(status, "stream=audit-prod")
        await status.atlas.stream("audit-prod")
        assert await status.ids(stream="audit-prod") == []
        for principal in (scoped, Principal(api_key(OTHER_WORKSPACE), OTHER_WORKSPACE)):
            error = await refused(status, "stream=audit-prod", principal)
            assert (error.code, error.status) == ("stream_not_found", 404)
            assert (error.message, error.details) == (unknown.message, unknown.details)
        assert (await refused(status, "stream=")).code == "stream_not_found"


@virtual_time
async def test_nobody_sees_anothers_events(clock: VirtualClock, tmp_path: Path) -> None:
    other = Principal(api_key(OTHER_WORKSPACE), OTHER_WORKSPACE)
    test_environment = Principal(api_key(environment="test"), WORKSPACE)
    scoped = Principal(api_key(streams=("audit-prod",)), WORKSPACE)
    nothing = Principal(api_key(streams=("gone-prod",)), WORKSPACE)
    async with status_installation(clock, tmp_path) as status:
        mine = await status.accepted(EVENT, "k")
        await status.atlas.stream("audit-prod")
        audit = await status.accepted({**EVENT, "stream": "audit-prod"})
        for principal in (other, test_environment):
            await status.atlas.stream("orders-prod", principal=principal)
        theirs = await status.accepted(EVENT, "k", other)
        assert set(await status.ids()) == {mine, audit}
        assert await status.ids(scoped) == [audit]
        assert await status.ids(other, idempotency_key="k") == [theirs]
        assert await status.ids(test_environment) == []
        assert await status.ids(nothing) == []


@virtual_time
async def test_a_first_page_waits_for_the_projection(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path, projecting=False) as status:
        event_id = await status.accepted(EVENT)
        listing = asyncio.create_task(status.ids())
        await pass_time(1.9)
        assert not listing.done()
        status.project()
        assert await listing == [event_id]


@virtual_time
async def test_a_page_that_may_not_be_whole_says_so(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        shown = await status.accepted(EVENT)
        await status.projected()
        await status.stop_projecting()
        await pass_time(60)
        await status.accepted(EVENT)
        await pass_time(5)
        await status.accepted(EVENT)
        reply = await status.page()
        assert [item["id"] for item in body(reply)["data"]] == [shown]
        # The oldest record not folded was appended 5 s before the request, which waited for 2.
        ((name, lag_ms),) = reply.headers
        assert name == b"x-atlas-lag-ms"
        assert 7_000 <= int(lag_ms) < 7_100
        # A later page continues a walk: what came after its first page is none of its business.
        before_s = clock.monotonic_s()
        assert (await status.page(cursor=shown)).headers == ()
        assert clock.monotonic_s() == before_s


@virtual_time
async def test_a_lag_that_nobody_can_tell(clock: VirtualClock, tmp_path: Path) -> None:
    async with status_installation(clock, tmp_path) as status:
        services = status.atlas.services
        late = EventStatus(replace(services, registry=Registry(services.log, clock)))  # folds nothing
        reply = await late.list(FakeCall())
        assert (body(reply)["data"], reply.headers) == ([], ((b"x-atlas-lag-ms", b"2000"),))
