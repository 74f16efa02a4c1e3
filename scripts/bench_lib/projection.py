"""Projection of an existing log, against raw `executemany` of the same rows into the same tables."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from scripts.bench_lib.deployment import Site, site
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

GOAL = 0.5


def measure(plan: Plan, directory: Path) -> list[Row]:
    """In turns on a smaller log, then once on a large one."""
    with site(directory) as place:
        rows = [_measure(place, plan.rebuild_events, plan.rounds)]
        if plan.rebuild_whole_events:
            rows.append(_measure(place, plan.rebuild_whole_events, 1))
    return rows


def _measure(place: Site, events: int, rounds: int) -> Row:
    data = place.directory / f"rebuild-{events}"
    data.mkdir()
    worker = place.worker("rebuild", str(data), str(events))
    projected, raw = [], []
    for _ in range(rounds):
        projected.append(worker.ask({"do": "project"}))
        raw.append(worker.ask({"do": "raw"}))
    counts = projected[0]["rows"]
    if counts["events"] != events:
        raise RuntimeError(f"{counts['events']} events projected of {events}")
    ratio = median(r["seconds"] / p["seconds"] for p, r in zip(projected, raw, strict=True))
    seconds, raw_s = (median(r["seconds"] for r in results) for results in (projected, raw))
    cpu_us, raw_cpu_us = (median(r["cpu_s"] for r in results) / events * 1e6 for results in (projected, raw))
    return Row(
        name=f"projection: rebuild of {events:,} delivered events",
        goal=f"{GOAL}",
        result=f"{ratio:.2f}",
        met=ratio >= GOAL,
        raw=f"{events / seconds:,.0f} events/s in {seconds:.1f} s, {cpu_us:.0f} us CPU an event; raw "
        f"executemany {events / raw_s:,.0f} events/s, {raw_cpu_us:.0f} us; an event is one row of events, "
        f"one of routes, one of attempts, {counts.get('terms', 0) / events:.0f} terms",
    )
