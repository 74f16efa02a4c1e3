"""Accept to first attempt at a steady 200 events a second; here with all of Atlas in one process.

By the receiver's own clock at arrival, minus the event's `received_at` (the id carries it), and minus the
client's clock when it began to send: one machine, one clock.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from atlas.core.ids import id_time_ms
from scripts.bench_lib.deployment import ROUTED, Load, Server, site
from scripts.bench_lib.event import body
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row
from scripts.bench_lib.worker import Worker

RATE_PER_S: Final = 200
GOAL_P95_MS: Final = 25.0
#: A moment in which nothing is answered must not stop the sending: it has to show in the figures.
_CONNECTIONS: Final = 256
WARM_UP: Final[dict[str, Any]] = {"connections": 4, "requests": 200}
#: A steady flow, until a new Kafka broker has compiled its Java code: `kafka_warm` does not do all of it.
WARM_UP_KAFKA: Final[dict[str, Any]] = {"connections": _CONNECTIONS, "rate": RATE_PER_S, "seconds": 40.0}


def measure(plan: Plan, directory: Path) -> list[Row]:
    """On both servers."""
    rows: list[Row] = []
    for server in ("hypercorn", "uvicorn"):
        with site(directory) as place:
            load, receiver = Load(place), place.worker("receiver")
            atlas = place.server(server, "atlas")
            rows.append(steady(server, plan, load, receiver, atlas, GOAL_P95_MS))
    return rows


def steady(
    name: str,
    plan: Plan,
    load: Load,
    receiver: Worker,
    atlas: Server,
    goal_ms: float,
    warm_up: dict[str, Any] = WARM_UP,
) -> Row:
    """Send at the rate, and hold arrivals against acceptance.

    Args:
        atlas: new; it gets its stream and target here.
    """
    atlas.set_up(receiver.ready["url"])
    load.send(atlas, "/v1/events", body(ROUTED), **warm_up)
    atlas.settle()
    job = {"connections": _CONNECTIONS, "rate": RATE_PER_S, "events": True}
    receiver.ask({"note": True, "take": True})
    sent = load.send(atlas, "/v1/events", body(ROUTED), seconds=plan.steady_s, **job)
    atlas.settle()
    time.sleep(0.1)
    arrived = dict(receiver.ask({"take": True})["noted"])
    cpu_us = sent["server_cpu_s"] / sent["requests"] * 1e6
    missing = [event for event, _ in sent["events"] if event not in arrived]
    if missing:
        raise RuntimeError(f"{len(missing)} events never arrived")
    accepted = _percentiles([arrived[event] * 1000 - id_time_ms(event) for event, _ in sent["events"]])
    posted = _percentiles([(arrived[event] - sent_s) * 1000 for event, sent_s in sent["events"]])
    return Row(
        name=f"{name}: accept to first attempt at {RATE_PER_S}/s, p95",
        goal=f"{goal_ms:.0f} ms",
        result=f"{accepted[1]:.1f} ms",
        met=accepted[1] <= goal_ms,
        raw=f"p50 {accepted[0]:.1f} p95 {accepted[1]:.1f} p99 {accepted[2]:.1f} ms from received_at; "
        f"p50 {posted[0]:.1f} p95 {posted[1]:.1f} p99 {posted[2]:.1f} ms from sending; "
        f"{sent['requests'] / sent['seconds']:.0f}/s, {cpu_us:.0f} us CPU of the server an event",
    )


def _percentiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[int(len(ordered) * share)] for share in (0.5, 0.95, 0.99)]
