"""openapi.json: the HTTP API as its routes and types have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from atlas.core import answers, event_requests, requests
from atlas.core.errors import HTTP_STATUS_BY_CODE
from atlas.gateway.app import api_resources
from atlas.gateway.auth import Access
from atlas.gateway.call import Services
from atlas.gateway.resources import Area, Operation, Resource
from atlas.status.event_filters import METADATA_PREFIX
from atlas.status.event_filters import PARAMETERS as EVENT_PARAMETERS
from scripts.schemas_lib.operations import OPERATIONS, Documented
from scripts.schemas_lib.parameters import ALWAYS, BY_STATUS, HEADERS, PARAMETERS, WITH_A_KEY, path_parameter
from scripts.schemas_lib.shaping import Schema, schemas_of

_REF: Final = "#/components/schemas/{name}"
_ABOUT: Final = """\
The HTTP API of Atlas. Fields may be added to any object of an answer: pass over those you do not know. An
unknown field of a request, or an unknown query parameter, is refused.

GET answers HEAD too. A method that a path does not have is 405 with `Allow`, a path that is not there 404
`not_found`. Every error has the form of `ErrorAnswer`; its `code` is safe to switch on:

| code | HTTP status |
|---|---|
"""
_ACCESS: Final = {
    Access.SEND: "For every key.",
    Access.READ: "For secret keys; one that is scoped to streams sees only those.",
    Access.FULL: "For secret keys that are not scoped to streams.",
}
_SECURITY: Final = {
    Area.WORKSPACE: [{"workspaceKey": []}],
    Area.OPERATOR: [{"operatorToken": []}],
    Area.OPEN: [],
}
#: What every path of an area can answer.
_COMMON: Final = {
    Area.WORKSPACE: (
        "invalid_request",
        "authentication_failed",
        "permission_denied",
        "rate_limit_exceeded",
        "service_unavailable",
    ),
    Area.OPERATOR: ("invalid_request", "authentication_failed", "service_unavailable"),
    Area.OPEN: ("invalid_request",),
}
_WITH_A_BODY: Final = ("request_timeout", "payload_too_large", "unsupported_media_type")
_DETAILS: Final = {
    "invalid_request": answers.InvalidDetails,
    "rate_limit_exceeded": answers.RetryDetails,
    "service_unavailable": answers.RetryDetails,
}
_TEXT: Final = {"text/plain": {"schema": {"type": "string", "description": "Prometheus text format."}}}


class Undocumented(Exception):
    """A route without an entry in `operations`, or an entry without a route."""


class _Nobody:
    """Stands where handlers are given what they work with, when only the routes are asked for."""

    def __getattr__(self, _: str) -> _Nobody:
        return self

    def __call__(self, *_: object) -> _Nobody:
        return self


def openapi() -> Schema:
    """The document.

    Raises:
        Undocumented: see there.
    """
    resources = api_resources(cast(Services, _Nobody()), cast(Any, _Nobody()))
    _check_complete(resources)
    rows = "".join(f"| `{code}` | {status} |\n" for code, status in HTTP_STATUS_BY_CODE.items())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Atlas",
            "version": "1",
            "description": _ABOUT + rows,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://127.0.0.1:8080", "description": "atlas dev"}],
        "paths": {resource.template: _path(resource) for resource in resources},
        "components": {
            "securitySchemes": _security_schemes(),
            "headers": dict(HEADERS),
            "responses": {
                **{code: _refusal(code) for code in HTTP_STATUS_BY_CODE},
                "refusal": _any_refusal(),
            },
            "schemas": _schemas(),
        },
    }


def _check_complete(resources: Sequence[Resource]) -> None:
    routes = {f"{method} {resource.template}" for resource in resources for method in resource.operations}
    if differs := routes ^ OPERATIONS.keys():
        raise Undocumented(f"scripts/schemas_lib/operations.py and the routes differ in: {sorted(differs)}")
    filters = {*OPERATIONS["GET /v1/events"].parameters} - {METADATA_PREFIX.removesuffix(".")}
    if differs := filters ^ EVENT_PARAMETERS:
        raise Undocumented(f"GET /v1/events is not documented as it is in: {sorted(differs)}")


def _path(resource: Resource) -> Schema:
    names = re.findall(r"{(\w+)}", resource.template)
    path: Schema = {"parameters": [path_parameter(name) for name in names]} if names else {}
    for method, operation in resource.operations.items():
        path[method.lower()] = _operation(resource, operation, OPERATIONS[f"{method} {resource.template}"])
    if resource.preflight:
        path["options"] = _preflight(resource)
    return path


def _operation(resource: Resource, operation: Operation, documented: Documented) -> Schema:
    described: Schema = {
        "operationId": documented.id,
        "tags": [_tag(resource)],
        "summary": documented.does,
        "security": _SECURITY[resource.area],
    }
    if resource.area is Area.WORKSPACE:
        described["description"] = _ACCESS[operation.access]
    if documented.parameters:
        described["parameters"] = [PARAMETERS[name] for name in documented.parameters]
    if documented.body is not None:
        described["requestBody"] = _body(documented.body, operation.body_bytes_max)
    return {**described, "responses": _responses(resource.area, documented)}


def _body(body: Any, bytes_max: int) -> Schema:
    required = any(field.required for field in msgspec.structs.fields(body))
    said = "" if required else " It may be left out."
    return {
        "required": required,
        "description": f"At most {bytes_max:,} bytes.{said}",
        "content": _json(_ref(body)),
    }


def _responses(area: Area, documented: Documented) -> Schema:
    headers = [*ALWAYS, *(WITH_A_KEY if area is Area.WORKSPACE else ()), *documented.headers]
    content = _TEXT if documented.answer is None else _json(_ref(documented.answer))
    found: dict[str, Schema] = {
        str(documented.status): {
            "description": documented.does,
            "headers": _headers(headers),
            "content": content,
        }
    }
    if documented.unready is not None:
        content = _json(_ref(documented.unready))
        found["503"] = {"description": "Not ready.", "headers": _headers(ALWAYS), "content": content}
    codes = [*_COMMON[area], *documented.errors, *(_WITH_A_BODY if documented.body is not None else ())]
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(HTTP_STATUS_BY_CODE[code]), []).append(code)
    for status, alike in sorted(by_status.items()):
        found[status] = _refusal(*alike) if len(alike) > 1 else _response_ref(alike[0])
    return {**dict(sorted(found.items())), "default": _response_ref("refusal")}


def _preflight(resource: Resource) -> Schema:
    asked_for = OPERATIONS[f"POST {resource.template}"].id
    return {
        "operationId": f"preflight{asked_for[0].upper()}{asked_for[1:]}",
        "tags": [_tag(resource)],
        "summary": "What a browser asks before it sends events with a publishable key.",
        "security": [],
        "responses": {"204": {"description": "Any origin may POST.", "headers": _headers(ALWAYS)}},
    }


def _refusal(*codes: str) -> Schema:
    """The answer with one of these codes, all of the same status."""
    status = HTTP_STATUS_BY_CODE[codes[0]]
    error: Schema = {"code": {"enum": list(codes)}}
    if codes[0] in _DETAILS:
        error["details"] = _ref(_DETAILS[codes[0]])
    narrowed = {"properties": {"error": {"properties": error}}}
    headers = [*ALWAYS, *(() if status == 401 else WITH_A_KEY), *BY_STATUS.get(status, ())]
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "headers": _headers(headers),
        "content": _json({"allOf": [_ref(answers.ErrorAnswer), narrowed]}),
    }


def _any_refusal() -> Schema:
    return {
        "description": "Any other error.",
        "headers": _headers(ALWAYS),
        "content": _json(_ref(answers.ErrorAnswer)),
    }


def _schemas() -> dict[str, Schema]:
    types = [answers.ErrorAnswer, *_DETAILS.values(), event_requests.BatchEventIn]
    for one in OPERATIONS.values():
        types += [each for each in (one.body, one.answer, one.unready) if each is not None]
    _, schemas = schemas_of(types, _REF)
    for name, schema in schemas.items():
        made_from = getattr(requests, name, None)
        if isinstance(made_from, type) and issubclass(made_from, msgspec.Struct):
            _accept_null(schema)
    schemas["BatchIn"]["properties"]["events"]["items"] = _ref(event_requests.BatchEventIn)
    return schemas


def _accept_null(schema: Schema) -> None:
    """An optional input that is null is absent."""
    for name, field in schema["properties"].items():
        nullable = {"type": "null"} in field.get("anyOf", ())
        if name not in schema.get("required", ()) and not nullable:
            about = {key: field.pop(key) for key in ("default", "description") if key in field}
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}


def _security_schemes() -> Schema:
    return {
        "workspaceKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of one workspace and environment: `atlas_{live,test}_{sk,pk}_...`.",
        },
        "operatorToken": {
            "type": "http",
            "scheme": "bearer",
            "description": "The operator's token: `atlas_op_...`.",
        },
    }


def _tag(resource: Resource) -> str:
    return "operations" if resource.area is Area.OPEN else resource.template.partition("v1/")[2].split("/")[0]


def _ref(made_from: Any) -> Schema:
    [schema], _ = schemas_of([made_from], _REF)
    return schema


def _response_ref(code: str) -> Schema:
    return {"$ref": f"#/components/responses/{code}"}


def _headers(names: Sequence[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
