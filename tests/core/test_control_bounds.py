"""What others than Atlas may write into the control log: refused, in every process alike; nothing stops."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from atlas.core.commands import (
    Command,
    CreateStream,
    CreateTarget,
    CreateWorkspace,
    PatchStream,
    PatchTarget,
    PatchWorkspace,
    RequestRebuild,
    RotateSecret,
    StartReplay,
)
from atlas.core.control import ControlState
from atlas.core.entities import BulkReplay, Quota, SealedSecret, Stream, Workflow, Workspace
from atlas.core.errors import InvalidRequest
from atlas.core.limits import MS_MAX

SCOPE: dict[str, Any] = {"workspace_id": "ws_1", "environment": "live"}
WORKSPACE = Workspace(id="ws_1", name="Acme", created_at_ms=0)
STREAM = Stream(
    **SCOPE,
    id="stm_1",
    name="orders",
    description=None,
    retention_days=14,
    default_routes=(),
    created_at_ms=0,
)
WORKFLOW = Workflow(**SCOPE, id="wf_a", url="http://a", secrets=(SealedSecret("AA=="),), created_at_ms=0)
REPLAY = BulkReplay(**SCOPE, id="rpl_1", rate_per_second=100, created_at_ms=0)


def scoped(name: str = "cmd_1") -> dict[str, Any]:
    return {"id": name, "at_ms": 0, **SCOPE}


def folded(*commands: Command) -> ControlState:
    state = ControlState()
    for offset, command in enumerate(commands):
        assert not isinstance(state.apply(command, offset), Exception)
    return state


def an_installation() -> ControlState:
    return folded(
        CreateWorkspace(id="c1", at_ms=0, workspace=WORKSPACE, keys=()),
        CreateStream(id="c2", at_ms=0, stream=STREAM, streams_max=100),
        CreateTarget(id="c3", at_ms=0, target=WORKFLOW),
    )


def made(target: Workflow) -> CreateTarget:
    return CreateTarget(id="c", at_ms=0, target=replace(target, id="wf_new"))


def limited(quota: Quota | None) -> PatchWorkspace:
    return PatchWorkspace(id="c", at_ms=0, workspace_id="ws_1", quotas={"live": quota})


def asked(**criteria: Any) -> StartReplay:
    return StartReplay(id="c", at_ms=0, replay=replace(REPLAY, **criteria))


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (CreateWorkspace(id="c", at_ms=0, workspace=replace(WORKSPACE, created_at_ms=10**17), keys=()),
         "workspace.created_at_ms"),
        (RequestRebuild(id="c", at_ms=MS_MAX + 1, job_id="rbd_1"), "at_ms"),
        (RequestRebuild(id="c", at_ms=-1, job_id="rbd_1"), "at_ms"),
        (limited(Quota(0, 1)), "quotas.live.requests_per_minute"),
        (limited(Quota(1, 0)), "quotas.live.burst"),
        (PatchStream(**scoped(), name="orders", retention_days=10**15), "retention_days"),
        (PatchStream(**scoped(), name="orders", retention_days=0), "retention_days"),
        (CreateStream(id="c", at_ms=0, stream=replace(STREAM, name="a b/\0c"), streams_max=9), "stream.name"),
        (CreateStream(id="c", at_ms=0, stream=replace(STREAM, workspace_id="ws a"), streams_max=9),
         "stream.workspace_id"),
        (made(replace(WORKFLOW, filter={"data.a": [2**70]})), None),
        (made(replace(WORKFLOW, secrets=())), "target.secrets"),
        (made(replace(WORKFLOW, timeout_ms=0)), "target.timeout_ms"),
        (made(replace(WORKFLOW, retry_schedule_seconds=(5, 2**70))), "target.retry_schedule_seconds"),
        (made(replace(WORKFLOW, filter={"data": [{"numeric": ["!", 1]}]})), "target.filter.data.0.numeric.0"),
        (made(replace(WORKFLOW, secrets=(SealedSecret("AA==", 2**60),))), "target.secrets.0.expires_at_ms"),
        (PatchTarget(**scoped(), target_id="wf_a", filter={"nothing": []}), "filter.nothing"),
        (PatchTarget(**scoped(), target_id="wf_a", max_in_flight=0), "max_in_flight"),
        (asked(received_from_ms=2**70), "replay.received_from_ms"),
        (asked(rate_per_second=0), "replay.rate_per_second"),
    ],
)  # fmt: skip
def test_what_nobody_could_fold_keep_or_show_is_refused(command: Command, field: str | None) -> None:
    state, before = an_installation(), an_installation()
    refused = state.apply(command, 7)
    assert isinstance(refused, InvalidRequest)
    assert refused.field == field
    assert vars(state) | {"_decisions": None} == vars(before) | {"_decisions": None}


@pytest.mark.parametrize(
    "command",
    [
        RequestRebuild(id="c", at_ms=MS_MAX, job_id="rbd_1"),
        PatchStream(**scoped(), name="orders", retention_days=37_000),
        limited(Quota(1, 1)),
        limited(None),
        made(replace(WORKFLOW, filter={"data.a": [{"numeric": ["<", -(2**63)]}]})),
        PatchTarget(**scoped(), target_id="wf_a", rate_limit_per_second=None),
        RotateSecret(**scoped(), target_id="wf_a", sealed="BB==", old_ends_at_ms=MS_MAX),
    ],
)
def test_what_lies_within_is_folded(command: Command) -> None:
    assert not isinstance(an_installation().apply(command, 7), Exception)
