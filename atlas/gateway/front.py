"""The front: what is true of every request before and after its handler (API notes, "Every request").

In this order: a request id; headers that could be read in two ways (400); a browser's preflight; the key
(401, 503) and its workspace (403); the quota (429); the path and method (404, 405); what the key may do
(403); and then the handler, which reads the body (408, 413, 415, 400). Whatever goes wrong is answered in
the reference's form. Only a bug is a 500.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from atlas.core.entities import ENABLED
from atlas.core.errors import (
    ApiError,
    LogUnavailable,
    StoreUnavailable,
    TopicRefused,
    Unavailable,
    UnknownTopic,
)
from atlas.core.limits import BODY_DEADLINE_S
from atlas.core.tokens import looks_publishable
from atlas.gateway.auth import Gate, bearer, permits
from atlas.gateway.body import ClientGone
from atlas.gateway.call import CommonServices, Reply
from atlas.gateway.cors import CORS_HEADERS, PREFLIGHT
from atlas.gateway.deadlines import Deadlines
from atlas.gateway.http_call import HttpCall
from atlas.gateway.quotas import Quotas
from atlas.gateway.replies import error_reply, response_headers
from atlas.gateway.resources import Area, Operation, Resource
from atlas.runtime.telemetry import traceback_of

_log = structlog.get_logger()

#: Status label of requests whose client left before the answer.
_GONE: Final = "client_gone"


class Front:
    """One per process; `serve` is called with the resource that a request's path names.

    Args:
        services: of the process.
        operator_token_digest: SHA-256 of the operator token, hex.
    """

    def __init__(self, services: CommonServices, operator_token_digest: str) -> None:
        self._new_id = services.ids.new
        self._requests = services.metrics.requests
        self._gate = Gate(services.registry, services.clock, operator_token_digest)
        self._quotas = Quotas(services.clock, services.quota_default)
        self._deadlines = Deadlines(BODY_DEADLINE_S)

    async def serve(self, resource: Resource, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        call = HttpCall(scope, receive, self._new_id("req_"), self._deadlines)
        try:
            reply = await self._reply(resource, call)
            if call.body.is_pending:
                await call.body.drain()
            await _send(call, reply, send)
        except (ClientGone, OSError):
            resource.count(self._requests, scope["method"], _GONE)
        else:
            resource.count(self._requests, scope["method"], reply.status)

    async def _reply(self, resource: Resource, call: HttpCall) -> Reply:
        try:
            return await self._answer(resource, call)
        except ApiError as refusal:
            return error_reply(refusal, call.request_id)
        except (LogUnavailable, UnknownTopic, TopicRefused):
            # A topic that is not there yet: its stream was decided on a moment ago. Or somebody made it anew.
            return error_reply(Unavailable("The log cannot be used now."), call.request_id)
        except StoreUnavailable:
            return error_reply(Unavailable("The read model cannot answer now."), call.request_id)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort that gives even a bug the right form
            _log.error(
                "request_failed",
                request_id=call.request_id,
                route=resource.template,
                method=call.method,
                exception=traceback_of(error),
            )
            return error_reply(ApiError("internal_error", "This is a bug in Atlas."), call.request_id)

    async def _answer(self, resource: Resource, call: HttpCall) -> Reply:
        call.check_headers()
        if resource.area is Area.WORKSPACE:
            if resource.preflight and call.method == "OPTIONS":
                return PREFLIGHT
            await self._admit(call)
        elif resource.area is Area.OPERATOR:
            self._gate.operator(bearer(call.headers.get(b"authorization")))
        operation = resource.operations.get(call.method)
        if operation is None:
            raise _no_operation(resource)
        if resource.area is Area.WORKSPACE:
            _refuse_unless_permitted(call, operation)
        call.body_bytes_max = operation.body_bytes_max
        call.envelope_depth = operation.envelope_depth
        return await operation.handler(call)

    async def _admit(self, call: HttpCall) -> None:
        """Let a workspace's key in: it is good, its workspace is not suspended, its quota not used up."""
        token = bearer(call.headers.get(b"authorization"))
        if looks_publishable(token):
            call.extra += CORS_HEADERS
        caller = await self._gate.caller(token)
        if caller.workspace.status != ENABLED:
            self._quotas.peek(caller, call.extra)
            raise ApiError("permission_denied", "The workspace is suspended.")
        self._quotas.take(caller, call.extra)
        call.principal = caller


def _refuse_unless_permitted(call: HttpCall, operation: Operation) -> None:
    key = call.principal.key
    if not permits(key, operation.access):
        what = (
            "A publishable key only sends events."
            if key.publishable
            else ("A key scoped to streams only sends and reads their events.")
        )
        raise ApiError("permission_denied", what)


def _no_operation(resource: Resource) -> ApiError:
    if not resource.operations:
        return ApiError("not_found", "There is nothing at this path.")
    allow = resource.allow
    return ApiError("method_not_allowed", f"This path allows {allow}.", headers={"allow": allow})


async def _send(call: HttpCall, reply: Reply, send: Send) -> None:
    headers = response_headers(call.request_id, reply, call.extra)
    if (call.body.is_pending or call.is_ambiguous) and call.scope["http_version"].startswith("1"):
        # The rest of the body would be taken for the next request. HTTP/2 has no such header, nor need.
        headers.append((b"connection", b"close"))
    body = b"" if call.scope["method"] == "HEAD" else reply.body
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
