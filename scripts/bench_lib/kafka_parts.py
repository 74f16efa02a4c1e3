"""The bench's other measurements on Kafka: single POSTs, projection."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Final

from scripts.bench_lib.deployment import Load
from scripts.bench_lib.kafka_site import kafka_site
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row
from scripts.bench_lib.singles import EMPTY, compare

GOAL_GETMANY: Final = 0.3
_SINGLES: Final = (
    ("single POST, gateway, unkeyed", "gateway", False),
    ("single POST, gateway, keyed", "gateway", True),
)


def singles(plan: Plan, directory: Path) -> list[Row]:
    """Against an empty handler on the same server."""
    rows: list[Row] = []
    with kafka_site(directory) as here:
        load = Load(here.place)
        for server in ("hypercorn", "uvicorn"):
            with here.gateway(server) as gateway:
                if not rows:
                    gateway.set_up()
                servers = {EMPTY: here.place.server(server, "empty"), "gateway": gateway}
                rows += compare(server, plan, load, servers, _SINGLES, goal_for="gateway")
    return rows


def projection(plan: Plan, directory: Path) -> list[Row]:
    """One log, read by the projector, by a bare consumer, and inserted raw, in turns."""
    events = plan.rebuild_events
    with kafka_site(directory) as here:
        data_dir = here.place.directory / "rebuild"
        data_dir.mkdir()
        worker = here.place.worker("rebuild", str(data_dir), str(events), here.bootstrap)
        ours, bare, raw = [], [], []
        for _ in range(plan.rounds):
            bare.append(worker.ask({"do": "getmany"}))
            ours.append(worker.ask({"do": "project"}))
            raw.append(worker.ask({"do": "raw"}))
    if (found := ours[0]["rows"]["events"]) != events:
        raise RuntimeError(f"{found} events projected of {events}")
    records = bare[0]["records"]
    of_getmany, of_raw = (
        median(b["seconds"] / p["seconds"] for p, b in zip(ours, limit, strict=True)) for limit in (bare, raw)
    )
    cpu_us = [median(r["cpu_s"] for r in results) / records * 1e6 for results in (ours, bare, raw)]
    rates = [records / median(r["seconds"] for r in results) for results in (ours, bare, raw)]
    bound = "SQLite's raw inserts" if rates[2] < GOAL_GETMANY * rates[1] else "the goal itself"
    return [
        Row(
            name=f"projector: {events:,} delivered events, {records:,} records",
            goal=f"{GOAL_GETMANY} of getmany",
            result=f"{of_getmany:.2f} (CPU {cpu_us[1] / cpu_us[0]:.2f}); {of_raw:.2f} of raw inserts",
            met=of_getmany >= GOAL_GETMANY,
            raw=f"{rates[0]:,.0f} records/s, {cpu_us[0]:.1f} us CPU a record; getmany and decode "
            f"{rates[1]:,.0f}/s, {cpu_us[1]:.1f} us; raw inserts of their rows {rates[2]:,.0f}/s, "
            f"{cpu_us[2]:.1f} us; the lower bound is {bound}",
        )
    ]
