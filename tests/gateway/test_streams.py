"""`/v1/event-streams`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from atlas.core.errors import LogUnavailable
from atlas.core.facts import event_topic
from atlas.ports.log import TopicPartition
from tests.gateway.harness import EVENT, SHARDS, Gateway, gateway
from tests.virtual_time import VirtualClock, pass_time, virtual_time

DAY_MS = 86_400_000
PATH = "/v1/event-streams"


@virtual_time
async def test_the_references_example(clock: VirtualClock, tmp_path: Path) -> None:
    body = (
        b'{\n"name": "audit-prod",\n"description": "Production audit log stream",\n'
        b'"retention_days": 90,\n"default_routes": ["wf_compliance_archive"]\n}'
    )
    async with gateway(clock, tmp_path) as g:
        await g.workflow("wf_compliance_archive")
        answer = await g.live.request("POST", PATH, body=body)
        assert answer.status == 201
        made = answer.json()
        assert list(made.items()) == [
            ("id", made["id"]),
            ("object", "event_stream"),
            ("name", "audit-prod"),
            ("description", "Production audit log stream"),
            ("retention_days", 90),
            ("default_routes", ["wf_compliance_archive"]),
            ("created_at", "2026-01-01T00:00:00Z"),
            ("workspace_id", g.workspace_id),
        ]
        assert made["id"].startswith("stm_")
        assert len(made["id"]) == 30
        assert (await g.live.get(f"{PATH}/audit-prod")).json() == made
        assert (await g.live.get(PATH)).json()["data"] == [made]


@virtual_time
async def test_what_is_left_out_has_its_default(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        nulls = {"description": None, "retention_days": None, "default_routes": None}
        for name, fields in [("bare-prod", {}), ("nulls-prod", nulls)]:
            made = await g.stream(name, **fields)
            assert (made["description"], made["retention_days"], made["default_routes"]) == (None, 14, [])


@virtual_time
async def test_a_stream_takes_events_as_soon_as_it_is_answered(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.stream("orders-prod")
        assert (await g.live.post("/v1/events", EVENT)).status == 202


GOOD = [
    {"name": "a-1"},
    {"name": "a" * 64},
    {"name": "---"},
    {"name": "abc", "retention_days": 1},
    {"name": "abc", "retention_days": 90},
    {"name": "abc", "description": ""},
    {"name": "abc", "description": "x" * 1_000},
    {"name": "abc", "default_routes": [f"wf_{i}" for i in range(20)]},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": None}, "name"),
    ({"name": 1}, "name"),
    ({"name": "ab"}, "name"),
    ({"name": "a" * 65}, "name"),
    ({"name": "Abc"}, "name"),
    ({"name": "a_b"}, "name"),
    ({"name": "a.b"}, "name"),
    ({"name": "abc\n"}, "name"),
    ({"name": "\uff41bc"}, "name"),
    ({"name": "abc", "retention_days": 0}, "retention_days"),
    ({"name": "abc", "retention_days": 91}, "retention_days"),
    ({"name": "abc", "retention_days": 14.5}, "retention_days"),
    ({"name": "abc", "retention_days": "14"}, "retention_days"),
    ({"name": "abc", "retention_days": True}, "retention_days"),
    ({"name": "abc", "description": 5}, "description"),
    ({"name": "abc", "description": "x" * 1_001}, "description"),
    ({"name": "abc", "default_routes": "wf_0"}, "default_routes"),
    ({"name": "abc", "default_routes": ["wf_0", 5]}, "default_routes.1"),
    ({"name": "abc", "default_routes": ["wf_0", "wf_1", "wf_0"]}, "default_routes.2"),
    ({"name": "abc", "default_routes": ["wf_0", "wf_missing"]}, "default_routes.1"),
    ({"name": "abc", "default_routes": ["not an id"]}, "default_routes.0"),
    ({"name": "abc", "default_routes": [f"wf_{i}" for i in range(21)]}, "default_routes"),
    ({"name": "abc", "object": "event_stream"}, "object"),
]


@pytest.mark.parametrize("body", GOOD)
def test_fields_at_their_limits(body: dict[str, Any], tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            for number in range(20):
                await g.workflow(f"wf_{number}")
            answer = await g.live.post(PATH, body)
            assert answer.status == 201
            assert {field: answer.json()[field] for field in body} == body

    test()


@virtual_time
async def test_fields_past_their_limits_change_nothing(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for number in range(21):
            await g.workflow(f"wf_{number}")
        for body, field in BAD:
            assert (await g.live.post(PATH, body)).field == field, body
        assert (await g.live.get(PATH)).json()["data"] == []
        await g.stream("abc")
        for body, field in BAD:
            patch = {key: value for key, value in body.items() if key != "name"}
            if patch:
                assert (await g.live.patch(f"{PATH}/abc", patch)).field == field, body
        assert (await g.live.patch(f"{PATH}/abc", {"name": "abd"})).field == "name"


@virtual_time
async def test_a_name_is_taken_once_and_for_good(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        answers = await asyncio.gather(*[g.live.post(PATH, {"name": "orders-prod"}) for _ in range(5)])
        assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]
        assert {answer.code for answer in answers if answer.status == 409} == {"already_exists"}
        await g.live.delete(f"{PATH}/orders-prod")
        assert (await g.live.post(PATH, {"name": "orders-prod"})).code == "already_exists"


@virtual_time
async def test_a_hundred_streams_and_no_more(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for number in range(100):
            await g.stream(f"stream-{number}")
        answer = await g.live.post(PATH, {"name": "one-more"})
        assert (answer.status, answer.code) == (409, "stream_limit_reached")
        assert (await g.test.post(PATH, {"name": "one-more"})).status == 201
        await g.live.delete(f"{PATH}/stream-7")
        assert (await g.live.post(PATH, {"name": "one-more"})).status == 201


@virtual_time
async def test_an_installation_has_its_limit_of_topics_archived_ones_included(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with gateway(clock, tmp_path, topics_max=3) as g:
        _, other, _ = await g.workspace("Other")
        await g.stream("one")
        await g.stream("two", g.test)
        await g.stream("three", other)
        await g.live.delete(f"{PATH}/one")
        for client in (g.live, g.test, other):
            answer = await client.post(PATH, {"name": "four"})
            assert (answer.status, answer.code) == (409, "stream_limit_reached")


@virtual_time
async def test_patching(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.workflow("wf_a")
        made = await g.stream("orders-prod", description="Orders", default_routes=["wf_a"])
        path = f"{PATH}/orders-prod"
        patches: list[dict[str, Any]] = [
            {},
            {"description": "All orders"},
            {"retention_days": 30},
            {"default_routes": []},
            {"default_routes": ["wf_a"], "retention_days": 1},
            {"description": None},
        ]
        for patch in patches:
            answer = await g.live.patch(path, patch)
            made |= patch
            assert (answer.status, answer.json()) == (200, made)
            assert (await g.live.get(path)).json() == made
        unchanged = {"retention_days": None, "default_routes": None}
        assert (await g.live.patch(path, unchanged)).json() == made


@virtual_time
async def test_archiving(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await g.stream("orders-prod")
        path = f"{PATH}/orders-prod"
        answer = await g.live.delete(path)
        assert (answer.status, answer.json()) == (200, made)
        for answer in [
            await g.live.get(path),
            await g.live.delete(path),
            await g.live.patch(path, {"description": "x"}),
            await g.live.post("/v1/events", EVENT),
        ]:
            assert (answer.status, answer.code) == (404, "stream_not_found")
        assert (await g.live.get(PATH)).json()["data"] == []


@pytest.mark.parametrize("name", ["nowhere", "a", "%00", "%ff", "x" * 5_000, "Orders", "%E2%80%AE", "%0A"])
def test_streams_that_are_not_there(name: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            for method in ("GET", "PATCH", "DELETE"):
                answer = await g.live.request(method, f"{PATH}/{name}")
                assert (answer.status, answer.code) == (404, "stream_not_found")

    test()


@virtual_time
async def test_the_topic_is_there_with_its_backstop(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = _topics(g)
        await g.stream("orders-prod")
        topic = event_topic("live", g.workspace_id, "orders-prod")
        assert made == [(topic, SHARDS, 17 * DAY_MS)]
        ends = await g.log.end_offsets([TopicPartition(topic, shard) for shard in range(SHARDS)])
        assert len(ends) == SHARDS
        await g.live.patch(f"{PATH}/orders-prod", {"description": "x"})
        await g.live.patch(f"{PATH}/orders-prod", {"retention_days": 90})
        assert made[1:] == [(topic, SHARDS, 93 * DAY_MS)]


def _topics(g: Gateway) -> list[tuple[str, int, int | None]]:
    made: list[tuple[str, int, int | None]] = []
    create_topic = g.log.create_topic

    async def noted(topic: str, partitions: int, retention_ms: int | None) -> None:
        made.append((topic, partitions, retention_ms))
        await create_topic(topic, partitions, retention_ms)

    g.log.create_topic = noted  # type: ignore[method-assign]  # the log as it is, overheard
    return made


@virtual_time
@pytest.mark.parametrize("partitions", [1, SHARDS - 1, SHARDS + 1])
async def test_a_strangers_topic_is_not_taken_over(
    clock: VirtualClock, tmp_path: Path, partitions: int
) -> None:
    async with gateway(clock, tmp_path) as g:
        topic = event_topic("live", g.workspace_id, "orders-prod")
        await g.log.create_topic(topic, partitions, None)
        answer = await g.live.post(PATH, {"name": "orders-prod"})
        assert (answer.status, answer.code) == (409, "already_exists")
        assert topic in answer.json()["error"]["message"]
        assert (await g.live.get(PATH)).json()["data"] == []
        assert (await g.live.post("/v1/events", EVENT)).status == 404


@virtual_time
async def test_a_topic_that_is_as_it_should_be_is_used(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.log.create_topic(event_topic("live", g.workspace_id, "orders-prod"), SHARDS, None)
        await g.stream("orders-prod")
        assert (await g.live.post("/v1/events", EVENT)).status == 202


@virtual_time
async def test_no_201_before_the_topic_is_there(clock: VirtualClock, tmp_path: Path) -> None:
    async def away(topic: str, partitions: int, retention_ms: int | None) -> None:
        raise LogUnavailable("a fault at the port")

    async with gateway(clock, tmp_path) as g:
        g.log.create_topic = away  # type: ignore[method-assign]  # a fault at the port
        answer = await g.live.post(PATH, {"name": "orders-prod"})
        assert (answer.status, answer.code) == (503, "service_unavailable")
        # The stream is decided, its topic is not there: events are not lost, they are refused for now.
        assert (await g.live.post("/v1/events", EVENT)).status == 503


@virtual_time
async def test_walking_pages(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = []
        for number in range(60):
            made.append((await g.stream(f"stream-{number}"))["id"])
            await pass_time(0.001)
        first = (await g.live.get(PATH)).json()
        assert list(first) == ["object", "data", "has_more", "next_cursor"]
        assert (first["object"], len(first["data"]), first["has_more"]) == ("list", 25, True)
        assert first["next_cursor"] == first["data"][-1]["id"]
        walked, cursor = [], ""
        while True:
            page = (await g.live.get(f"{PATH}?limit=7{cursor}")).json()
            walked += [stream["id"] for stream in page["data"]]
            assert page["has_more"] is (page["next_cursor"] is not None)
            if not page["has_more"]:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert walked == made
        whole = (await g.live.get(f"{PATH}?limit=60")).json()
        assert (len(whole["data"]), whole["has_more"], whole["next_cursor"]) == (60, False, None)


@virtual_time
async def test_any_well_formed_id_is_a_cursor(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = await g.stream("orders-prod")
        before, after = "stm_" + "0" * 26, "stm_7" + "Z" * 25
        assert (await g.live.get(f"{PATH}?cursor={before}")).json()["data"] == [made]
        assert (await g.live.get(f"{PATH}?cursor={after}")).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=1e1", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5_000, "limit"),
        ("limit=5&limit=5", "limit"),
        ("cursor=", "cursor"),
        ("cursor=abc", "cursor"),
        ("cursor=evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A", "cursor"),
        ("cursor=stm_01hx9yqk2t7v3m4zb6f5n0wj1a", "cursor"),
        ("cursor=stm_81HX9YQK2T7V3M4ZB6F5N0WJ1A", "cursor"),
        ("cursor=stm_01HX9YQK2T7V3M4ZB6F5N0WJ1A%00", "cursor"),
        ("offset=1", "offset"),
    ],
)
def test_pages_that_cannot_be_asked_for(query: str, field: str, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            assert (await g.live.get(f"{PATH}?{query}")).field == field

    test()


@pytest.mark.parametrize("limit", [1, 100])
def test_limits_of_a_page(limit: int, tmp_path: Path) -> None:
    @virtual_time
    async def test(clock: VirtualClock) -> None:
        async with gateway(clock, tmp_path) as g:
            await g.stream("orders-prod")
            assert len((await g.live.get(f"{PATH}?limit={limit}")).json()["data"]) == 1

    test()
