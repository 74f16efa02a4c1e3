"""Parameters and headers of the HTTP API, as OpenAPI writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from atlas.core import answers, limits, shapes
from atlas.status.event_filters import METADATA_PREFIX
from scripts.schemas_lib.shaping import Schema, schemas_of


def _of(shape: Any) -> Schema:
    [schema], _ = schemas_of([shape], "#/components/schemas/{name}")
    return schema


def _query(name: str, description: str, schema: Schema, **more: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def _key(description: str, chars_max: int) -> Schema:
    schema = {"type": "string", "pattern": "^[ -~]+$", "minLength": 1, "maxLength": chars_max}
    return {"name": "Idempotency-Key", "in": "header", "description": description, "schema": schema}


_TIME: Final = {"type": "string", "format": "date-time"}
_METADATA_FILTERS: Final = {
    "type": "object",
    "maxProperties": limits.METADATA_KEYS_MAX,
    "propertyNames": {
        "pattern": rf"^{METADATA_PREFIX.removesuffix('.')}\..",
        "maxLength": len(METADATA_PREFIX) + limits.METADATA_KEY_CHARS_MAX,
    },
    "additionalProperties": {"type": "string", "description": "The value wanted."},
}
#: By name. Each may be given once; an unknown one is refused.
PARAMETERS: Final[Mapping[str, Schema]] = {
    "Idempotency-Key": _key(
        "For 24 hours, requests with the same key and the same payload get the same answer and are one "
        "event; with another payload they get 409.",
        limits.IDEMPOTENCY_KEY_CHARS_MAX,
    ),
    "Idempotency-Key of a batch": _key(
        "Key K gives event i the key `K/i`; an event's own `idempotency_key` beats it.",
        limits.BATCH_IDEMPOTENCY_KEY_CHARS_MAX,
    ),
    "limit": _query(
        "limit",
        "Items on the page.",
        {
            "type": "integer",
            "minimum": limits.PAGE_MIN,
            "maximum": limits.PAGE_MAX,
            "default": limits.PAGE_DEFAULT,
        },
    ),
    "cursor": _query(
        "cursor", "`next_cursor` of the page before.", {"type": "string", "minLength": 1, "maxLength": 63}
    ),
    "stream": _query("stream", "Events of this stream, which may be archived.", _of(shapes.StreamName)),
    "type": _query("type", "Events of this type.", _of(shapes.EventType)),
    "status": _query("status", "Events with this status.", _of(answers.EventStatus)),
    "workflow_id": _query("workflow_id", "Events with a route to this workflow.", _of(shapes.WorkflowId)),
    "route_status": _query(
        "route_status",
        "Events with a route of this status; with `workflow_id`, that route.",
        _of(answers.RouteStatus),
    ),
    "actor_id": _query("actor_id", "Events with this `actor.id`.", {"type": "string"}),
    "tenant_id": _query("tenant_id", "Events with this `actor.tenant_id`.", {"type": "string"}),
    "received_after": _query("received_after", "Received at this time or later.", _TIME),
    "received_before": _query("received_before", "Received before this time.", _TIME),
    "idempotency_key": _query(
        "idempotency_key", "Events that were sent with this key.", _of(shapes.IdempotencyKey)
    ),
    "metadata": _query(
        "metadata",
        "`metadata.<key>=<value>`: events whose metadata holds this pair; several may be given.",
        _METADATA_FILTERS,
        style="form",
        explode=True,
    ),
    "event_id": {"name": "event_id", "schema": _of(shapes.EventId)},
    "name": {"name": "name", "schema": _of(shapes.StreamName)},
    "key_id": {"name": "key_id", "schema": _of(shapes.KeyId)},
    "workflow_id in a path": {"name": "workflow_id", "schema": _of(shapes.WorkflowId)},
    "endpoint_id": {"name": "endpoint_id", "schema": _of(shapes.EndpointId)},
    "replay_id": {"name": "replay_id", "schema": _of(shapes.ReplayId)},
    "rebuild_id": {"name": "rebuild_id", "schema": _of(shapes.RebuildId)},
    "verification_id": {"name": "verification_id", "schema": _of(shapes.VerificationId)},
    "workspace_id": {"name": "workspace_id", "schema": _of(shapes.WorkspaceId)},
}


def path_parameter(name: str) -> Schema:
    """A part of a path; one that is not of this form is answered like one that is unknown."""
    known = PARAMETERS.get(f"{name} in a path") or PARAMETERS[name]
    return {"name": known["name"], "in": "path", "required": True, "schema": known["schema"]}


def _header(description: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"description": description, **({"required": True} if required else {}), "schema": schema}


_WHOLE: Final = {"type": "integer", "minimum": 0}
#: By name.
HEADERS: Final[Mapping[str, Schema]] = {
    "X-Request-Id": _header("Names this request; on every answer.", _of(shapes.RequestId), required=True),
    "X-RateLimit-Limit": _header("Size of the bucket; on every answer to a good workspace key.", _WHOLE),
    "X-RateLimit-Remaining": _header(
        "Requests that are left now; on every answer to a good workspace key.", _WHOLE
    ),
    "Retry-After": _header("Whole seconds to wait.", {"type": "integer", "minimum": 1}, required=True),
    "WWW-Authenticate": _header("How to authenticate.", {"const": "Bearer"}, required=True),
    "Allow": _header("The methods of this path.", {"type": "string", "minLength": 1}, required=True),
    "Idempotent-Replayed": _header(
        "There when this answer, or all of a batch's, was given before under the same key.", {"const": "true"}
    ),
    "X-Atlas-Lag-Ms": _header(
        "There when events accepted before may be missing: how far the read model is behind.",
        {"type": "integer", "minimum": 1},
    ),
}
ALWAYS: Final = ("X-Request-Id",)
WITH_A_KEY: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining")
BY_STATUS: Final = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
