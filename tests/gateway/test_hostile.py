"""Whatever is sent to any path, it is answered in the right form, and never with a 5xx (guarantee G10)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asgi_client import AsgiClient
from tests.gateway.harness import OPERATOR_TOKEN, gateway
from tests.virtual_time import VirtualClock, run_virtual

IDS = ("wf_a", "orders-prod", "key_01HX9YQK2T7V3M4ZB6F5N0WJ1A", "..", "%00", "%ff", "%2e%2e", "a" * 3_000)
TEMPLATES = (
    "/v1/event-streams",
    "/v1/event-streams/{}",
    "/v1/api-keys",
    "/v1/api-keys/{}",
    "/v1/api-keys/{}/rotate",
    "/v1/workflows",
    "/v1/workflows/{}",
    "/v1/workflows/{}/rotate-secret",
    "/v1/workflows/{}/disable",
    "/v1/workflows/{}/reactivate",
    "/admin/v1/workspaces",
    "/admin/v1/workspaces/{}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/{}",
)
FIELDS = (
    "id",
    "name",
    "kind",
    "streams",
    "description",
    "retention_days",
    "default_routes",
    "url",
    "timeout_ms",
    "retry_schedule_seconds",
    "max_in_flight",
    "rate_limit_per_second",
    "headers",
    "overlap_seconds",
    "quota",
    "status",
    "live",
    "requests_per_minute",
)
HEADERS = (
    "content-type",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "idempotency-key",
    "authorization",
    "origin",
    "expect",
)
LITERALS = (
    "secret",
    "publishable",
    "enabled",
    "suspended",
    "https://a.example/",
    "http://[::1]:99999/",
    "https://\u2603.example",
    "wf_a",
    "orders-prod",
    2**63,
    -(2**63),
    1e308,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(LITERALS)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
bodies = (
    st.none()
    | objects.map(orjson.dumps)
    | values.map(orjson.dumps)
    | st.binary(max_size=60)
    | st.tuples(objects.map(orjson.dumps), st.integers(0, 200)).map(lambda cut: cut[0][: cut[1]])
)
targets = st.tuples(
    st.sampled_from(TEMPLATES),
    st.sampled_from(IDS),
    st.just("") | st.sampled_from(["?limit=1", "?cursor=wf_a", "?limit=x", "?%ff", "?a=1&a=2", "?limit=5&x"]),
).map(lambda parts: parts[0].format(parts[1]) + parts[2])
methods = st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "BREW"])
header_values = st.sampled_from(["", "0", "application/json"]) | st.binary(max_size=12)
requests = st.tuples(
    methods,
    targets,
    bodies,
    st.lists(st.tuples(st.sampled_from(HEADERS), header_values), max_size=1),
    st.sampled_from(["live", "live", "operator", "scoped", "nobody"]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=25))
def test_nothing_that_is_sent_makes_a_5xx(sent: list[Any]) -> None:
    async def scenario(clock: VirtualClock) -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with gateway(clock, Path(directory)) as g:
                await g.workflow("wf_a")
                await g.stream("orders-prod", default_routes=["wf_a"])
                _, scoped = await g.key(streams=["orders-prod"])
                clients = {"live": g.live, "scoped": scoped, "nobody": g.anonymous}
                clients["operator"] = AsgiClient(g.app, OPERATOR_TOKEN)
                for method, target, body, headers, who in sent:
                    client = clients["operator" if target.startswith("/admin") and who == "live" else who]
                    answer = await client.request(method, target, body=body, headers=headers)
                    assert answer.status < 500, (method, target, body, headers, answer.body)

    run_virtual(scenario)
