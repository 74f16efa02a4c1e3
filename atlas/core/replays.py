"""Bulk replays: which events and routes one means, and how it is shown. Pure.

Its progress is in the log, as facts of the first shard; what becomes of a request for an event's routes is
for the fold of that event to decide, which replays no route twice for the same replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal, TypedDict

from msgspec import Struct

from atlas.core import answers, shapes
from atlas.core.entities import BulkReplay, Scope
from atlas.core.lifecycle import TERMINAL, RouteState
from atlas.core.limits import RETENTION_DAYS_MAX
from atlas.core.projection import EventState
from atlas.core.timestamps import format_ms

RUNNING: Final = "running"
COMPLETED: Final = "completed"
CANCELLED: Final = "cancelled"
_DAY_MS: Final = 86_400_000


class BulkProgress(Struct, frozen=True, kw_only=True):
    """How far a bulk replay has come; see the fact `replay.progressed`."""

    scope: Scope
    id: str
    after: str | None = None
    through: str | None = None
    matched: int = 0
    replayed: int = 0
    skipped: int = 0
    done_at_ms: int | None = None


class ReplayCriteria(TypedDict):
    """Which events a bulk replay means; null: whichever."""

    stream: shapes.StreamName | None
    type: shapes.EventType | None
    status: answers.EventStatus | None
    workflow_ids: Sequence[shapes.WorkflowId] | None
    received_after: shapes.Moment | None
    received_before: shapes.Moment | None


class Replay(TypedDict):
    """A bulk replay, in events.

    `matched` were found when it began; of them `replayed` have had a route begun anew, and `skipped` had none
    that could be. While it is `running`, the rest is still to come.
    """

    id: shapes.ReplayId
    object: Literal["replay"]
    status: Annotated[str, shapes.said(enum=["running", "completed", "cancelled"])]
    criteria: ReplayCriteria
    rate_per_second: shapes.RatePerSecond
    matched: answers.Records
    replayed: answers.Records
    skipped: answers.Records
    created_at: shapes.Moment
    completed_at: shapes.Moment | None
    cancelled_at: shapes.Moment | None


def is_past(replay: BulkReplay, now_ms: int) -> bool:
    """Whether nothing that it could match is still kept; nor need the log know what became of it."""
    return now_ms - replay.created_at_ms > RETENTION_DAYS_MAX * _DAY_MS


def chosen(replay: BulkReplay, event: EventState) -> Iterator[RouteState]:
    """The routes of an event that it means, whether they may be begun anew or not."""
    for route in event.routes:
        if replay.workflow_ids is not None and route.target not in replay.workflow_ids:
            continue
        if route.bulk == replay.id or replay.status not in TERMINAL or route.status == replay.status:
            yield route


def of_event(replay: BulkReplay) -> str | None:
    """The status that the event itself must have: whether something was delivered is asked of its routes."""
    return None if replay.status in TERMINAL else replay.status


def had_its_turn(replay: BulkReplay, event: EventState) -> bool:
    """Whether a route of the event has been begun anew by it already."""
    return any(route.bulk == replay.id for route in event.routes)


def status_of(replay: BulkReplay, progress: BulkProgress | None, now_ms: int) -> str:
    """Where it stands; `progress` None before it has begun."""
    if (progress is not None and progress.done_at_ms is not None) or is_past(replay, now_ms):
        return COMPLETED
    return RUNNING if replay.cancelled_at_ms is None else CANCELLED


def replay_view(replay: BulkReplay, progress: BulkProgress | None, now_ms: int) -> Replay:
    """A bulk replay as the API shows it.

    Args:
        progress: None before it has begun.
    """
    status = status_of(replay, progress, now_ms)
    so_far = progress or BulkProgress(scope=replay.scope, id=replay.id)
    return {
        "id": replay.id,
        "object": "replay",
        "status": status,
        "criteria": {
            "stream": replay.stream,
            "type": replay.type,
            "status": replay.status,
            "workflow_ids": replay.workflow_ids,
            "received_after": _time(replay.received_from_ms),
            "received_before": _time(replay.received_before_ms),
        },
        "rate_per_second": replay.rate_per_second,
        "matched": so_far.matched,
        "replayed": so_far.replayed,
        "skipped": so_far.skipped,
        "created_at": format_ms(replay.created_at_ms),
        "completed_at": _time(so_far.done_at_ms),
        "cancelled_at": _time(replay.cancelled_at_ms) if status == CANCELLED else None,
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else format_ms(ms)
