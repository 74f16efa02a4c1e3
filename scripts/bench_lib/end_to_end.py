"""Single POSTs in, workflow POSTs out, facts and projection included: until the API says all is delivered."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from scripts.bench_lib.deployment import ROUTED, Load, Server, site
from scripts.bench_lib.event import body
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row
from scripts.bench_lib.worker import Worker

GOALS_PER_S: Final = {"hypercorn": 2_000, "uvicorn": 3_000}
_CONNECTIONS: Final = 32
_WARM_UP_EVENTS: Final = 500
_DELIVERED_MAX_S: Final = 60.0


def measure(plan: Plan, directory: Path) -> list[Row]:
    """On both servers, and a bare aiohttp loop against the same receiver."""
    rows: list[Row] = []
    for server, goal in GOALS_PER_S.items():
        with site(directory) as place:
            load, receiver = Load(place), place.worker("receiver")
            poster = place.worker("poster", receiver.ready["url"])
            atlas = place.server(server, "atlas")
            atlas.set_up(receiver.ready["url"])
            _round(load, receiver, atlas, _WARM_UP_EVENTS)
            results, bare = [], []
            for _ in range(plan.rounds):
                bare.append(poster.ask({"requests": plan.end_to_end_events})["rate"])
                receiver.ask({"take": True})
                results.append(_round(load, receiver, atlas, plan.end_to_end_events))
        rate = median(r["rate"] for r in results)
        rows.append(
            Row(
                name=f"{server}: accepted, delivered and shown so by the API",
                goal=f"{goal:,}/s",
                result=f"{rate:,.0f}/s",
                met=rate >= goal,
                raw=f"{median(r['cpu_us'] for r in results):.0f} us CPU an event, "
                f"{median(r['cores'] for r in results):.0%} of a core; accepted at "
                f"{median(r['accept_rate'] for r in results):,.0f}/s, last arrival "
                f"{median(r['arrival_s'] for r in results) * 1000:.0f} ms and API "
                f"{median(r['api_s'] for r in results) * 1000:.0f} ms after the last 202; "
                f"bare aiohttp POST loop {median(bare):,.0f}/s ({rate / median(bare):.2f} of it)",
            )
        )
    return rows


def _round(load: Load, receiver: Worker, atlas: Server, events: int) -> dict[str, Any]:
    cpu_s = atlas.worker.cpu_s()
    started_s = time.perf_counter()
    sent = load.send(atlas, "/v1/events", body(ROUTED), connections=_CONNECTIONS, requests=events)
    accepted_s = time.perf_counter()
    while receiver.ask({})["count"] < events:
        if time.perf_counter() - accepted_s > _DELIVERED_MAX_S:
            raise RuntimeError(f"not all delivered {_DELIVERED_MAX_S:.0f} s after the last was accepted")
        time.sleep(0.005)
    arrived_s = time.perf_counter()
    atlas.settle()
    ended_s = time.perf_counter()
    arrived = receiver.ask({"take": True})["count"]
    if arrived != events:
        raise RuntimeError(f"{arrived} deliveries of {events} events")
    seconds = ended_s - started_s
    cpu_s = atlas.worker.cpu_s() - cpu_s
    return {
        "rate": events / seconds,
        "accept_rate": sent["rate"],
        "arrival_s": arrived_s - accepted_s,
        "api_s": ended_s - accepted_s,
        "cpu_us": cpu_s / events * 1e6,
        "cores": cpu_s / seconds,
    }
