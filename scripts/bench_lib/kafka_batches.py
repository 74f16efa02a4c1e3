"""Batches of 500 over HTTP into Kafka through one gateway process, beside bare producers on the same broker.

CPU time is the gateway's or the bare producer's process; the broker's is in neither.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from statistics import median
from typing import Any, Final

from scripts.bench_lib.deployment import Load, Server
from scripts.bench_lib.event import BATCH_EVENTS, batch_body
from scripts.bench_lib.kafka_bare import TOPIC
from scripts.bench_lib.kafka_site import KafkaSite, kafka_site
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row
from scripts.kafka_lib.broker import fetch_jars, java

#: Of the bare producers.
GOALS: Final = {"queues": 0.5, "defaults": 2.0}
GOALS_PER_S: Final = {False: 60_000, True: 25_000}
#: Enough that every partition has a batch under way while the gateway checks the next.
CONNECTIONS: Final = 8
_JAVA_MAX_S: Final = 300.0
_BARE: Final = {
    "queues": "send_batch from a queue per partition, 256 waiters",
    "batches": "send_batch of 256 KiB, no waiters",
    "defaults": "send_and_wait with defaults, 256 waiters",
}

Result = dict[str, float]


def measure(plan: Plan, directory: Path) -> list[Row]:
    """Both servers; each round has the bare producers first, then the gateway."""
    rows: list[Row] = []
    with kafka_site(directory) as here:
        load, bare = Load(here.place), here.place.worker("kafka_bare", here.bootstrap)
        results: dict[str, list[Result]] = {}
        for server in ("hypercorn", "uvicorn"):
            with here.gateway(server) as gateway:
                if server == "hypercorn":
                    gateway.set_up()
                results = _rounds(plan, load, gateway, bare)
            rows += [row for keyed in (False, True) for row in _rows(server, keyed, results)]
        rows += [_bare_row(way, results[way], bare.ready["record_bytes"]) for way in _BARE]
        rows.append(_java(here, plan.java_records, int(bare.ready["record_bytes"])))
    return rows


def _rounds(plan: Plan, load: Load, gateway: Server, bare: Any) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {way: [] for way in (*_BARE, "unkeyed", "keyed")}
    for keyed in (False, True):
        _post(load, gateway, keyed, plan.round_s / 2)
    for _ in range(plan.rounds):
        for way in _BARE:
            results[way].append(bare.ask({"way": way, "seconds": plan.round_s}))
        results["unkeyed"].append(_post(load, gateway, False, plan.round_s))
        results["keyed"].append(_post(load, gateway, True, plan.round_s))
    return results


def _post(load: Load, gateway: Server, keyed: bool, seconds: float) -> Result:
    path, job = "/v1/events/batch", {"connections": CONNECTIONS, "seconds": seconds, "keyed": keyed}
    sent = load.send(gateway, path, batch_body(), **job)
    events = sent["requests"] * BATCH_EVENTS
    return {
        "rate": sent["rate"] * BATCH_EVENTS,
        "cpu_us": sent["server_cpu_s"] / events * 1e6,
        "p50_ms": sent["latencies_ms"][0],
        "cores": sent["server_cpu_s"] / sent["seconds"],
    }


def _rows(server: str, keyed: bool, results: dict[str, list[Result]]) -> list[Row]:
    kind = "keyed" if keyed else "unkeyed"
    name, ours, goal_per_s = f"{server}: batches of {BATCH_EVENTS}, {kind}", results[kind], GOALS_PER_S[keyed]
    rate = _median(ours, "rate")
    raw = (
        f"{_median(ours, 'cpu_us'):.1f} us CPU an event, {_median(ours, 'cores'):.0%} of a core, "
        f"p50 of a batch {_median(ours, 'p50_ms'):.0f} ms"
    )
    rows = [
        Row(name=name, goal=f"{goal_per_s:,}/s", result=f"{rate:,.0f}/s", met=rate >= goal_per_s, raw=raw)
    ]
    for way, goal in GOALS.items():
        ratio, by_cpu = _ratio(ours, results[way], "rate"), _ratio(results[way], ours, "cpu_us")
        result = f"{ratio:.2f} (CPU {by_cpu:.2f})"
        rows.append(Row(name=f"{name}, of {_BARE[way]}", goal=f"{goal}", result=result, met=ratio >= goal))
    return rows


def _bare_row(way: str, results: list[Result], record_bytes: float) -> Row:
    return Row(
        name=f"bare aiokafka: {_BARE[way]}",
        result=f"{_median(results, 'rate'):,.0f}/s",
        raw=f"{_median(results, 'cpu_us'):.1f} us CPU a record of {record_bytes:.0f} bytes",
    )


def _ratio(these: list[Result], those: list[Result], field: str) -> float:
    return median(this[field] / that[field] for this, that in zip(these, those, strict=True))


def _median(results: list[Result], field: str) -> float:
    return median(result[field] for result in results)


def _java(here: KafkaSite, records: int, record_bytes: int) -> Row:
    """Kafka's own producer benchmark, with its defaults but for acknowledgement by all."""
    command = [*java(fetch_jars()), "-Xmx256m", "org.apache.kafka.tools.ProducerPerformance"]
    sizes = ["--num-records", str(records), "--record-size", str(record_bytes), "--throughput", "-1"]
    properties = ["--bootstrap-server", here.bootstrap, "--command-property", "acks=all"]
    ended = subprocess.run(
        [*command, "--topic", TOPIC, *sizes, *properties],
        capture_output=True,
        text=True,
        timeout=_JAVA_MAX_S,
        check=False,
    )
    found = re.findall(r"([\d.]+) records/sec .*?([\d.]+) ms avg latency", ended.stdout)
    if ended.returncode or not found:
        raise RuntimeError(f"Kafka's producer benchmark: {ended.stdout[-500:]}{ended.stderr[-500:]}")
    rate, latency_ms = map(float, found[-1])
    return Row(
        name="Kafka's own producer benchmark (Java), 16 KiB batches",
        result=f"{rate:,.0f}/s",
        raw=f"{records:,} records of {record_bytes} bytes, {latency_ms:.0f} ms on average",
    )
