"""Events in over HTTP, workflow POSTs out, facts and projection included, until the API shows them delivered.

In single POSTs that is what a user gets; in batches next to nothing of the time is the gateway's, and what
is measured are deliveries. Both are held against a bare aiohttp loop that sends the very body of a delivery
to the same receiver over as many connections.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from scripts.bench_lib.deployment import ROUTED, Load, Server
from scripts.bench_lib.event import BATCH_EVENTS, batch_body, body
from scripts.bench_lib.installed import EMBEDDED, LOGS, installed
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row
from scripts.bench_lib.worker import Worker

GOALS_PER_S: Final = {"hypercorn": 2_000, "uvicorn": 3_000}
#: Of the bare loop's deliveries.
GOAL_DELIVERIES: Final = 0.5
#: Of the client, of the bare loop, and attempts under way.
_CONNECTIONS: Final = 32
_WARM_UP_EVENTS: Final = 2_000
_DELIVERED_MAX_S: Final = 120.0

Result = dict[str, Any]


def measure(plan: Plan, directory: Path) -> list[Row]:
    """Single POSTs on the embedded log and both servers."""
    return [_singles(plan, directory, EMBEDDED, server) for server in GOALS_PER_S]


def measure_on_both(plan: Plan, directory: Path) -> list[Row]:
    """Single POSTs on both logs, all processes counted, on the faster server."""
    return [_singles(plan, directory, log, "uvicorn") for log in LOGS]


def measure_deliveries(plan: Plan, directory: Path) -> list[Row]:
    """Batches on both logs."""
    rows: list[Row] = []
    for log in LOGS:
        results, bare = _rounds(plan, directory, log, "uvicorn", BATCH_EVENTS)
        ratio = median(ours["rate"] / raw for ours, raw in zip(results, bare, strict=True))
        arrived = median(r["events"] / r["arrival_s"] for r in results)
        rows.append(
            Row(
                name=f"{log}: deliveries, facts and projection included",
                goal=f"{GOAL_DELIVERIES} of a bare loop",
                result=f"{ratio:.2f}",
                met=ratio >= GOAL_DELIVERIES,
                raw=f"{median(r['rate'] for r in results):,.0f}/s until the API shows them, {arrived:,.0f}/s "
                f"at the receiver; bare aiohttp POST loop {median(bare):,.0f}/s; {_cpu(results)}",
            )
        )
    return rows


def _singles(plan: Plan, directory: Path, log: str, server: str) -> Row:
    results, bare = _rounds(plan, directory, log, server, 1)
    rate, goal = median(r["rate"] for r in results), GOALS_PER_S[server]
    return Row(
        name=f"{log}, {server}: accepted, delivered and shown so by the API",
        goal=f"{goal:,}/s",
        result=f"{rate:,.0f}/s",
        met=rate >= goal,
        raw=f"{_cpu(results)}; accepted at "
        f"{median(r['accept_rate'] for r in results):,.0f}/s, last arrival "
        f"{median(r['arrival_s'] - r['accept_s'] for r in results) * 1000:.0f} ms and API "
        f"{median(r['api_s'] - r['accept_s'] for r in results) * 1000:.0f} ms after the last 202; "
        f"bare aiohttp POST loop {median(bare):,.0f}/s ({rate / median(bare):.2f} of it)",
    )


def _cpu(results: list[Result]) -> str:
    return (
        f"{median(r['cpu_us'] for r in results):.0f} us CPU an event, "
        f"{median(r['cores'] for r in results):.0%} of a core"
    )


def _rounds(
    plan: Plan, directory: Path, log: str, server: str, batch: int
) -> tuple[list[Result], list[float]]:
    """In turns: the bare loop's rates, and what came of events in requests of so many each."""
    with installed(log, server, directory) as (place, atlas):
        load, receiver = Load(place), place.worker("receiver")
        poster = place.worker("poster", receiver.ready["url"])
        atlas.set_up(receiver.ready["url"], max_in_flight=_CONNECTIONS)
        _round(load, receiver, atlas, _WARM_UP_EVENTS, batch)
        results, bare = [], []
        for _ in range(plan.rounds):
            delivery = receiver.ask({})["last"]
            bare.append(poster.ask({"requests": plan.end_to_end_events, "body": delivery})["rate"])
            receiver.ask({"take": True})
            results.append(_round(load, receiver, atlas, plan.end_to_end_events, batch))
    return results, bare


def _round(load: Load, receiver: Worker, atlas: Server, events: int, batch: int) -> Result:
    cpu_s = atlas.cpu_s()
    started_s = time.perf_counter()
    if batch == 1:
        load.send(atlas, "/v1/events", body(ROUTED), connections=_CONNECTIONS, requests=events)
    else:
        content = batch_body(ROUTED)
        load.send(atlas, "/v1/events/batch", content, connections=2, requests=events // batch)
    accept_s = time.perf_counter() - started_s
    while receiver.ask({})["count"] < events:
        if time.perf_counter() - started_s - accept_s > _DELIVERED_MAX_S:
            raise RuntimeError(f"not all delivered {_DELIVERED_MAX_S:.0f} s after the last was accepted")
        time.sleep(0.005)
    arrival_s = time.perf_counter() - started_s
    atlas.settle()
    api_s = time.perf_counter() - started_s
    arrived = receiver.ask({"take": True})["count"]
    if arrived != events:
        raise RuntimeError(f"{arrived} deliveries of {events} events")
    cpu_s = atlas.cpu_s() - cpu_s
    return {
        "events": events,
        "rate": events / api_s,
        "accept_rate": events / accept_s,
        "accept_s": accept_s,
        "arrival_s": arrival_s,
        "api_s": api_s,
        "cpu_us": cpu_s / events * 1e6,
        "cores": cpu_s / api_s,
    }
