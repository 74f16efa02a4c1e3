"""What the API says of every event: walked, fetched, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from typing import Final

import orjson

from tests.faults_client import Clients
from tests.faults_receiver import Receiver
from tests.invariants_history import OK, Shown
from tests.invariants_notices import outcomes, told

#: Twice what an event goes back and forth between: looked at one after the other, it may slip through once.
_OPEN: Final = ("accepted", "processing", "retried", "processing", "retried")
_FETCHERS: Final = 12
_POLL_S: Final = 0.05
_LAG: Final = "x-atlas-lag-ms"

#: By event id: the bodies of `GET /v1/events/{id}` and of `/attempts`.
Views = Mapping[str, tuple[bytes, bytes]]


async def until_nothing_is_open(clients: Clients, environments: Iterable[str]) -> None:
    """Returns when every event that was ever accepted shows, and has ended."""
    for environment in environments:
        while await _any_open(clients, environment):  # noqa: ASYNC110  # HTTP tells nobody
            await asyncio.sleep(_POLL_S)


async def _any_open(clients: Clients, environment: str) -> bool:
    for status in _OPEN:
        if await _is_open(clients, environment, status):
            return True
    return False


async def _is_open(clients: Clients, environment: str, status: str) -> bool:
    code, headers, content = await clients.get(environment, f"/v1/events?status={status}&limit=1")
    return code != 200 or _LAG in headers or bool(orjson.loads(content)["data"])


async def walk(clients: Clients, environment: str) -> list[str]:
    """The ids of all events, page by page."""
    ids: list[str] = []
    cursor = ""
    while True:
        code, _, content = await clients.get(environment, f"/v1/events?limit=100{cursor}")
        assert code == 200, (code, content)
        page = orjson.loads(content)
        ids += [event["id"] for event in page["data"]]
        if not page["has_more"]:
            return ids
        cursor = f"&cursor={page['next_cursor']}"


async def fetch_views(clients: Clients, environment: str, ids: Iterable[str]) -> Views:
    """What the API says of these events; without those it answers 404 for."""
    left = iter(ids)
    views: dict[str, tuple[bytes, bytes]] = {}

    async def fetch() -> None:
        for event_id in left:
            path = f"/v1/events/{event_id}"
            event, attempts = [await clients.get(environment, path + rest) for rest in ("", "/attempts")]
            if (event[0], attempts[0]) == (200, 200):
                views[event_id] = (event[2], attempts[2])
            else:
                assert (event[0], attempts[0]) == (404, 404), (event, attempts)

    await asyncio.gather(*(fetch() for _ in range(_FETCHERS)))
    return views


async def whole_views(
    clients: Clients, environments: Iterable[str], faults: list[str], known: Container[str] = ()
) -> Views:
    """What the API says of every event that it lists or has answered 202 for, but those known."""
    views: dict[str, tuple[bytes, bytes]] = {}
    for environment in environments:
        listed = await walk(clients, environment)
        if len(set(listed)) != len(listed):
            faults.append(f"a walk through {environment} shows an event twice")
        answered = {
            each.event_id: None
            for each in clients.tries
            if each.outcome == OK and each.environment == environment and each.event_id is not None
        }
        wanted = [each for each in {**dict.fromkeys(listed), **answered} if each not in known]
        views.update(await fetch_views(clients, environment, wanted))
    return views


async def until_told(receiver: Receiver, views: Views, within_s: float) -> None:
    """Returns when an endpoint has acknowledged every outcome of these events, or after so long."""
    missing = outcomes(shown(views))
    with suppress(TimeoutError):  # the checker says what is missing then
        async with asyncio.timeout(within_s):
            while True:
                missing -= {told(notice) for notice in receiver.notices if notice.acknowledged}
                if not missing:
                    return
                await asyncio.sleep(_POLL_S)


def shown(views: Views) -> dict[str, Shown]:
    """The same, decoded."""
    return {
        event_id: Shown(orjson.loads(event), orjson.loads(attempts)["data"])
        for event_id, (event, attempts) in views.items()
    }
