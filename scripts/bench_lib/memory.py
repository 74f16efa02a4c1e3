"""Resident memory of the one process after many events, delivered and projected."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from scripts.bench_lib.deployment import ROUTED, Load, site
from scripts.bench_lib.event import BATCH_EVENTS, batch_body
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

GOAL_MB: Final = 150.0


def measure(plan: Plan, directory: Path) -> list[Row]:
    """In batches, with one delivery each; on hypercorn, which takes more memory than uvicorn."""
    batches = plan.memory_events // BATCH_EVENTS
    with site(directory) as place:
        load, receiver = Load(place, clients=1), place.worker("receiver")
        atlas = place.server("hypercorn", "atlas")
        atlas.set_up(receiver.ready["url"])
        before_mb = atlas.worker.memory_mb()
        started_s, cpu_s = time.perf_counter(), atlas.worker.cpu_s()
        load.send(atlas, "/v1/events/batch", batch_body(ROUTED), connections=1, requests=batches)
        accepted_s = time.perf_counter() - started_s
        atlas.settle()
        seconds, cpu_s = time.perf_counter() - started_s, atlas.worker.cpu_s() - cpu_s
        after_mb, peak_mb = atlas.worker.memory_mb(), atlas.worker.memory_mb("VmHWM")
    events = batches * BATCH_EVENTS
    return [
        Row(
            name=f"memory after {events:,} events, each delivered",
            goal=f"{GOAL_MB:.0f} MB",
            result=f"{after_mb:.0f} MB",
            met=after_mb < GOAL_MB,
            raw=f"{before_mb:.0f} MB at the start, {peak_mb:.0f} MB at the most; accepted in "
            f"{accepted_s:.0f} s, all delivered after {seconds:.0f} s ({events / seconds:,.0f}/s), "
            f"{cpu_s / events * 1e6:.0f} us CPU an event",
        )
    ]
