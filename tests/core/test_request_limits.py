"""Every limit of every body: at it, and one past it."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.core.event_requests import BatchEventIn, BatchIn
from atlas.core.requests import (
    KeyCreate,
    RotateRequest,
    StreamCreate,
    StreamPatch,
    WorkflowCreate,
    WorkflowPatch,
    WorkspaceCreate,
    WorkspacePatch,
)
from tests.core.bodies import (
    VALID,
    Body,
    data_of,
    field_of,
    keys,
    read,
    refusal,
)


def names(n: int) -> list[str]:
    return [f"wf_{i}" for i in range(n)]


def quota(per_minute: int = 1, burst: int = 1) -> dict[str, int]:
    return {"requests_per_minute": per_minute, "burst": burst}


#: Model, dotted path named in the error, and for the field it starts with the last good and first bad value.
LIMITS: list[tuple[Body, str, Any, Any]] = [
    (BatchEventIn, "stream", "a" * 3, "a" * 2),
    (BatchEventIn, "stream", "a" * 64, "a" * 65),
    (BatchEventIn, "type", "a." + "b" * 126, "a." + "b" * 127),
    (BatchEventIn, "data", data_of(262143), data_of(262144)),
    (BatchEventIn, "actor.type", {"type": "é" * 256}, {"type": "é" * 257}),
    (BatchEventIn, "actor.id", {"id": "x" * 256}, {"id": "x" * 257}),
    (BatchEventIn, "actor.tenant_id", {"tenant_id": "x" * 256}, {"tenant_id": "x" * 257}),
    (BatchEventIn, "actor.user_agent", {"user_agent": "x" * 1024}, {"user_agent": "x" * 1025}),
    (BatchEventIn, "metadata", keys(20), keys(21)),
    (BatchEventIn, "metadata.k", {"k": "v" * 512}, {"k": "v" * 513}),
    (BatchEventIn, "metadata." + "k" * 65, {"k" * 64: "v"}, {"k" * 65: "v"}),
    (BatchEventIn, "metadata.", {"k": ""}, {"": "v"}),
    (BatchEventIn, "ordering_key", "x", ""),
    (BatchEventIn, "ordering_key", "x" * 128, "x" * 129),
    (BatchEventIn, "idempotency_key", "~", ""),
    (BatchEventIn, "idempotency_key", "x" * 255, "x" * 256),
    (StreamCreate, "name", "a-0", "a-"),
    (StreamCreate, "name", "-" * 64, "-" * 65),
    (StreamCreate, "retention_days", 1, 0),
    (StreamCreate, "retention_days", 90, 91),
    (StreamCreate, "default_routes", names(20), names(21)),
    (StreamCreate, "description", "x" * 1000, "x" * 1001),
    (StreamPatch, "retention_days", 90, 91),
    (StreamPatch, "default_routes", names(20), names(21)),
    (StreamPatch, "description", "x" * 1000, "x" * 1001),
    (WorkflowCreate, "id", "wf_a", "wf_"),
    (WorkflowCreate, "id", "wf_" + "a" * 60, "wf_" + "a" * 61),
    (WorkflowCreate, "url", "http://a/" + "x" * 2039, "http://a/" + "x" * 2040),
    (WorkflowCreate, "timeout_ms", 100, 99),
    (WorkflowCreate, "timeout_ms", 30000, 30001),
    (WorkflowCreate, "retry_schedule_seconds", [1] * 20, [1] * 21),
    (WorkflowCreate, "retry_schedule_seconds.0", [1], [0]),
    (WorkflowCreate, "retry_schedule_seconds.1", [1, 86400], [1, 86401]),
    (WorkflowCreate, "max_in_flight", 1, 0),
    (WorkflowCreate, "max_in_flight", 1000, 1001),
    (WorkflowCreate, "rate_limit_per_second", 1, 0),
    (WorkflowPatch, "rate_limit_per_second", 10000, 10001),
    (WorkflowCreate, "headers", keys(20), keys(21)),
    (WorkflowPatch, "headers", keys(20), keys(21)),
    (KeyCreate, "name", "x", ""),
    (KeyCreate, "name", "x" * 100, "x" * 101),
    (KeyCreate, "streams", [f"s-{i}" for i in range(100)], [f"s-{i}" for i in range(101)]),
    (KeyCreate, "streams", ["abc"], []),
    (RotateRequest, "overlap_seconds", 0, -1),
    (RotateRequest, "overlap_seconds", 604800, 604801),
    (WorkspaceCreate, "name", "x" * 100, "x" * 101),
    (WorkspacePatch, "quota.live.burst", {"live": quota(burst=1)}, {"live": quota(burst=0)}),
    (WorkspacePatch, "quota.test.burst", {"test": quota(burst=10**6)}, {"test": quota(burst=10**6 + 1)}),
    (WorkspacePatch, "quota.live.requests_per_minute", {"live": quota(1)}, {"live": quota(0)}),
    (
        WorkspacePatch,
        "quota.test.requests_per_minute",
        {"test": quota(6 * 10**7)},
        {"test": quota(6 * 10**7 + 1)},
    ),
]


@pytest.mark.parametrize(("model", "path", "good", "bad"), LIMITS)
def test_limits(model: Body, path: str, good: Any, bad: Any) -> None:
    field = path.split(".")[0]
    read(model, {**VALID[model], field: good})
    assert field_of(model, {field: bad}) == path


def test_a_batch_holds_1_to_1000_items_of_any_kind() -> None:
    assert read(BatchIn, {"events": [1] * 1000}).events == [1] * 1000
    refused: list[Any] = [[], [1] * 1001, None, {}]
    for events in refused:
        assert refusal(BatchIn, {"events": events}).field == "events"
    assert refusal(BatchIn, {"events": [1], "x": 1}).field == "x"
