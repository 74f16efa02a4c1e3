"""What the control fold decides of the installation itself: producers, rebuilds, verifications. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from atlas.core.commands import CancelReplay, OpenProducer, RequestRebuild, RequestVerification, StartReplay
from atlas.core.entities import REBUILD, VERIFICATION, BulkReplay, Job, Producer
from atlas.core.errors import ApiError

if TYPE_CHECKING:
    from atlas.core.control import ControlState

#: A producer is forgotten this long after the next was opened: keys live for 24 hours, and no request stays
#: on its way for a fraction of the rest (a broker closes a silent connection after ten minutes).
PRODUCERS_KEPT_MS: Final = 26 * 3_600_000
#: Those before are forgotten: so many are not opened within minutes.
PRODUCERS_KEPT_MAX: Final = 1_000

#: Rebuilds and verifications remembered, the newest.
JOBS_KEPT: Final = 1_000
#: Bulk replays of an environment remembered, the newest; far fewer run at a time.
REPLAYS_KEPT: Final = 1_000


def open_producer(state: ControlState, command: OpenProducer, _: int) -> Producer:
    """Who may send keyed events from here on."""
    new, known = command.producer, state.producers
    if known and known[-1].index != new.index and any(old.index == new.index for old in known):
        raise ApiError("already_exists", "Another idempotency index has been opened since.")
    # By the time of those that came next, not its own: a producer may be in use for weeks.
    kept = [
        old
        for old, following in pairwise((*known, new))
        if new.opened_at_ms - following.opened_at_ms < PRODUCERS_KEPT_MS
    ]
    state.producers = (*kept, new)[-PRODUCERS_KEPT_MAX:]
    return new


def start_replay(state: ControlState, command: StartReplay, _: int) -> BulkReplay:
    """For the owner of the first shard to carry out."""
    replay = command.replay
    known = state.replays.setdefault(replay.scope, {})
    if replay.id in known:
        raise ApiError("already_exists", "A replay with this id exists.")
    if replay.stream is not None and replay.stream not in state.streams.get(replay.scope, {}):
        raise ApiError("stream_not_found", f"No stream {replay.stream!r} in this workspace and environment.")
    state.check_routes(replay.scope, replay.workflow_ids or (), "workflow_ids")
    known[replay.id] = replay
    if len(known) > REPLAYS_KEPT:
        del known[next(iter(known))]
    return replay


def cancel_replay(state: ControlState, command: CancelReplay, _: int) -> BulkReplay:
    """It stops where it stands."""
    scope = (command.workspace_id, command.environment)
    old = state.replay(scope, command.replay_id)
    if old.cancelled_at_ms is None:
        old = state.replays[scope][old.id] = replace(old, cancelled_at_ms=command.at_ms)
    return old


def request_rebuild(state: ControlState, command: RequestRebuild, offset: int) -> Job:
    """A job for whoever keeps the read model."""
    return _add_job(state, Job(command.job_id, REBUILD, command.at_ms, offset))


def request_verification(state: ControlState, command: RequestVerification, offset: int) -> Job:
    """The same, to compare only."""
    return _add_job(state, Job(command.job_id, VERIFICATION, command.at_ms, offset))


def _add_job(state: ControlState, job: Job) -> Job:
    if job.id in state.jobs:
        raise ApiError("already_exists", f"A {job.kind} with this id exists.")
    state.jobs[job.id] = job
    if len(state.jobs) > JOBS_KEPT:
        del state.jobs[next(iter(state.jobs))]
    return job
