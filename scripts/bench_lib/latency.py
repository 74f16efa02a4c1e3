"""Accept to first attempt at a steady rate; on the embedded log with all of Atlas in one process.

By the receiver's own clock at arrival, minus the event's `received_at` (the id carries it), and minus the
client's clock when it began to send: one machine, one clock.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from atlas.core.ids import id_time_ms
from scripts.bench_lib.deployment import ROUTED, Load, Server
from scripts.bench_lib.event import body
from scripts.bench_lib.installed import EMBEDDED, KAFKA, LOGS, installed
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row
from scripts.bench_lib.worker import Worker

RATE_PER_S: Final = 200
SERVERS: Final = ("hypercorn", "uvicorn")
#: p95, in milliseconds.
GOALS_MS: Final = {EMBEDDED: 25.0, KAFKA: 30.0}
#: A moment in which nothing is answered must not stop the sending: it has to show in the figures.
_CONNECTIONS: Final = 256
#: A steady flow for so long. A new Kafka broker compiles its Java code meanwhile: `kafka_warm` does not do
#: all of it.
WARM_UP_S: Final = {EMBEDDED: 1.0, KAFKA: 40.0}


class Arrivals(Struct, frozen=True):
    """Of a steady flow.

    Attributes:
        accepted_ms, posted_ms: p50, p95 and p99 from acceptance, and from sending, to the first attempt.
        raw: the figures in words.
    """

    accepted_ms: list[float]
    posted_ms: list[float]
    raw: str


def measure(plan: Plan, directory: Path) -> list[Row]:
    """On the embedded log and both servers."""
    return [_steady(plan, directory, EMBEDDED, server, RATE_PER_S) for server in SERVERS]


def measure_on_kafka(plan: Plan, directory: Path) -> list[Row]:
    """The same with gateway, projector and deliverer as processes of their own."""
    return [_steady(plan, directory, KAFKA, server, RATE_PER_S) for server in SERVERS]


def measure_rates(plan: Plan, directory: Path) -> list[Row]:
    """At 50 and 200 events a second, on both logs."""
    return [_steady(plan, directory, log, "hypercorn", rate) for log in LOGS for rate in (50, RATE_PER_S)]


def _steady(plan: Plan, directory: Path, log: str, server: str, rate: int) -> Row:
    with installed(log, server, directory) as (place, atlas):
        load, receiver = Load(place), place.worker("receiver")
        atlas.set_up(receiver.ready["url"])
        arrivals(load, receiver, atlas, RATE_PER_S, WARM_UP_S[log])
        found = arrivals(load, receiver, atlas, rate, plan.steady_s)
    return Row(
        name=f"{log}, {server}: accept to first attempt at {rate}/s, p95",
        goal=f"{GOALS_MS[log]:.0f} ms",
        result=f"{found.accepted_ms[1]:.1f} ms",
        met=found.accepted_ms[1] <= GOALS_MS[log],
        raw=found.raw,
    )


def arrivals(load: Load, receiver: Worker, atlas: Server, rate: int, seconds: float) -> Arrivals:
    """Send at the rate, wait until all is delivered, and hold arrivals against acceptance."""
    cpu_s = atlas.cpu_s()
    job: dict[str, Any] = {"connections": _CONNECTIONS, "rate": rate, "events": True}
    receiver.ask({"note": True, "take": True})
    sent = load.send(atlas, "/v1/events", body(ROUTED), seconds=seconds, **job)
    atlas.settle()
    time.sleep(0.1)
    arrived = dict(receiver.ask({"take": True, "note": False})["noted"])
    cpu_us = (atlas.cpu_s() - cpu_s) / sent["requests"] * 1e6
    missing = [event for event, _ in sent["events"] if event not in arrived]
    if missing:
        raise RuntimeError(f"{len(missing)} events never arrived")
    accepted = _percentiles([arrived[event] * 1000 - id_time_ms(event) for event, _ in sent["events"]])
    posted = _percentiles([(arrived[event] - sent_s) * 1000 for event, sent_s in sent["events"]])
    return Arrivals(
        accepted,
        posted,
        f"p50 {accepted[0]:.1f} p95 {accepted[1]:.1f} p99 {accepted[2]:.1f} ms from received_at; "
        f"p50 {posted[0]:.1f} p95 {posted[1]:.1f} p99 {posted[2]:.1f} ms from sending; "
        f"{sent['requests'] / sent['seconds']:.0f}/s, {cpu_us:.0f} us CPU of Atlas an event",
    )


def _percentiles(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered[int(len(ordered) * share)] for share in (0.5, 0.95, 0.99)]
