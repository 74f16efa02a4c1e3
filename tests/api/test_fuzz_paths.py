"""Hostile methods, paths, queries and headers for every path, and all of it at random."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.fuzzed import Fuzzed
from tests.api.hostile import BODIES, METHODS, ROUTES, VALUES, WHOLE, places, target

SEGMENTS: Final = (
    "", "%00", "%", "%2", "%zz", "%ff", "%c0%ae", "%2e%2e", "..", ".", "%2F", "%5c", "%0d%0aX:%20y", "%25%30",
    "%E2%80%AE", "%F0%9F%98%80", "a" * 4_000, "evt_" + "0" * 26, "evt_8" + "Z" * 25, "wf_%00", "*", "~",
    ";a=b", "%3F", "%23", "null", "-1", "{event_id}", "$(id)",
)  # fmt: skip
SUFFIXES: Final = ("/", "//", "/..", "/%2e%2e/", ";", "%00", ".json", "%20")
QUERIES: Final = (
    "limit=", "limit=0", "limit=00", "limit=101", "limit=1e1", "limit=%31%30%31", "limit=-1", "limit=+1",
    "limit=%C2%B2", "limit=%D9%A1", "limit=99999999999999999999", "cursor=", "cursor=evt_", "cursor=%00",
    "cursor=" + "a" * 5_000, "x=1", "=", "&", "%00=1", "%ff=1", "limit=1&limit=1", "limit[]=1",
    "limit=1;cursor=2", "?", "/", "%", "%zz", "a" * 20_000, "&".join(f"x{i}={i}" for i in range(2_000)),
)  # fmt: skip
EVENT_QUERIES: Final = (
    "status=", "status=lost", "route_status=x", "received_after=x", "received_before=9999-12-31T23:59:59Z",
    "received_after=0000-01-01T00:00:00Z", "received_after=2026-05-18T14:22:11%2B24:00", "type=%00",
    "type=" + "a" * 5_000, "stream=%00", "stream=..", "workflow_id=%F0%9F%98%80", "metadata.=x",
    "metadata." + "a" * 64 + "=x", "metadata." + "a" * 65 + "=x", "metadata.a=%00", "metadata=x",
    "&".join(f"metadata.k{i}=v" for i in range(20)), "&".join(f"metadata.k{i}=v" for i in range(21)),
    "idempotency_key=%E9", "actor_id='%20OR%201=1--", "tenant_id=%25", "status=delivered&status=failed",
    "received_after=9999-12-31T23:59:59.999999999Z&received_before=1970-01-01T00:00:00Z",
)  # fmt: skip
HEADER_NAMES: Final = (
    "Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key", "Host", "Origin", "Cookie",
    "Expect", "X-Request-Id", "X-Forwarded-For", "X-HTTP-Method-Override", "Accept", "Accept-Encoding",
    "Range", "TE", "If-Match", "Forwarded", "Traceparent", "Connection", "Keep-Alive", "Trailer",
)  # fmt: skip
HEADER_VALUES: Final = (
    "", " ", "\t", "\xff", "\xe9", "a" * 300, "a" * 5_000, "null", "0", "-1", "*", ",", ";", "=", '"', "\\",
    "application/json", "application/json; charset=utf-16", "gzip", "identity", "close", "Bearer",
    "bytes=0-1", "${jndi:ldap://a}", "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
)  # fmt: skip
#: What other tests go on with.
LASTING: Final = (("DELETE", "/v1/event-streams/{name}"), ("DELETE", "/v1/workflows/{workflow_id}"))


def test_every_method_on_every_path_as_everybody(fuzzed: Fuzzed) -> None:
    for template, methods in ROUTES.items():
        for method in METHODS:
            for who in ("nobody", "publishable", "scoped"):
                answer = fuzzed.send(method, target(template, {}), who=who)
                if method not in (*methods, "HEAD", "OPTIONS"):
                    assert answer.status in (401, 403, 405), (method, template, who)


def test_every_path_with_odd_segments(fuzzed: Fuzzed) -> None:
    for template, methods in ROUTES.items():
        for segment in fuzzed.some(SEGMENTS) if "{" in template else ():
            where = template[: template.index("{")] + segment + template[template.index("}") + 1 :]
            for method in methods:
                body = BODIES.get((method, template))
                sent = None if body is None else orjson.dumps(body)
                assert fuzzed.send(method, where, body=sent).status in (400, 404, 405), (method, where)
        for suffix in SUFFIXES:
            answer = fuzzed.send("GET", target(template, {}) + suffix)
            assert answer.status in (404, 405), (template, suffix)


def test_every_path_with_odd_queries(fuzzed: Fuzzed) -> None:
    for template, methods in ROUTES.items():
        for query in fuzzed.some((*QUERIES, *EVENT_QUERIES)) if "GET" in methods else ():
            where = f"{target(template, fuzzed.ids)}?{query}"
            assert fuzzed.send("GET", where).status in (200, 400, 404), where


@pytest.mark.parametrize("name", HEADER_NAMES)
def test_odd_headers_once_and_twice(fuzzed: Fuzzed, name: str) -> None:
    body = orjson.dumps(BODIES["POST", "/v1/events"])
    for value in fuzzed.some(HEADER_VALUES):
        fuzzed.send("POST", "/v1/events", body=body, headers=[(name, value)])
        fuzzed.send("POST", "/v1/events", body=body, headers=[(name, value), (name.upper(), value)])
        fuzzed.send("GET", "/v1/events", headers=[(name, value)])


# --- at random

_names = sorted({key for body in BODIES.values() for place in places(body) for key in map(str, place)})
texts = st.text(max_size=12) | st.sampled_from([v for v in VALUES if isinstance(v, str) and len(v) < 100])
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts
fields = st.sampled_from(_names)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(fields | texts, inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(fields, values, max_size=6).map(orjson.dumps)
bodies = (
    st.none()
    | objects
    | st.sampled_from(
        [*(body for body in WHOLE if len(body) < 100), *(orjson.dumps(body) for body in BODIES.values())]
    )
    | st.binary(max_size=60)
    | st.tuples(objects, st.integers(0, 120)).map(lambda cut: cut[0][: cut[1]])
    | st.lists(st.binary(min_size=1, max_size=20), max_size=5)
)
rests = st.sampled_from(
    ["", "?limit=1", "?limit=x", "?cursor=evt_" + "0" * 26, "?%ff", "?a=1&a=2", "/", "?&&"]
)
#: The first three change how the connection itself goes on; they have tests of their own.
header_names = st.sampled_from(sorted({*HEADER_NAMES} - {"Connection", "Host", "Expect"}))
header_values = st.sampled_from([value for value in HEADER_VALUES if len(value) < 500]) | st.text(
    st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=9
)
requests = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(sorted(ROUTES)),
    rests,
    bodies,
    st.lists(st.tuples(header_names, header_values), max_size=2),
    st.sampled_from(["live", "live", "live", "operator", "scoped", "publishable", "nobody"]),
).filter(lambda request: request[:2] not in LASTING)


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(requests, min_size=1, max_size=12))
def test_requests_at_random(fuzzed: Fuzzed, sent: list[Any]) -> None:
    for method, template, rest, body, headers, who in sent:
        caller = "operator" if template.startswith("/admin") and who == "live" else who
        fuzzed.send(method, target(template, {}) + rest, who=caller, body=body, headers=headers)
