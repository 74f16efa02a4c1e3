"""`/admin/v1/rebuilds` and `/admin/v1/verify`: the operator's (API notes, "Operators").

The read model's writer may be another process: what is asked for goes to it through `atlas.control`, and
how far it has come is read in the read model.
"""

from __future__ import annotations

from typing import Final

from atlas.core import answers
from atlas.core.commands import Command, RequestRebuild, RequestVerification
from atlas.core.entities import REBUILD, VERIFICATION, Job
from atlas.core.requests import Nothing, parse
from atlas.core.timestamps import format_ms
from atlas.gateway.call import Call, Reply, Services, json_reply
from atlas.gateway.pages import cursor_with, page
from atlas.gateway.parameters import refuse_parameters
from atlas.ports.read_model import Difference, JobState
from atlas.ports.read_model import Jobs as StoredJobs

REBUILD_PREFIX: Final = "rbd_"
VERIFICATION_PREFIX: Final = "vfy_"
_NOTHING: Final = StoredJobs(None, {})


class Jobs:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._clock, self._ids = services.clock, services.ids
        self._registry, self._read_model = services.registry, services.read_model

    async def rebuild(self, call: Call) -> Reply:
        """`POST /admin/v1/rebuilds`: 202, and the rebuild begins."""
        job_id = self._ids.new(REBUILD_PREFIX)
        command = RequestRebuild(id=self._ids.new("cmd_"), at_ms=self._clock.now_ms(), job_id=job_id)
        return json_reply(202, _rebuild(await self._ask(call, command), _NOTHING))

    async def rebuilds(self, call: Call) -> Reply:
        """`GET /admin/v1/rebuilds`: newest first."""
        await self._registry.catch_up()
        stored = await self._read_model.jobs()
        rebuilds = [job for job in self._registry.state.jobs.values() if job.kind == REBUILD]
        cursor_of = cursor_with(REBUILD_PREFIX)
        return page(call, cursor_of, rebuilds, lambda job: _rebuild(job, stored), newest_first=True)

    async def retrieve_rebuild(self, call: Call) -> Reply:
        """`GET /admin/v1/rebuilds/{rebuild_id}`."""
        job = await self._known(call, REBUILD, "rebuild_id")
        return json_reply(200, _rebuild(job, await self._read_model.jobs()))

    async def verify(self, call: Call) -> Reply:
        """`POST /admin/v1/verify`: 202, and the verification begins."""
        job_id = self._ids.new(VERIFICATION_PREFIX)
        command = RequestVerification(id=self._ids.new("cmd_"), at_ms=self._clock.now_ms(), job_id=job_id)
        return json_reply(202, _verification(await self._ask(call, command), _NOTHING))

    async def retrieve_verification(self, call: Call) -> Reply:
        """`GET /admin/v1/verify/{verification_id}`."""
        job = await self._known(call, VERIFICATION, "verification_id")
        return json_reply(200, _verification(job, await self._read_model.jobs()))

    async def _ask(self, call: Call, command: Command) -> Job:
        refuse_parameters(call)
        parse(Nothing, await call.json_or_empty())
        job = await self._registry.propose(command)
        assert isinstance(job, Job)
        return job

    async def _known(self, call: Call, kind: str, parameter: str) -> Job:
        refuse_parameters(call)
        await self._registry.catch_up()
        return self._registry.state.job(kind, call.path_params[parameter])


def _rebuild(job: Job, stored: StoredJobs) -> answers.Rebuild:
    state = _state(job, stored)
    return {
        "id": job.id,
        "object": "rebuild",
        "status": state.status,
        "created_at": format_ms(job.requested_at_ms),
        "started_at": format_ms(state.started_at_ms) if state.started_at_ms else None,
        "completed_at": None if state.completed_at_ms is None else format_ms(state.completed_at_ms),
        "records_folded": state.records_folded,
        "records_total": state.records_total,
        "error": state.error,
    }


def _verification(job: Job, stored: StoredJobs) -> answers.Verification:
    found = _state(job, stored).comparison
    return {
        **_rebuild(job, stored),
        "object": "verification",
        "equal": None if found is None else found.live_digest == found.rebuilt_digest,
        "live_digest": None if found is None else found.live_digest,
        "rebuilt_digest": None if found is None else found.rebuilt_digest,
        "differences": [_difference(each) for each in (found.differences if found else ())],
    }


def _difference(one: Difference) -> answers.RowDifference:
    return {"table": one.table, "scope": one.scope or None, "key": one.key, "where": one.where}


def _state(job: Job, stored: StoredJobs) -> JobState:
    """What is stored of it; else it has not begun, or the store was made anew since.

    Making the store anew is all that a rebuild is about.
    """
    if (known := stored.states.get(job.id)) is not None:
        return known
    if stored.position is None or job.offset >= stored.position:
        return JobState(id=job.id, status="running", started_at_ms=0)
    if job.kind == REBUILD:
        return JobState(id=job.id, status="completed", started_at_ms=0)
    return JobState(id=job.id, status="failed", started_at_ms=0, error="the read model was made anew since")
