"""How the control plane's entities are shown (reference, "Create an event stream"; API notes)."""

from __future__ import annotations

from atlas.core import answers
from atlas.core.breaker import Breaker
from atlas.core.entities import ApiKey, Endpoint, Quota, Stream, Target, Workflow, Workspace
from atlas.core.facts import ENVIRONMENTS
from atlas.core.quota import effective_quota
from atlas.core.targets import mask_headers
from atlas.core.timestamps import format_ms, format_s
from atlas.core.views import breaker_view


def stream_view(stream: Stream) -> answers.EventStream:
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


def key_view(key: ApiKey) -> answers.Key:
    """A key, without its secret."""
    return {
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


def new_key_view(key: ApiKey, secret: str) -> answers.NewKey:
    """A key in the answer to its creation, the one place that shows its secret."""
    return {**key_view(key), "secret": secret}


def workflow_view(workflow: Workflow, breaker: Breaker | None) -> answers.Workflow:
    """A workflow, its headers masked."""
    return {
        "id": workflow.id,
        "object": "workflow",
        "ordered": workflow.ordered,
        "filter": workflow.filter,
        **_target_view(workflow, breaker),
    }


def endpoint_view(endpoint: Endpoint, breaker: Breaker | None) -> answers.Endpoint:
    """A webhook endpoint, its headers masked."""
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "event_types": endpoint.event_types,
        "streams": endpoint.streams,
        **_target_view(endpoint, breaker),
    }


def _target_view(target: Target, breaker: Breaker | None) -> answers.Target:
    return {
        "url": target.url,
        "description": target.description,
        "timeout_ms": target.timeout_ms,
        "retry_schedule_seconds": target.retry_schedule_seconds,
        "max_in_flight": target.max_in_flight,
        "rate_limit_per_second": target.rate_limit_per_second,
        "headers": mask_headers(target.headers),
        "status": target.status,
        "disabled_reason": target.disabled_reason,
        "disabled_at": _time(target.disabled_at_ms),
        "breaker": None if breaker is None else breaker_view(breaker),
        "created_at": format_ms(target.created_at_ms),
    }


def workspace_view(workspace: Workspace, default: Quota) -> answers.Workspace:
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


def _quota(quota: Quota) -> answers.QuotaInForce:
    return {"requests_per_minute": quota.requests_per_minute, "burst": quota.burst}


def _time(ms: int | None) -> str | None:
    return None if ms is None else format_ms(ms)
