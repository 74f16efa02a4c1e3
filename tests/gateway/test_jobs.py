"""`/admin/v1/rebuilds` and `/admin/v1/verify`: their form, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from atlas.adapters.sqlite_read_model import SqliteReadModel, open_read_model
from atlas.ports.read_model import Comparison, Difference, JobState
from tests.gateway.harness import Gateway, gateway
from tests.schemas.contract import Api
from tests.virtual_time import VirtualClock, pass_time, virtual_time

REBUILDS, VERIFY = "/admin/v1/rebuilds", "/admin/v1/verify"
LIVE, REBUILT = "a" * 64, "b" * 64
STARTED_MS = 1_767_225_600_500
FIELDS = {
    "status": "running",
    "created_at": "2026-01-01T00:00:00.000Z",
    "started_at": None,
    "completed_at": None,
    "records_folded": 0,
    "records_total": 0,
    "error": None,
}
NOTHING: dict[str, object] = {"equal": None, "live_digest": None, "rebuilt_digest": None, "differences": []}


@asynccontextmanager
async def with_store(clock: VirtualClock, directory: Path) -> AsyncIterator[tuple[Gateway, SqliteReadModel]]:
    store = await open_read_model(None)
    async with gateway(clock, directory, read_model=store) as g:
        yield g, store
    await store.close()


@virtual_time
async def test_a_rebuild_from_asking_to_its_end(clock: VirtualClock, tmp_path: Path) -> None:
    async with with_store(clock, tmp_path) as (g, store):
        answer = await g.operator.post(REBUILDS, {})
        assert answer.status == 202
        made = answer.json()
        assert made == {"id": made["id"], "object": "rebuild", **FIELDS}
        assert made["id"].startswith("rbd_")
        path = f"{REBUILDS}/{made['id']}"
        assert (await g.operator.get(path)).json() == made
        state = JobState(
            id=made["id"], status="running", started_at_ms=STARTED_MS, records_folded=5, records_total=9
        )
        await store.note_jobs([state])
        seen = {"started_at": "2026-01-01T00:00:00.500Z", "records_folded": 5, "records_total": 9}
        assert (await g.operator.get(path)).json() == {**made, **seen}
        done = JobState(
            id=made["id"],
            status="failed",
            started_at_ms=STARTED_MS,
            completed_at_ms=STARTED_MS + 1,
            error="the disk is full",
        )
        await store.note_jobs([done], g.registry.position)
        answer = await g.operator.get(path)
        Api().check("GET", path, answer)
        failed = answer.json()
        assert (failed["status"], failed["error"]) == ("failed", "the disk is full")
        assert failed["completed_at"] == "2026-01-01T00:00:00.501Z"


@virtual_time
async def test_rebuilds_are_listed_newest_first(clock: VirtualClock, tmp_path: Path) -> None:
    async with with_store(clock, tmp_path) as (g, _):
        ids = []
        for _ in range(5):
            ids.append((await g.operator.post(REBUILDS, {})).json()["id"])
            await g.operator.post(VERIFY, {})
            await pass_time(0.01)
        answer = await g.operator.get(f"{REBUILDS}?limit=2")
        Api().check("GET", REBUILDS, answer)
        page = answer.json()
        assert [each["id"] for each in page["data"]] == ids[:2:-1]
        assert (page["object"], page["has_more"], page["next_cursor"]) == ("list", True, ids[3])
        rest = (await g.operator.get(f"{REBUILDS}?cursor={ids[3]}")).json()
        assert [each["id"] for each in rest["data"]] == ids[2::-1]
        assert (rest["has_more"], rest["next_cursor"]) == (False, None)
        assert (await g.operator.get(f"{REBUILDS}?cursor=x")).field == "cursor"
        assert (await g.operator.get(f"{REBUILDS}?limit=0")).field == "limit"


@virtual_time
async def test_a_verification_from_asking_to_its_end(clock: VirtualClock, tmp_path: Path) -> None:
    async with with_store(clock, tmp_path) as (g, store):
        answer = await g.operator.post(VERIFY)
        assert answer.status == 202
        made = answer.json()
        assert made == {"id": made["id"], "object": "verification", **FIELDS, **NOTHING}
        path = f"{VERIFY}/{made['id']}"
        difference = Difference("events", "ws_a/live", ["evt_1"], "both")
        seen: dict[str, object] = {}
        for comparison, equal in (
            (Comparison(LIVE, LIVE), True),
            (Comparison(LIVE, REBUILT, [difference, Difference("epochs", "", [3], "live")]), False),
        ):
            done = JobState(
                id=made["id"], status="completed", started_at_ms=STARTED_MS, comparison=comparison
            )
            await store.note_jobs([done], g.registry.position)
            answer = await g.operator.get(path)
            Api().check("GET", path, answer)
            seen = answer.json()
            assert seen["equal"] is equal
            assert (seen["live_digest"], seen["rebuilt_digest"]) == (LIVE, comparison.rebuilt_digest)
        assert seen["differences"] == [
            {"table": "events", "scope": "ws_a/live", "key": ["evt_1"], "where": "both"},
            {"table": "epochs", "scope": None, "key": [3], "where": "live"},
        ]


@virtual_time
async def test_what_a_store_made_anew_does_not_know(clock: VirtualClock, tmp_path: Path) -> None:
    async with with_store(clock, tmp_path) as (g, store):
        rebuild = (await g.operator.post(REBUILDS, {})).json()["id"]
        verification = (await g.operator.post(VERIFY, {})).json()["id"]
        await store.note_jobs([], g.registry.position)
        assert (await g.operator.get(f"{REBUILDS}/{rebuild}")).json()["status"] == "completed"
        seen = (await g.operator.get(f"{VERIFY}/{verification}")).json()
        assert (seen["status"], seen["error"]) == ("failed", "the read model was made anew since")


@virtual_time
async def test_who_and_what_is_refused(clock: VirtualClock, tmp_path: Path) -> None:
    async with with_store(clock, tmp_path) as (g, store):
        rebuild = (await g.operator.post(REBUILDS, {})).json()["id"]
        position = g.registry.position
        for client in (g.anonymous, g.live):
            for method, path in (
                ("POST", REBUILDS),
                ("GET", REBUILDS),
                ("GET", f"{REBUILDS}/{rebuild}"),
                ("POST", VERIFY),
                ("GET", f"{VERIFY}/{rebuild}"),
            ):
                assert (await client.request(method, path)).status == 401
        for path in (f"{REBUILDS}/rbd_x", f"{VERIFY}/{rebuild}", f"{VERIFY}/vfy_x"):
            refused = await g.operator.get(path)
            assert (refused.status, refused.json()["error"]["code"]) == (404, "not_found")
        assert (await g.operator.post(f"{REBUILDS}?now=1", {})).field == "now"
        assert (await g.operator.get(VERIFY)).status == 405
        for path in (REBUILDS, VERIFY):
            assert (await g.operator.post(path, {"now": True})).field == "now"
        assert g.registry.position == position
        await store.close()
        assert (await g.operator.get(REBUILDS)).status == 503
