"""How the control plane's entities are shown (reference, "Create an event stream"; API notes)."""

from __future__ import annotations

from typing import Any

from atlas.core.control_targets import AnyTarget
from atlas.core.entities import ApiKey, Endpoint, Quota, Stream, Workspace
from atlas.core.facts import ENVIRONMENTS
from atlas.core.quota import effective_quota
from atlas.core.targets import mask_headers
from atlas.core.timestamps import format_ms, format_s


def stream_view(stream: Stream) -> dict[str, Any]:
    """A stream, field for field as in the reference; its time in whole seconds."""
    return {
        "id": stream.id,
        "object": "event_stream",
        "name": stream.name,
        "description": stream.description,
        "retention_days": stream.retention_days,
        "default_routes": stream.default_routes,
        "created_at": format_s(stream.created_at_ms),
        "workspace_id": stream.workspace_id,
    }


def key_view(key: ApiKey, secret: str | None = None) -> dict[str, Any]:
    """A key; with its secret only in the answer to its creation."""
    view = {
        "id": key.id,
        "object": "api_key",
        "kind": key.kind,
        "name": key.name,
        "environment": key.environment,
        "streams": key.streams,
        "prefix": key.prefix,
        "created_at": format_ms(key.created_at_ms),
        "expires_at": _time(key.expires_at_ms),
        "revoked_at": _time(key.revoked_at_ms),
    }
    return view if secret is None else {**view, "secret": secret}


def target_view(target: AnyTarget, secret: str | None = None) -> dict[str, Any]:
    """A workflow or a webhook endpoint, its headers masked; its secret only at creation and rotation."""
    view: dict[str, Any] = {
        "id": target.id,
        "object": "webhook_endpoint" if isinstance(target, Endpoint) else "workflow",
        "url": target.url,
        "description": target.description,
    }
    if isinstance(target, Endpoint):
        view |= {"event_types": target.event_types, "streams": target.streams}
    view |= {
        "timeout_ms": target.timeout_ms,
        "retry_schedule_seconds": target.retry_schedule_seconds,
        "max_in_flight": target.max_in_flight,
        "rate_limit_per_second": target.rate_limit_per_second,
        "headers": mask_headers(target.headers),
        "status": target.status,
        "disabled_reason": target.disabled_reason,
        "disabled_at": _time(target.disabled_at_ms),
        "created_at": format_ms(target.created_at_ms),
    }
    return view if secret is None else {**view, "secret": secret}


def workspace_view(workspace: Workspace, default: Quota) -> dict[str, Any]:
    """A workspace and the quotas that hold for it, its own or the platform's."""
    quotas = {
        environment: _quota(effective_quota(workspace, environment, default)) for environment in ENVIRONMENTS
    }
    return {
        "id": workspace.id,
        "object": "workspace",
        "name": workspace.name,
        "status": workspace.status,
        "quota": quotas,
        "created_at": format_ms(workspace.created_at_ms),
    }


def _quota(quota: Quota) -> dict[str, int]:
    return {"requests_per_minute": quota.requests_per_minute, "burst": quota.burst}


def _time(ms: int | None) -> str | None:
    return None if ms is None else format_ms(ms)
