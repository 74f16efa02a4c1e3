"""The ASGI application: every path, what may be done there, and the front before all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from atlas.core.limits import BATCH_BODY_BYTES_MAX, BATCH_ENVELOPE_DEPTH
from atlas.gateway.auth import Access
from atlas.gateway.call import Call, CommonServices, Handler, Reply, Services
from atlas.gateway.front import Front
from atlas.gateway.ingest import Ingest
from atlas.gateway.jobs import Jobs
from atlas.gateway.keys import Keys
from atlas.gateway.operations import Operations, Readiness
from atlas.gateway.resources import Area, Operation, Resource
from atlas.gateway.streams import Streams
from atlas.gateway.targets import ENDPOINTS, WORKFLOWS, Kind, Targets
from atlas.gateway.workspaces import Workspaces
from atlas.status.bulk_replays import BulkReplays
from atlas.status.deliveries import Deliveries
from atlas.status.handlers import EventStatus
from atlas.status.health import TargetHealths
from atlas.status.replays import EventReplays


class SendsEvents(Protocol):
    """The handlers of the write path."""

    async def send(self, call: Call) -> Reply:
        """`POST /v1/events`."""

    async def send_batch(self, call: Call) -> Reply:
        """`POST /v1/events/batch`."""


class ShowsEvents(Protocol):
    """The handlers of the read path."""

    async def list(self, call: Call) -> Reply:
        """`GET /v1/events`."""

    async def retrieve(self, call: Call) -> Reply:
        """`GET /v1/events/{event_id}`."""

    async def payload(self, call: Call) -> Reply:
        """`GET /v1/events/{event_id}/payload`."""

    async def attempts(self, call: Call) -> Reply:
        """`GET /v1/events/{event_id}/attempts`."""


_HOT: Final = ("/v1/events", "/v1/events/batch")
#: Whose the paths under a prefix are, whether there is something at a path or not.
_AREAS: Final = {"/v1/": Area.WORKSPACE, "/admin/": Area.OPERATOR}
#: No token has this digest.
_NOBODYS: Final = ""


def build_app(
    services: Services,
    *,
    operator_token_digest: str,
    readiness: Readiness,
    ingest: SendsEvents | None = None,
    status: ShowsEvents | None = None,
) -> ASGIApp:
    """The application, ready to serve.

    Args:
        services: the ports and folds it works with.
        operator_token_digest: SHA-256 of the operator token, hex.
        readiness: what `/readyz` reports.
        ingest: handlers that take events, other than `Ingest`.
        status: handlers that show events, other than `EventStatus`.
    """
    front = Front(services, operator_token_digest)
    return App(front, api_resources(services, readiness, ingest, status), _AREAS)


def api_resources(
    services: Services,
    readiness: Readiness,
    ingest: SendsEvents | None = None,
    status: ShowsEvents | None = None,
) -> list[Resource]:
    """Every path of the API; schemas/openapi.json tells of each of them (arguments: see `build_app`)."""
    events = EventStatus(services)
    return [
        *_event_resources(ingest or Ingest(services), status or events),
        *_replay_resources(BulkReplays(services)),
        _at("/v1/events/{event_id}/replay", {"POST": Operation(EventReplays(services, events).replay)}),
        *_control_resources(services),
        *_operator_resources(services),
        *_open_resources(services, readiness),
    ]


def build_operations_app(services: CommonServices, readiness: Readiness) -> ASGIApp:
    """What a process without the API serves: `/healthz`, `/readyz` and `/metrics`."""
    front = Front(services, operator_token_digest=_NOBODYS)
    return App(front, _open_resources(services, readiness), areas={})


class App:
    """Finds the resource a path names: the hot ones in a dictionary, the others by Starlette's router."""

    def __init__(self, front: Front, resources: list[Resource], areas: Mapping[str, Area]) -> None:
        self._front = front
        self._hot = {r.template: r for r in resources if r.template in _HOT}
        routes = [Route(r.template, endpoint=_Served(front, r)) for r in resources]
        self._router = Router(routes, redirect_slashes=False, default=_Unmatched(front, areas))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        resource = self._hot.get(scope.get("path", ""))
        if resource is not None and scope["type"] == "http":
            await self._front.serve(resource, scope, receive, send)
        else:
            await self._router(scope, receive, send)


class _Served:
    """A resource as an ASGI application."""

    def __init__(self, front: Front, resource: Resource) -> None:
        self._front, self._resource = front, resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._front.serve(self._resource, scope, receive, send)


class _Unmatched:
    """What answers where there is nothing: 404, but only to those who may ask there at all."""

    def __init__(self, front: Front, areas: Mapping[str, Area]) -> None:
        self._front, self._areas = front, areas
        self._unknown = {area: Resource("unknown", area, {}) for area in Area}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        path: str = scope["path"]
        area = next((area for prefix, area in self._areas.items() if path.startswith(prefix)), Area.OPEN)
        await self._front.serve(self._unknown[area], scope, receive, send)


def _event_resources(ingest: SendsEvents, status: ShowsEvents) -> list[Resource]:
    send = Operation(ingest.send, Access.SEND)
    send_batch = Operation(ingest.send_batch, Access.SEND, BATCH_BODY_BYTES_MAX, BATCH_ENVELOPE_DEPTH)

    def read(handler: Handler) -> Operation:
        return Operation(handler, Access.READ)

    return [
        _at("/v1/events", {"POST": send, "GET": read(status.list)}, preflight=True),
        _at("/v1/events/batch", {"POST": send_batch}, preflight=True),
        _at("/v1/events/{event_id}", {"GET": read(status.retrieve)}),
        _at("/v1/events/{event_id}/payload", {"GET": read(status.payload)}),
        _at("/v1/events/{event_id}/attempts", {"GET": read(status.attempts)}),
    ]


def _replay_resources(replays: BulkReplays) -> list[Resource]:
    return [
        _at("/v1/replays", {"POST": Operation(replays.create), "GET": Operation(replays.list)}),
        _at("/v1/replays/{replay_id}", {"GET": Operation(replays.retrieve)}),
        _at("/v1/replays/{replay_id}/cancel", {"POST": Operation(replays.cancel)}),
    ]


def _control_resources(services: Services) -> list[Resource]:
    keys, streams = Keys(services), Streams(services)
    list_streams = Operation(streams.list, Access.READ)
    get_stream = Operation(streams.retrieve, Access.READ)
    return [
        _at("/v1/event-streams", {"POST": Operation(streams.create), "GET": list_streams}),
        _at(
            "/v1/event-streams/{name}",
            {"GET": get_stream, "PATCH": Operation(streams.patch), "DELETE": Operation(streams.archive)},
        ),
        _at("/v1/api-keys", {"POST": Operation(keys.create), "GET": Operation(keys.list)}),
        _at("/v1/api-keys/{key_id}", {"DELETE": Operation(keys.revoke)}),
        _at("/v1/api-keys/{key_id}/rotate", {"POST": Operation(keys.rotate)}),
        *_target_resources("/v1/workflows", services, WORKFLOWS),
        *_target_resources("/v1/webhook-endpoints", services, ENDPOINTS),
        _at(
            "/v1/webhook-endpoints/{endpoint_id}/deliveries",
            {"GET": Operation(Deliveries(services).list)},
        ),
    ]


def _target_resources(path: str, services: Services, kind: Kind) -> list[Resource]:
    targets, one = Targets(services, kind), f"{path}/{{{kind.parameter}}}"
    return [
        _at(path, {"POST": Operation(targets.create), "GET": Operation(targets.list)}),
        _at(
            one,
            {
                "GET": Operation(targets.retrieve),
                "PATCH": Operation(targets.patch),
                "DELETE": Operation(targets.delete),
            },
        ),
        _at(f"{one}/rotate-secret", {"POST": Operation(targets.rotate_secret)}),
        _at(f"{one}/disable", {"POST": Operation(targets.disable)}),
        _at(f"{one}/reactivate", {"POST": Operation(targets.reactivate)}),
        _at(f"{one}/health", {"GET": Operation(TargetHealths(services, targets).retrieve)}),
    ]


def _operator_resources(services: Services) -> list[Resource]:
    workspaces, jobs = Workspaces(services), Jobs(services)
    rebuilds = {"POST": Operation(jobs.rebuild), "GET": Operation(jobs.rebuilds)}
    every = {"POST": Operation(workspaces.create), "GET": Operation(workspaces.list)}
    one = {"GET": Operation(workspaces.retrieve), "PATCH": Operation(workspaces.patch)}
    return [
        Resource("/admin/v1/workspaces", Area.OPERATOR, every),
        Resource("/admin/v1/workspaces/{workspace_id}", Area.OPERATOR, one),
        Resource("/admin/v1/rebuilds", Area.OPERATOR, rebuilds),
        Resource("/admin/v1/rebuilds/{rebuild_id}", Area.OPERATOR, {"GET": Operation(jobs.retrieve_rebuild)}),
        Resource("/admin/v1/verify", Area.OPERATOR, {"POST": Operation(jobs.verify)}),
        Resource(
            "/admin/v1/verify/{verification_id}",
            Area.OPERATOR,
            {"GET": Operation(jobs.retrieve_verification)},
        ),
    ]


def _open_resources(services: CommonServices, readiness: Readiness) -> list[Resource]:
    operations = Operations(services.metrics, readiness)
    return [
        Resource("/healthz", Area.OPEN, {"GET": Operation(operations.healthz)}),
        Resource("/readyz", Area.OPEN, {"GET": Operation(operations.readyz)}),
        Resource("/metrics", Area.OPEN, {"GET": Operation(operations.metrics)}),
    ]


def _at(template: str, operations: dict[str, Operation], *, preflight: bool = False) -> Resource:
    return Resource(template, Area.WORKSPACE, operations, preflight=preflight)
