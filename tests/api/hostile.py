"""What a fuzz sends: the paths, a good body for each, and what to put into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from tests.api.atlas_process import EVENT

STREAM: Final = "fuzz-stream"
WORKFLOW: Final = "wf_fuzz"
#: Well-formed ids; the process under test has a key and a workspace whose ids take these places.
ID_BY_PARAMETER: Final = {
    "event_id": "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "name": STREAM,
    "workflow_id": WORKFLOW,
    "key_id": "key_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "workspace_id": "ws_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "endpoint_id": "we_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "rebuild_id": "rbd_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "verification_id": "vfy_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "replay_id": "rpl_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
}

#: Every path and what may be done there; a test holds it to what the application routes.
ROUTES: Final[dict[str, tuple[str, ...]]] = {
    "/v1/events": ("GET", "POST"),
    "/v1/events/batch": ("POST",),
    "/v1/events/{event_id}": ("GET",),
    "/v1/events/{event_id}/payload": ("GET",),
    "/v1/events/{event_id}/attempts": ("GET",),
    "/v1/events/{event_id}/replay": ("POST",),
    "/v1/replays": ("GET", "POST"),
    "/v1/replays/{replay_id}": ("GET",),
    "/v1/replays/{replay_id}/cancel": ("POST",),
    "/v1/event-streams": ("GET", "POST"),
    "/v1/event-streams/{name}": ("DELETE", "GET", "PATCH"),
    "/v1/api-keys": ("GET", "POST"),
    "/v1/api-keys/{key_id}": ("DELETE",),
    "/v1/api-keys/{key_id}/rotate": ("POST",),
    "/v1/workflows": ("GET", "POST"),
    "/v1/workflows/{workflow_id}": ("DELETE", "GET", "PATCH"),
    "/v1/workflows/{workflow_id}/rotate-secret": ("POST",),
    "/v1/workflows/{workflow_id}/disable": ("POST",),
    "/v1/workflows/{workflow_id}/reactivate": ("POST",),
    "/v1/workflows/{workflow_id}/health": ("GET",),
    "/v1/webhook-endpoints": ("GET", "POST"),
    "/v1/webhook-endpoints/{endpoint_id}": ("DELETE", "GET", "PATCH"),
    "/v1/webhook-endpoints/{endpoint_id}/rotate-secret": ("POST",),
    "/v1/webhook-endpoints/{endpoint_id}/disable": ("POST",),
    "/v1/webhook-endpoints/{endpoint_id}/reactivate": ("POST",),
    "/v1/webhook-endpoints/{endpoint_id}/health": ("GET",),
    "/v1/webhook-endpoints/{endpoint_id}/deliveries": ("GET",),
    "/admin/v1/rebuilds": ("GET", "POST"),
    "/admin/v1/rebuilds/{rebuild_id}": ("GET",),
    "/admin/v1/verify": ("POST",),
    "/admin/v1/verify/{verification_id}": ("GET",),
    "/admin/v1/workspaces": ("GET", "POST"),
    "/admin/v1/workspaces/{workspace_id}": ("GET", "PATCH"),
    "/healthz": ("GET",),
    "/readyz": ("GET",),
    "/metrics": ("GET",),
}
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")

_FULL_EVENT: Final[dict[str, Any]] = {
    **EVENT,
    "actor": {
        "type": "user",
        "id": "usr_7T3Q9HBN2P",
        "tenant_id": "tnt_acme_eu",
        "ip": "203.0.113.42",
        "user_agent": "AcmeCheckout/3.4 (iOS 18.2)",
    },
    "metadata": {"region": "eu-west-1"},
    "ordering_key": "o",
}
_TARGET: Final[dict[str, Any]] = {
    "url": "https://hooks.acme.example/atlas",
    "description": "d",
    "timeout_ms": 5_000,
    "retry_schedule_seconds": [1, 2],
    "max_in_flight": 2,
    "rate_limit_per_second": 2,
    "headers": {"X-A": "b"},
}
_WORKFLOW: Final[dict[str, Any]] = {
    **_TARGET,
    "ordered": True,
    "filter": {
        "data.a": [{"numeric": [">", 1, "<", 5]}, {"anything_but": ["x"]}],
        "type": [{"prefix": "a"}, 1],
    },
}
_ENDPOINT: Final[dict[str, Any]] = {**_TARGET, "event_types": ["event.failed"], "streams": [STREAM]}
#: A body that is taken, for everything that takes one.
BODIES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("POST", "/v1/events"): _FULL_EVENT,
    ("POST", "/v1/events/batch"): {"events": [{**_FULL_EVENT, "idempotency_key": "k"}]},
    ("POST", "/v1/event-streams"): {
        "name": STREAM,
        "description": "d",
        "retention_days": 30,
        "default_routes": [WORKFLOW],
    },
    ("PATCH", "/v1/event-streams/{name}"): {
        "description": "d",
        "retention_days": 30,
        "default_routes": [WORKFLOW],
    },
    ("POST", "/v1/api-keys"): {"kind": "secret", "name": "n", "streams": [STREAM]},
    ("POST", "/v1/api-keys/{key_id}/rotate"): {"overlap_seconds": 604_800},
    ("POST", "/v1/workflows"): {"id": WORKFLOW, **_WORKFLOW},
    ("PATCH", "/v1/workflows/{workflow_id}"): _WORKFLOW,
    ("POST", "/v1/workflows/{workflow_id}/rotate-secret"): {"overlap_seconds": 0},
    ("POST", "/v1/workflows/{workflow_id}/disable"): {},
    ("POST", "/v1/workflows/{workflow_id}/reactivate"): {},
    ("POST", "/v1/events/{event_id}/replay"): {"workflow_ids": [WORKFLOW]},
    ("POST", "/v1/replays"): {
        "stream": STREAM,
        "type": "order.fulfilled",
        "status": "failed",
        "workflow_ids": [WORKFLOW],
        "received_after": "2026-01-01T00:00:00Z",
        "received_before": "2026-01-02T00:00:00Z",
        "rate_per_second": 10_000,
    },
    ("POST", "/v1/replays/{replay_id}/cancel"): {},
    ("POST", "/v1/webhook-endpoints"): _ENDPOINT,
    ("PATCH", "/v1/webhook-endpoints/{endpoint_id}"): _ENDPOINT,
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/rotate-secret"): {"overlap_seconds": 0},
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/disable"): {},
    ("POST", "/v1/webhook-endpoints/{endpoint_id}/reactivate"): {},
    ("POST", "/admin/v1/rebuilds"): {},
    ("POST", "/admin/v1/verify"): {},
    ("POST", "/admin/v1/workspaces"): {"name": "n"},
    ("PATCH", "/admin/v1/workspaces/{workspace_id}"): {
        "status": "enabled",
        "quota": {
            "live": {"requests_per_minute": 60_000_000, "burst": 1_000_000},
            "test": {"requests_per_minute": 60_000_000, "burst": 1_000_000},
        },
    },
}

#: Put in place of every value of every body.
VALUES: Final[list[Any]] = [
    None, True, False, 0, -1, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, -0.0, 1e308, 5e-324,
    "", " ", "\0", "a\0b", "\x1f", "\x7f", "\n", "\u2028", "\ufeff", "\ufffe", "e\u0301", "\U0001f600",
    "a" * 64, "a" * 513, "a" * 10_000, "a" * 300_000, "../../etc/passwd", "%00", "'; DROP TABLE batch;--",
    "${jndi:ldap://a}", "http://[::1", "http://a:99999/", "http://\u2603/", "//a", "javascript:alert(1)",
    "http://" + "a" * 3_000, "9999-12-31T23:59:59.999999999-23:59", "0000-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z", "::ffff:1.2.3.4%eth0", "1.2.3.4.5", "secret", "enabled", "suspended",
    [], [[]], [None], [0], [""], ["a"] * 1_001, [{}] * 21, ["wf_fuzz", "wf_fuzz"], [1] * 21,
    {}, {"": None}, {"": ""}, {"a": {"b": [1]}}, {"\0": "\0"}, {"a" * 5_000: "b"}, {"$ref": "#"},
    {f"k{i}": "v" for i in range(21)}, {"Host": "a"}, {"X-A": "a\r\nX-B: c"}, {"x": 1},
]  # fmt: skip

#: Put in place of a value as they stand: what no JSON library would write.
TOKENS: Final = [
    b"NaN", b"Infinity", b"-Infinity", b"nan", b"1e400", b"-1e400", b"1e-400", b"18446744073709551616",
    b"-9223372036854775809", b"1" * 5_000, b"-" + b"1" * 5_000, b"1." + b"1" * 5_000, b"0x10", b"01",
    b"+1", b".5", b"1.", b"1e", b"--1", b"tRuE", b"undefined", b"", b",", b":", b"}", b"]", b"'a'",
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud800\\u0041"', b'"\\u00"', b'"\\x41"', b'"\\', b'"', b'"\x00"',
    b'"\x1f"', b'"\n"', b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xef\xbb\xbf"',
    b"/* a */ 1", b"// a", b"#", b"1 1", b"[1,]", b'{"a":1,}', b'{"a"}', b"{1:2}", b'{"a":1,"a":1}',
    b'{"a":1,"\\u0061":1}', b"[" * 100_000, b'{"a":' * 100_000, b"[" * 63 + b"]" * 63, b"[" * 65 + b"]" * 65,
    b'"' + b"\\" * 9_999 + b'"', b'"' + b"\\u0022" * 10_000 + b'"', b"\xef\xbb\xbf1", b"1\x00", b"\x0b1",
]  # fmt: skip

#: Whole bodies.
WHOLE: Final = [
    b"", b" ", b"\0", b"null", b"true", b"0", b'""', b"[]", b"[{}]", b"{}{}", b"{} x", b"\xef\xbb\xbf{}",
    b"{}".decode().encode("utf-16"), b"{}".decode().encode("utf-32"), b"\xff\xfe", b"a=b&c=d", b"<a/>",
    b"\x1f\x8b\x08\x00", b'{"__proto__":{}}', b'{"":0}', b'{"a\\u0000":0}', b"{" * 1_000,
    b'{"' + b"a" * 1_000_000,
    b'{"a":"' + b"a" * 1_000_000 + b'"}', b'{"' + b"\\u0000" * 100_000 + b'":0}',
    b"{" + b",".join(b'"%d":0' % i for i in range(50_000)) + b"}",
]  # fmt: skip

_PLACEHOLDER: Final = b'"@placeholder@"'


def target(template: str, ids: dict[str, str]) -> str:
    """A path with these ids in it."""
    return template.format(**{**ID_BY_PARAMETER, **ids})


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a body."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def with_token(body: Any, place: tuple[Any, ...], token: bytes) -> bytes:
    """The body as JSON with this text in that place."""
    return orjson.dumps(_replaced(body, place)).replace(_PLACEHOLDER, token, 1)


def _replaced(body: Any, place: tuple[Any, ...]) -> Any:
    if not place:
        return "@placeholder@"
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[place[0]] = _replaced(copy[place[0]], place[1:])
    return copy
