"""Batches of 500 events into the fsynced log, beside plain writes of the same bytes with an fsync each."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Final

from scripts.bench_lib.deployment import Load, site
from scripts.bench_lib.event import BATCH_EVENTS, batch_body
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

GOAL_PER_S: Final = 15_000
#: Enough that the log always has a batch to write while the gateway checks the next.
CONNECTIONS: Final = 4
_FSYNCS: Final = 40


def measure(plan: Plan, directory: Path) -> list[Row]:
    """On both servers; what is sent is put together before, in another process."""
    rows: list[Row] = []
    fsync_ms: list[float] = []
    content = batch_body()
    for server in ("hypercorn", "uvicorn"):
        with site(directory) as place:
            load, atlas = Load(place), place.server(server, "paused")
            atlas.set_up()
            load.send(atlas, "/v1/events/batch", content, connections=CONNECTIONS, requests=CONNECTIONS)
            results = []
            for _ in range(plan.rounds):
                fsync_ms.append(_fsync_ms(place.directory / "raw", content))
                results.append(
                    load.send(
                        atlas,
                        "/v1/events/batch",
                        content,
                        connections=CONNECTIONS,
                        seconds=plan.round_s,
                    )
                )
        rate = median(r["rate"] for r in results) * BATCH_EVENTS
        cpu_us = median(r["server_cpu_s"] / r["requests"] for r in results) / BATCH_EVENTS * 1e6
        p50 = median(r["latencies_ms"][0] for r in results)
        rows.append(
            Row(
                name=f"{server}: batches of {BATCH_EVENTS} into the fsynced log",
                goal=f"{GOAL_PER_S:,}/s",
                result=f"{rate:,.0f}/s",
                met=rate >= GOAL_PER_S,
                raw=f"{cpu_us:.1f} us CPU an event, p50 of a batch {p50:.0f} ms, "
                f"{len(content) / BATCH_EVENTS:.0f} bytes an event",
            )
        )
    raw_ms = median(fsync_ms)
    rows.append(
        Row(
            name="plain file, the same bytes, fsync after each 500",
            result=f"{BATCH_EVENTS / raw_ms * 1000:,.0f}/s",
            raw=f"{raw_ms:.2f} ms a write and fsync of {len(content) // 1024} KiB",
        )
    )
    return rows


def _fsync_ms(path: Path, content: bytes) -> float:
    taken_ms = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            started_s = time.perf_counter()
            file.write(content)
            os.fsync(file.fileno())
            taken_ms.append((time.perf_counter() - started_s) * 1000)
    path.unlink()
    return median(taken_ms)
