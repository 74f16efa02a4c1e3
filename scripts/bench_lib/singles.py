"""Single POSTs at concurrency 32, against an empty Starlette handler on the same server.

The ratio of rates is what the goal is about; the ratio of CPU time a request stands beside it, because it
does not change with what else the machine does. Atlas's CPU time is that of all its threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from scripts.bench_lib.deployment import Load, Server, site
from scripts.bench_lib.event import body
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

CONNECTIONS: Final = 32
GOAL: Final = 0.6
_WARM_UP_S: Final = 0.5
#: The raw limit, first in each round.
EMPTY: Final = "empty"
#: What is measured beside it: name, server, keyed.
Kinds = Sequence[tuple[str, str, bool]]
_KINDS: Final = (
    ("handler that reads JSON and answers JSON of the same size", "json", False),
    ("single POST, paused, unkeyed", "paused", False),
    ("single POST, paused, keyed", "paused", True),
    ("single POST, running, unkeyed", "atlas", False),
    ("single POST, running, keyed", "atlas", True),
)

Result = dict[str, Any]


def measure(plan: Plan, directory: Path) -> list[Row]:
    """Both servers, one after the other."""
    rows: list[Row] = []
    for server in ("hypercorn", "uvicorn"):
        with site(directory) as place:
            load = Load(place)
            servers = {kind: place.server(server, kind) for kind in ("empty", "json", "paused", "atlas")}
            for kind in ("paused", "atlas"):
                servers[kind].set_up()
            rows += compare(server, plan, load, servers, _KINDS, goal_for="paused")
    return rows


def compare(
    server: str, plan: Plan, load: Load, servers: dict[str, Server], kinds: Kinds, goal_for: str
) -> list[Row]:
    """Hold each kind against the empty handler; those whose name holds `goal_for` have the goal."""
    return _rows(server, _rounds(plan, load, servers, kinds), goal_for)


def _rounds(plan: Plan, load: Load, servers: dict[str, Server], kinds: Kinds) -> dict[str, list[Result]]:
    """Alternating: each round has the empty handler first, then all others."""
    results: dict[str, list[Result]] = {name: [] for name in (EMPTY, *(kind[0] for kind in kinds))}
    for server in servers.values():
        _post(load, server, _WARM_UP_S, False)
    for _ in range(plan.rounds):
        results[EMPTY].append(_post(load, servers[EMPTY], plan.round_s, False))
        for name, kind, keyed in kinds:
            results[name].append(_post(load, servers[kind], plan.round_s, keyed))
            if kind == "atlas":
                servers[kind].project()
    return results


def _post(load: Load, server: Server, seconds: float, keyed: bool) -> Result:
    return load.send(server, "/v1/events", body(), connections=CONNECTIONS, seconds=seconds, keyed=keyed)


def _rows(server: str, results: dict[str, list[Result]], goal_for: str) -> list[Row]:
    empty = results.pop(EMPTY)
    rows = [Row(name=f"{server}: empty handler", result="1", raw=_raw(empty))]
    for name, measured in results.items():
        pairs = zip(measured, empty, strict=True)
        ratio = median(ours["rate"] / raw["rate"] for ours, raw in pairs)
        by_cpu = median(_cpu_s(raw) / _cpu_s(ours) for ours, raw in zip(measured, empty, strict=True))
        has_goal = goal_for in name
        rows.append(
            Row(
                name=f"{server}: {name}",
                goal=f"{GOAL}" if has_goal else "",
                result=f"{ratio:.2f} (CPU {by_cpu:.2f})",
                met=ratio >= GOAL if has_goal else None,
                raw=_raw(measured),
            )
        )
    return rows


def _cpu_s(result: Result) -> float:
    return float(result["server_cpu_s"] / result["requests"])


def _raw(results: list[Result]) -> str:
    rate = median(r["rate"] for r in results)
    cpu_us = median(map(_cpu_s, results)) * 1e6
    cores = median(r["server_cpu_s"] / r["seconds"] for r in results)
    load = median(r["client_cpu_s"] / r["seconds"] for r in results)
    p50, p95, _ = (median(r["latencies_ms"][i] for r in results) for i in range(3))
    return (
        f"{rate:,.0f}/s, {cpu_us:.0f} us CPU each, {cores:.0%} of a core (clients {load:.0%}), "
        f"p50 {p50:.1f} p95 {p95:.1f} ms"
    )
