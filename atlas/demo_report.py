"""What the demo found: everything compared value by value, and shown as tables."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from atlas.client.http import Client
from atlas.demo_receiver import Receiver

_AT_ONCE: Final = 8
_SENT_FIELDS: Final = ("stream", "type", "occurred_at", "data", "metadata")
_SHARES: Final = (0.50, 0.95, 0.99)


class Outcome(Struct, frozen=True):
    """Events and their attempts as the API tells them, by event id."""

    events: Mapping[str, dict[str, Any]]
    attempts: Mapping[str, list[dict[str, Any]]]


async def collect(client: Client, ids: Sequence[str]) -> Outcome:
    """Ask for every event, and for every attempt ever made."""
    events: dict[str, dict[str, Any]] = {}
    attempts: dict[str, list[dict[str, Any]]] = {}
    slots = asyncio.Semaphore(_AT_ONCE)

    async def ask(event_id: str) -> None:
        async with slots:
            events[event_id] = await client.get(f"/v1/events/{event_id}")
            attempts[event_id] = (await client.get(f"/v1/events/{event_id}/attempts"))["data"]

    async with asyncio.TaskGroup() as asking:
        for event_id in ids:
            asking.create_task(ask(event_id))
    return Outcome(events, attempts)


def problems(
    sent: Mapping[str, dict[str, Any]], outcome: Outcome, receiver: Receiver, workflows: Sequence[str]
) -> list[str]:
    """Everything that is not as it should be; empty when all is well.

    Args:
        sent: the body posted, by event id.
        outcome: what the API says came of it.
        receiver: what arrived.
        workflows: the routes every event has.
    """
    found = list(receiver.faults)
    arrived: dict[tuple[str, str], list[int]] = {}
    for arrival in receiver.arrivals:
        event_id = arrival.body["id"]
        arrived.setdefault((event_id, arrival.workflow_id), []).append(arrival.status)
        if event_id not in sent:
            found.append(f"{event_id} arrived, and was never sent")
        elif _canonical(arrival.body) != _canonical(sent[event_id]):
            found.append(
                f"{event_id} arrived at {arrival.workflow_id} with other values than it was sent with"
            )
    if len(sent) != len(outcome.events):
        found.append(f"{len(sent)} ids for {len(outcome.events)} events")
    for event_id in sent:
        if outcome.events[event_id]["status"] != "delivered":
            found.append(f"{event_id} is {outcome.events[event_id]['status']}")
        for workflow_id in workflows:
            recorded = [
                attempt["http_status"]
                for attempt in outcome.attempts[event_id]
                if attempt["workflow_id"] == workflow_id
            ]
            seen = arrived.get((event_id, workflow_id), [])
            if recorded != seen or seen.count(200) != 1:
                found.append(f"{event_id} to {workflow_id}: recorded {recorded}, but the receiver saw {seen}")
    return found


def _canonical(event: Mapping[str, Any]) -> bytes:
    """Equal exactly for equal JSON values: 1 and 1.0 differ, and so do 1 and true."""
    return orjson.dumps({field: event[field] for field in _SENT_FIELDS}, option=orjson.OPT_SORT_KEYS)


def show(console: Console, outcome: Outcome, command: str) -> None:
    """Print the tables, and the command to look at one event."""
    statuses = Counter(event["status"] for event in outcome.events.values())
    table = Table("events", "status", title="Events", title_justify="left")
    for status, count in statuses.most_common():
        table.add_row(str(count), status)
    console.print()
    console.print(table)
    console.print(_deliveries(outcome))
    console.print("\nEvery payload arrived as it was sent, value by value, with good signatures.")
    console.print("Look at one event:")
    console.print(command, soft_wrap=True, markup=False)


def _deliveries(outcome: Outcome) -> Table:
    table = Table(
        "workflow", "attempts", "at once", "after retries", "p50", "p95", "p99",
        title="Deliveries (accepted to first attempt, in ms)", title_justify="left",
    )  # fmt: skip
    every = [attempt for attempts in outcome.attempts.values() for attempt in attempts]
    for workflow_id in sorted({attempt["workflow_id"] for attempt in every}):
        made = [attempt for attempt in every if attempt["workflow_id"] == workflow_id]
        at_once = sum(attempt["status"] == "delivered" and attempt["attempt"] == 1 for attempt in made)
        delivered = sum(attempt["status"] == "delivered" for attempt in made)
        latencies_ms = _latencies_ms(outcome, workflow_id)
        table.add_row(
            workflow_id,
            str(len(made)),
            str(at_once),
            str(delivered - at_once),
            *(f"{_percentile(latencies_ms, share):.0f}" for share in _SHARES),
        )
    return table


def _latencies_ms(outcome: Outcome, workflow_id: str) -> list[float]:
    """From acceptance to the start of the first attempt."""
    return [
        _ms(attempt["started_at"]) - _ms(outcome.events[event_id]["received_at"])
        for event_id, attempts in outcome.attempts.items()
        for attempt in attempts
        if attempt["workflow_id"] == workflow_id and attempt["attempt"] == 1
    ]


def _percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _ms(time: str) -> float:
    return datetime.fromisoformat(time).timestamp() * 1000
