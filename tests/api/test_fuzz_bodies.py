"""Hostile bodies for every path that takes one: an answer in the right form, never a 5xx, nothing changed.

What is taken has to be harmless too: see `fuzzed` in conftest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.api.fuzzed import Fuzzed
from tests.api.hostile import BODIES, ROUTES, TOKENS, VALUES, WHOLE, places, target, with_token
from tests.gateway.harness import gateway
from tests.virtual_time import VirtualClock, virtual_time


@virtual_time
async def test_the_table_of_routes_is_whole(clock: VirtualClock, tmp_path: Path) -> None:
    async with gateway(clock, tmp_path) as g:
        app: Any = g.app
        routed = {
            route.path: tuple(sorted(route.endpoint._resource.operations)) for route in app._router.routes
        }
    assert routed == ROUTES
    pairs = [(method, path) for path, methods in ROUTES.items() for method in methods]
    assert set(BODIES) == {pair for pair in pairs if pair[0] not in ("GET", "DELETE")}


@pytest.mark.parametrize(("method", "template"), BODIES)
def test_every_value_of_every_body(fuzzed: Fuzzed, method: str, template: str) -> None:
    body = BODIES[method, template]
    where = target(template, fuzzed.ids)
    statuses = set()
    for place in places(body):
        for value in fuzzed.some(VALUES):
            sent = with_token(body, place, orjson.dumps(value))
            statuses.add(fuzzed.send(method, where, body=sent).status)
        for token in fuzzed.some(TOKENS):
            statuses.add(fuzzed.send(method, where, body=with_token(body, place, token)).status)
    assert statuses <= {200, 201, 202, 400, 404, 409}


@pytest.mark.parametrize(("method", "template"), BODIES)
def test_fields_that_are_none(fuzzed: Fuzzed, method: str, template: str) -> None:
    where = target(template, fuzzed.ids)
    for value in fuzzed.some(VALUES)[::4]:
        for name in ("color", "", "\0", "a" * 1_000):
            sent = orjson.dumps({**BODIES[method, template], name: value})
            answer = fuzzed.send(method, where, body=sent)
            assert (answer.field or "")[:512] == name[:512]


@pytest.mark.parametrize(("method", "template"), BODIES)
def test_every_whole_body(fuzzed: Fuzzed, method: str, template: str) -> None:
    where = target(template, fuzzed.ids)
    for body in fuzzed.some(WHOLE):
        for sent in (body, [body[:7], body[7:]]):
            assert fuzzed.send(method, where, body=sent).status == 400 or not body, body[:100]
