"""A workspace with a backlog: the memory it takes, and what another workspace feels of it; on both logs.

Its target takes whatever is sent and never answers, so that an attempt lasts until its time-out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.bench_lib.deployment import ROUTED, Load, Server
from scripts.bench_lib.event import BATCH_EVENTS, batch_body
from scripts.bench_lib.installed import LOGS, installed
from scripts.bench_lib.latency import RATE_PER_S, WARM_UP_S, Arrivals, arrivals
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

GOAL_MB: Final = 200.0
#: Of the p95 without the backlog.
GOAL_P95: Final = 2.0
_QUIET_CORES: Final = 0.1
_QUIET_S: Final = 2.0
_QUIET_MAX_S: Final = 1_200.0


def measure_memory(plan: Plan, directory: Path) -> list[Row]:
    """Of each process once everything is parked, and the most it was."""
    rows: list[Row] = []
    for log in LOGS:
        with installed(log, "hypercorn", directory) as (place, atlas):
            before_mb = atlas.memory_mb()
            load, hangs = Load(place, clients=1), place.worker("receiver", "hangs")
            with _backlog(load, atlas, hangs.ready["url"], plan.parked_events) as seconds:
                now_mb, most_mb = atlas.memory_mb(), atlas.memory_mb("VmHWM")
        rows.append(
            Row(
                name=f"{log}: memory with {plan.parked_events:,} parked deliveries",
                goal=f"{GOAL_MB:.0f} MB a process",
                result=f"{max(now_mb):.0f} MB",
                met=max(now_mb) < GOAL_MB,
                raw=f"{_list(now_mb)} MB now, {_list(most_mb)} MB at the most, {_list(before_mb)} MB at the "
                f"start; accepted, folded and parked in {seconds:.0f} s",
            )
        )
    return rows


def measure_fairness(plan: Plan, directory: Path) -> list[Row]:
    """Accept to first attempt of one workspace, without and with another's backlog."""
    rows: list[Row] = []
    for log in LOGS:
        with installed(log, "hypercorn", directory) as (place, atlas):
            load, receiver, hangs = Load(place), place.worker("receiver"), place.worker("receiver", "hangs")
            noisy = atlas.of_new_workspace("noisy")
            atlas.set_up(receiver.ready["url"])
            arrivals(load, receiver, atlas, RATE_PER_S, WARM_UP_S[log])
            quiet = [arrivals(load, receiver, atlas, RATE_PER_S, plan.steady_s)]
            with _backlog(load, noisy, hangs.ready["url"], plan.backlog_events):
                loaded = arrivals(load, receiver, atlas, RATE_PER_S, plan.steady_s)
                attempts = hangs.ask({})["count"]
            quiet.append(arrivals(load, receiver, atlas, RATE_PER_S, plan.steady_s))
        rows.append(_fairness_row(log, plan, quiet, loaded, attempts))
    return rows


def _fairness_row(log: str, plan: Plan, quiet: list[Arrivals], loaded: Arrivals, attempts: int) -> Row:
    p95_ms = max(one.accepted_ms[1] for one in quiet)
    ratio = loaded.accepted_ms[1] / p95_ms
    return Row(
        name=f"{log}: p95 at {RATE_PER_S}/s beside {plan.backlog_events:,} pending to a target that hangs",
        goal=f"{GOAL_P95:.0f} of quiet",
        result=f"{ratio:.2f}",
        met=ratio <= GOAL_P95,
        raw=f"p50 / p95 / p99 {_list(loaded.accepted_ms)} ms; without "
        f"{' and '.join(_list(one.accepted_ms) for one in quiet)} ms; {attempts} attempts hung meanwhile",
    )


@contextmanager
def _backlog(load: Load, atlas: Server, target_url: str, events: int) -> Iterator[float]:
    """So many deliveries pending, all at rest; the seconds it took."""
    started_s = time.perf_counter()
    atlas.set_up(target_url)
    content = batch_body(ROUTED)
    load.send(atlas, "/v1/events/batch", content, connections=8, requests=events // BATCH_EVENTS)
    atlas.project()
    while _cores(atlas) > _QUIET_CORES:
        if time.perf_counter() - started_s > _QUIET_MAX_S:
            raise RuntimeError(f"a backlog still works {_QUIET_MAX_S:.0f} s after it began")
    yield time.perf_counter() - started_s - _QUIET_S


def _cores(atlas: Server) -> float:
    before_s = atlas.cpu_s()
    time.sleep(_QUIET_S)
    return (atlas.cpu_s() - before_s) / _QUIET_S


def _list(values: list[float]) -> str:
    return " / ".join(f"{value:.{0 if value >= 20 else 1}f}" for value in values)
