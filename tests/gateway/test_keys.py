"""`/v1/api-keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas.core.facts import CONTROL_TOPIC
from atlas.core.tokens import digest, is_key
from atlas.ports.log import TopicPartition
from tests.gateway.harness import EVENT, gateway
from tests.virtual_time import VirtualClock, pass_time, virtual_time

PATH = "/v1/api-keys"
FIELDS = [
    "id",
    "object",
    "kind",
    "name",
    "environment",
    "streams",
    "prefix",
    "created_at",
    "expires_at",
    "revoked_at",
]


@virtual_time
async def test_a_new_key_in_full(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await pass_time(1.234)
        answer = await g.test.post(PATH, {"kind": "secret", "name": "CI"})
        assert answer.status == 201
        made = answer.json()
        secret = made.pop("secret")
        assert list(made) == FIELDS
        assert is_key(secret.encode())
        assert made == {
            "id": made["id"],
            "object": "api_key",
            "kind": "secret",
            "name": "CI",
            "environment": "test",
            "streams": None,
            "prefix": secret[: len("atlas_test_sk_") + 4],
            "created_at": "2026-01-01T00:00:01.234Z",
            "expires_at": None,
            "revoked_at": None,
        }
        listed = (await g.test.get(PATH)).json()["data"]
        assert listed[-1] == made


@virtual_time
async def test_a_publishable_key_sends_and_is_always_scoped(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.stream("orders-prod")
        await g.stream("audit-prod")
        answer = await g.live.post(PATH, {"kind": "publishable", "streams": ["orders-prod"]})
        made = answer.json()
        assert made["secret"].startswith("atlas_live_pk_")
        assert (made["kind"], made["streams"]) == ("publishable", ["orders-prod"])
        browser = g.anonymous.using(made["secret"])
        assert (await browser.post("/v1/events", EVENT)).status == 202
        other = await browser.post("/v1/events", {**EVENT, "stream": "audit-prod"})
        assert (other.status, other.code) == (404, "stream_not_found")


@virtual_time
async def test_fields_at_and_past_their_limits(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        names = [f"stream-{number}" for number in range(100)]
        for name in names:
            await g.stream(name)
        before = (await g.live.get(PATH)).json()
        bad: list[tuple[dict[str, Any], str]] = [
            ({}, "kind"),
            ({"kind": None}, "kind"),
            ({"kind": "operator"}, "kind"),
            ({"kind": "publishable"}, "streams"),
            ({"kind": "publishable", "streams": None}, "streams"),
            ({"kind": "secret", "streams": []}, "streams"),
            ({"kind": "secret", "streams": ["stream-1", "nowhere"]}, "streams.1"),
            ({"kind": "secret", "streams": ["stream-1", "stream-1"]}, "streams.1"),
            ({"kind": "secret", "streams": ["Stream"]}, "streams.0"),
            ({"kind": "secret", "streams": [*names, "one-more"]}, "streams"),
            ({"kind": "secret", "name": ""}, "name"),
            ({"kind": "secret", "name": "x" * 101}, "name"),
            ({"kind": "secret", "name": "a\0b"}, "name"),
            ({"kind": "secret", "environment": "live"}, "environment"),
        ]
        for body, field in bad:
            assert (await g.live.post(PATH, body)).field == field, body
        assert (await g.live.get(PATH)).json() == before
        good: list[dict[str, Any]] = [
            {"streams": names},
            {"name": "x" * 100},
            {"name": "x"},
            {"name": None, "streams": None},
        ]
        for body in good:
            assert (await g.live.post(PATH, {"kind": "secret", **body})).status == 201


@virtual_time
async def test_revoking(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        key_id, client = await g.key(name="old")
        await pass_time(5)
        first = await g.live.delete(f"{PATH}/{key_id}")
        assert first.status == 200
        assert list(first.json()) == FIELDS
        assert first.json()["revoked_at"] == "2026-01-01T00:00:05.000Z"
        assert (await client.get("/v1/event-streams")).status == 401
        await pass_time(5)
        again = await g.live.delete(f"{PATH}/{key_id}")
        assert (again.status, again.json()) == (200, first.json())
        assert first.json() in (await g.live.get(PATH)).json()["data"]


@virtual_time
async def test_rotating(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        await g.stream("orders-prod")
        key_id, _ = await g.key(name="CI", streams=["orders-prod"])
        answer = await g.live.post(f"{PATH}/{key_id}/rotate", {"overlap_seconds": 60})
        assert answer.status == 201
        made = answer.json()
        assert list(made) == [*FIELDS, "secret"]
        assert (made["kind"], made["name"], made["streams"]) == ("secret", "CI", ["orders-prod"])
        assert made["id"] != key_id
        keys = {key["id"]: key for key in (await g.live.get(PATH)).json()["data"]}
        assert keys[key_id]["expires_at"] == "2026-01-01T00:01:00.000Z"
        assert keys[made["id"]]["expires_at"] is None
        # Rotating again cannot make the old one live longer.
        await g.live.post(f"{PATH}/{key_id}/rotate", {"overlap_seconds": 600})
        keys = {key["id"]: key for key in (await g.live.get(PATH)).json()["data"]}
        assert keys[key_id]["expires_at"] == "2026-01-01T00:01:00.000Z"
        await pass_time(60)
        ended = await g.live.post(f"{PATH}/{key_id}/rotate")
        assert (ended.status, ended.code) == (404, "key_not_found")


@virtual_time
async def test_the_overlap_at_and_past_its_limits(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        key_id, _ = await g.key()
        past: list[Any] = [-1, 604_801, 1.5, "60", [], True]
        for value in past:
            answer = await g.live.post(f"{PATH}/{key_id}/rotate", {"overlap_seconds": value})
            assert answer.field == "overlap_seconds"
        for overlap in (604_800, None, 0):
            answer = await g.live.post(f"{PATH}/{key_id}/rotate", {"overlap_seconds": overlap})
            assert answer.status == 201


@virtual_time
async def test_keys_that_are_not_there(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for name in ("key_01HX9YQK2T7V3M4ZB6F5N0WJ1A", "key_", "nonsense", "%00"):
            for method, path in [("DELETE", f"{PATH}/{name}"), ("POST", f"{PATH}/{name}/rotate")]:
                answer = await g.live.request(method, path)
                assert (answer.status, answer.code) == (404, "key_not_found")


@virtual_time
async def test_secrets_are_stored_nowhere(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        made = (await g.live.post(PATH, {"kind": "secret"})).json()
        await g.live.post(f"{PATH}/{made['id']}/rotate")
        workflow = await g.workflow("wf_a", headers={"Authorization": "Bearer their-token"})
        reader = g.log.reader()
        reader.assign({TopicPartition(CONTROL_TOPIC, 0): 0})
        written = b"".join(r.value or b"" for batch in await reader.poll(1_000, 0) for r in batch.records)
        await reader.close()
        assert digest(made["secret"]).encode() in written
        for secret in (made["secret"], g.live.secret or "", workflow["secret"]):
            body = secret.rpartition("_")[2]
            assert body[8:].encode() not in written
        metrics = (await g.anonymous.get("/metrics")).body
        assert made["secret"].encode() not in metrics


@virtual_time
async def test_pages(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        for _ in range(4):
            await pass_time(0.001)
            await g.key()
        walked: list[str] = []
        page = (await g.live.get(f"{PATH}?limit=2")).json()
        while True:
            walked += [key["id"] for key in page["data"]]
            if not page["has_more"]:
                break
            page = (await g.live.get(f"{PATH}?limit=2&cursor={page['next_cursor']}")).json()
        assert len(walked) == 5
        assert walked == sorted(set(walked))
        assert (await g.live.get(f"{PATH}?cursor=stm_01HX9YQK2T7V3M4ZB6F5N0WJ1A")).field == "cursor"
