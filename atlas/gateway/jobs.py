"""`/admin/v1/rebuilds` and `/admin/v1/verify`: the operator's (API notes, "Operators").

The read model's writer may be another process: what is asked for goes to it through `atlas.control`, and
how far it has come is read in the read model.
"""

from __future__ import annotations

from typing import Any, Final

from atlas.core.commands import Command, RequestRebuild, RequestVerification
from atlas.core.entities import REBUILD, VERIFICATION, Job
from atlas.core.timestamps import format_ms
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import cursor_with, page
from atlas.gateway.parameters import refuse_parameters
from atlas.ports.read_model import Jobs as StoredJobs
from atlas.ports.read_model import JobState

REBUILD_PREFIX: Final = "rbd_"
VERIFICATION_PREFIX: Final = "vfy_"


class Jobs:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._clock, self._ids = services.clock, services.ids
        self._registry, self._read_model = services.registry, services.read_model

    async def rebuild(self, call: Call) -> Reply:
        """`POST /admin/v1/rebuilds`: 202, and the rebuild begins."""
        job_id = self._ids.new(REBUILD_PREFIX)
        return await self._ask(
            call, RequestRebuild(id=self._ids.new("cmd_"), at_ms=self._clock.now_ms(), job_id=job_id)
        )

    async def rebuilds(self, call: Call) -> Reply:
        """`GET /admin/v1/rebuilds`: newest first."""
        await self._registry.catch_up()
        stored = await self._read_model.jobs()
        rebuilds = [job for job in self._registry.state.jobs.values() if job.kind == REBUILD]
        cursor_of = cursor_with(REBUILD_PREFIX)
        return page(call, cursor_of, rebuilds, lambda job: _view(job, stored), newest_first=True)

    async def retrieve_rebuild(self, call: Call) -> Reply:
        """`GET /admin/v1/rebuilds/{rebuild_id}`."""
        return await self._retrieve(call, REBUILD, "rebuild_id")

    async def verify(self, call: Call) -> Reply:
        """`POST /admin/v1/verify`: 202, and the verification begins."""
        job_id = self._ids.new(VERIFICATION_PREFIX)
        return await self._ask(
            call, RequestVerification(id=self._ids.new("cmd_"), at_ms=self._clock.now_ms(), job_id=job_id)
        )

    async def retrieve_verification(self, call: Call) -> Reply:
        """`GET /admin/v1/verify/{verification_id}`."""
        return await self._retrieve(call, VERIFICATION, "verification_id")

    async def _ask(self, call: Call, command: Command) -> Reply:
        refuse_parameters(call)
        await call.json_or_empty()
        job = await self._registry.propose(command)
        assert isinstance(job, Job)
        return json_reply(202, _view(job, StoredJobs(None, {})))

    async def _retrieve(self, call: Call, kind: str, parameter: str) -> Reply:
        refuse_parameters(call)
        await self._registry.catch_up()
        job = self._registry.state.job(kind, call.path_params[parameter])
        return json_reply(200, _view(job, await self._read_model.jobs()))


def _view(job: Job, stored: StoredJobs) -> dict[str, Any]:
    state = stored.states.get(job.id) or _of_one_unknown(job, stored.position)
    view = {
        "id": job.id,
        "object": job.kind,
        "status": state.status,
        "created_at": format_ms(job.requested_at_ms),
        "started_at": format_ms(state.started_at_ms) if state.started_at_ms else None,
        "completed_at": None if state.completed_at_ms is None else format_ms(state.completed_at_ms),
        "records_folded": state.records_folded,
        "records_total": state.records_total,
        "error": state.error,
    }
    return view if job.kind == REBUILD else {**view, **_result(state)}


def _of_one_unknown(job: Job, position: int | None) -> JobState:
    """Not begun; or the store was made anew since, which is all that a rebuild is about."""
    if position is None or job.offset >= position:
        return JobState(id=job.id, status="running", started_at_ms=0)
    if job.kind == REBUILD:
        return JobState(id=job.id, status="completed", started_at_ms=0)
    return JobState(id=job.id, status="failed", started_at_ms=0, error="the read model was made anew since")


def _result(state: JobState) -> dict[str, Any]:
    found = state.comparison
    return {
        "equal": None if found is None else found.live_digest == found.rebuilt_digest,
        "live_digest": found and found.live_digest,
        "rebuilt_digest": found and found.rebuilt_digest,
        "differences": [
            {"table": each.table, "scope": each.scope or None, "key": list(each.key), "where": each.where}
            for each in (found.differences if found else ())
        ],
    }
