"""What openapi.json says of each operation beyond what the code does: a new route needs an entry here.

A path's area, its methods, who may call it and the limit of its body come from the routes themselves
(atlas/gateway/app.py); bodies and answers are types (atlas/core/requests.py, atlas/core/answers.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from atlas.core import answers, event_requests, health, replays, requests
from atlas.core.answers import Page


class Documented(Struct, frozen=True, kw_only=True):
    """One operation.

    Attributes:
        id: for generators of clients.
        does: one line.
        answer: type of the body; None: text for Prometheus.
        body: type of the request's body.
        errors: codes of its own, besides those that every path of its area can answer.
        parameters: names in `parameters.PARAMETERS`, besides those of the path.
        headers: names in `parameters.HEADERS` of the good answer, besides those of every answer.
        unready: type of the body of a 503 that is no error.
    """

    id: str
    does: str
    answer: Any
    status: int = 200
    body: Any = None
    errors: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    unready: Any = None


_PAGE: Final = ("limit", "cursor")
_EVENT_PAGE: Final = (
    *_PAGE,
    "stream",
    "type",
    "status",
    "workflow_id",
    "route_status",
    "actor_id",
    "tenant_id",
    "received_after",
    "received_before",
    "idempotency_key",
    "metadata",
)

_EVENTS: Final = {
    "POST /v1/events": Documented(
        id="sendEvent",
        does="Accepts an event: the answer comes once it is durable in the log.",
        body=event_requests.EventIn,
        status=202,
        answer=answers.AcceptedEvent,
        errors=("stream_not_found", "duplicate_event"),
        parameters=("Idempotency-Key",),
        headers=("Idempotent-Replayed",),
    ),
    "POST /v1/events/batch": Documented(
        id="sendEvents",
        does="Accepts up to 1,000 events, each for itself: one bad event spoils no other.",
        body=event_requests.BatchIn,
        status=202,
        answer=answers.Batch,
        parameters=("Idempotency-Key of a batch",),
        headers=("Idempotent-Replayed",),
    ),
    "GET /v1/events": Documented(
        id="listEvents",
        does="Lists events, oldest first, with filters that must all match.",
        answer=Page[answers.EventItem],
        errors=("stream_not_found",),
        parameters=_EVENT_PAGE,
        headers=("X-Atlas-Lag-Ms",),
    ),
    "GET /v1/events/{event_id}": Documented(
        id="getEvent",
        does="Shows an event and where each of its routes stands.",
        answer=answers.Event,
        errors=("event_not_found",),
    ),
    "GET /v1/events/{event_id}/payload": Documented(
        id="getEventPayload",
        does="Shows what was sent, from the log.",
        answer=answers.EventPayload,
        errors=("event_not_found", "payload_expired"),
    ),
    "GET /v1/events/{event_id}/attempts": Documented(
        id="listEventAttempts",
        does="Lists every attempt ever made to deliver an event, oldest first, in one page.",
        answer=Page[answers.Attempt],
        errors=("event_not_found",),
    ),
}

_STREAMS: Final = {
    "POST /v1/event-streams": Documented(
        id="createEventStream",
        does="Creates an event stream; it takes events at once.",
        body=requests.StreamCreate,
        status=201,
        answer=answers.EventStream,
        errors=("already_exists", "stream_limit_reached"),
    ),
    "GET /v1/event-streams": Documented(
        id="listEventStreams",
        does="Lists the streams that take events and that the key may see.",
        answer=Page[answers.EventStream],
        parameters=_PAGE,
    ),
    "GET /v1/event-streams/{name}": Documented(
        id="getEventStream", does="Shows a stream.", answer=answers.EventStream, errors=("stream_not_found",)
    ),
    "PATCH /v1/event-streams/{name}": Documented(
        id="updateEventStream",
        does="Changes the fields that are given.",
        body=requests.StreamPatch,
        answer=answers.EventStream,
        errors=("stream_not_found",),
    ),
    "DELETE /v1/event-streams/{name}": Documented(
        id="archiveEventStream",
        does="Archives a stream: no new events, its history readable, its name taken.",
        answer=answers.EventStream,
        errors=("stream_not_found",),
    ),
}

_KEYS: Final = {
    "POST /v1/api-keys": Documented(
        id="createApiKey",
        does="Makes a key; its secret is shown only in this answer.",
        body=requests.KeyCreate,
        status=201,
        answer=answers.NewKey,
    ),
    "GET /v1/api-keys": Documented(
        id="listApiKeys", does="Lists keys, ended ones too.", answer=Page[answers.Key], parameters=_PAGE
    ),
    "DELETE /v1/api-keys/{key_id}": Documented(
        id="revokeApiKey", does="Ends a key at once.", answer=answers.Key, errors=("key_not_found",)
    ),
    "POST /v1/api-keys/{key_id}/rotate": Documented(
        id="rotateApiKey",
        does="Makes a key in place of this one, which ends with the overlap.",
        body=requests.RotateRequest,
        status=201,
        answer=answers.NewKey,
        errors=("key_not_found",),
    ),
}


def _targets(
    path: str, kind: str, what: str, answered: tuple[Any, Any], bodies: tuple[Any, Any], refusal: str
) -> dict[str, Documented]:
    """What workflows and webhook endpoints have in common.

    Args:
        answered: types of what is shown, and of the same with its secret.
        bodies: types of what creates one, and changes one.
        refusal: code of its own that creating one may answer.
    """
    (shown, with_secret), (create, patch) = answered, bodies
    name, errors = kind.capitalize(), (f"{kind}_not_found",)
    one = f"{path}/{{{kind}_id}}"
    return {
        f"POST {path}": Documented(
            id=f"create{name}",
            does=f"Makes {what}; its signing secret is in this answer.",
            body=create,
            status=201,
            answer=with_secret,
            errors=(refusal,),
        ),
        f"GET {path}": Documented(
            id=f"list{name}s", does="Lists them.", answer=Page[shown], parameters=_PAGE
        ),
        f"GET {one}": Documented(id=f"get{name}", does=f"Shows {what}.", answer=shown, errors=errors),
        f"PATCH {one}": Documented(
            id=f"update{name}",
            does="Changes the fields that are given.",
            body=patch,
            answer=shown,
            errors=errors,
        ),
        f"DELETE {one}": Documented(
            id=f"delete{name}",
            does=f"Deletes {what}; what is open there ends failed.",
            answer=shown,
            errors=errors,
        ),
        **_secret_and_status(one, name, shown, with_secret, errors),
    }


def _secret_and_status(
    one: str, name: str, shown: Any, with_secret: Any, errors: tuple[str, ...]
) -> dict[str, Documented]:
    return {
        f"POST {one}/rotate-secret": Documented(
            id=f"rotate{name}Secret",
            does="Makes a new signing secret; both sign until the overlap ends.",
            body=requests.RotateRequest,
            answer=with_secret,
            errors=errors,
        ),
        f"GET {one}/health": Documented(
            id=f"get{name}Health",
            does="Shows how many deliveries stand where, the last errors, and the latency of the last hour.",
            answer=health.Health,
            errors=errors,
        ),
        f"POST {one}/disable": Documented(
            id=f"disable{name}",
            does="Stops deliveries; what is open, and what comes, ends failed.",
            body=requests.Nothing,
            answer=shown,
            errors=errors,
        ),
        f"POST {one}/reactivate": Documented(
            id=f"reactivate{name}",
            does="Lets deliveries go on.",
            body=requests.Nothing,
            answer=shown,
            errors=errors,
        ),
    }


_REPLAYS: Final = {
    "POST /v1/replays": Documented(
        id="createReplay",
        does="Delivers many events again; a disabled target's backlog too, once it is reactivated.",
        body=requests.BulkReplayCreate,
        status=202,
        answer=replays.Replay,
        errors=("stream_not_found", "replay_limit_reached"),
    ),
    "GET /v1/replays": Documented(
        id="listReplays",
        does="Lists bulk replays, newest first.",
        answer=Page[replays.Replay],
        parameters=_PAGE,
    ),
    "GET /v1/replays/{replay_id}": Documented(
        id="getReplay",
        does="Shows how far a bulk replay has come.",
        answer=replays.Replay,
        errors=("replay_not_found",),
    ),
    "POST /v1/replays/{replay_id}/cancel": Documented(
        id="cancelReplay",
        does="Stops a bulk replay; what it has begun anew is delivered.",
        body=requests.Nothing,
        answer=replays.Replay,
        errors=("replay_not_found",),
    ),
    "POST /v1/events/{event_id}/replay": Documented(
        id="replayEvent",
        does="Delivers routes that have ended again; of those named, makes a scheduled retry now.",
        body=requests.ReplayRequest,
        status=202,
        answer=answers.Event,
        errors=("event_not_found", "not_replayable", "payload_expired"),
    ),
}

_WORKFLOWS: Final = _targets(
    "/v1/workflows",
    "workflow",
    "a target of events, which streams name in `default_routes`",
    (answers.Workflow, answers.WorkflowWithSecret),
    (requests.WorkflowCreate, requests.WorkflowPatch),
    "already_exists",
)
_ENDPOINTS: Final = {
    **_targets(
        "/v1/webhook-endpoints",
        "endpoint",
        "a target of outcomes",
        (answers.Endpoint, answers.EndpointWithSecret),
        (requests.EndpointCreate, requests.EndpointPatch),
        "endpoint_limit_reached",
    ),
    "GET /v1/webhook-endpoints/{endpoint_id}/deliveries": Documented(
        id="listDeliveries",
        does="Lists every attempt to tell the endpoint of an outcome, oldest outcome first.",
        answer=Page[answers.Delivery],
        parameters=_PAGE,
        errors=("endpoint_not_found",),
    ),
}

_OPERATORS: Final = {
    "POST /admin/v1/workspaces": Documented(
        id="createWorkspace",
        does="Makes a workspace and its first secret key of each environment.",
        body=requests.WorkspaceCreate,
        status=201,
        answer=answers.NewWorkspace,
    ),
    "GET /admin/v1/workspaces": Documented(
        id="listWorkspaces", does="Lists workspaces.", answer=Page[answers.Workspace], parameters=_PAGE
    ),
    "GET /admin/v1/workspaces/{workspace_id}": Documented(
        id="getWorkspace",
        does="Shows a workspace and the quotas that hold for it.",
        answer=answers.Workspace,
        errors=("workspace_not_found",),
    ),
    "PATCH /admin/v1/workspaces/{workspace_id}": Documented(
        id="updateWorkspace",
        does="Sets quotas and status, in force from the next request.",
        body=requests.WorkspacePatch,
        answer=answers.Workspace,
        errors=("workspace_not_found",),
    ),
    "POST /admin/v1/rebuilds": Documented(
        id="createRebuild",
        does="Has the read model made anew from the log, while Atlas runs.",
        body=requests.Nothing,
        status=202,
        answer=answers.Rebuild,
    ),
    "GET /admin/v1/rebuilds": Documented(
        id="listRebuilds",
        does="Lists rebuilds, newest first.",
        answer=Page[answers.Rebuild],
        parameters=_PAGE,
    ),
    "GET /admin/v1/rebuilds/{rebuild_id}": Documented(
        id="getRebuild",
        does="Shows how far a rebuild is.",
        answer=answers.Rebuild,
        errors=("not_found",),
    ),
    "POST /admin/v1/verify": Documented(
        id="createVerification",
        does="Has the read model compared with one folded from the log, while Atlas runs.",
        body=requests.Nothing,
        status=202,
        answer=answers.Verification,
    ),
    "GET /admin/v1/verify/{verification_id}": Documented(
        id="getVerification",
        does="Shows how far a verification is, and what it found.",
        answer=answers.Verification,
        errors=("not_found",),
    ),
    "GET /healthz": Documented(id="isAlive", does="The process answers.", answer=answers.Alive),
    "GET /readyz": Documented(
        id="isReady",
        does="Whether it can append and is making progress; says what is not.",
        answer=answers.Readiness,
        unready=answers.Readiness,
    ),
    "GET /metrics": Documented(id="getMetrics", does="Metrics for Prometheus.", answer=None),
}

#: By method and path.
OPERATIONS: Final[Mapping[str, Documented]] = {
    **_EVENTS,
    **_STREAMS,
    **_KEYS,
    **_REPLAYS,
    **_WORKFLOWS,
    **_ENDPOINTS,
    **_OPERATORS,
}
