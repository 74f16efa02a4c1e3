"""Filters: twenty workflows' held against one event, beside reading the event's JSON.

Also filters within every limit that ask as much as they can, and events made for them: a gateway is
everybody's. CPU time of this thread, which others on the machine do not lengthen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from atlas.core import strict_json
from atlas.core.filter_matching import Filters
from atlas.core.filters import FILTER_PATHS_MAX, check_filter
from scripts.bench_lib.event import EVENT
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

GOAL_US: Final = 20.0
WORKFLOWS: Final = 20
#: What hostile filters may cost, in readings of the event.
HOSTILE_RATIO: Final = 10.0
_TURNS: Final = 2_000

_TYPES: Final = ("order.", "order.f", "user.", "invoice.paid")
_REGIONS: Final = ("eu-west-1", "us-east-1", "ap-south-1")


def _shared(number: int) -> dict[str, Any]:
    """The paths that the others ask about too, another question each."""
    return {
        "type": [{"prefix": _TYPES[number % 4]}, "order.fulfilled"],
        "data.total_cents": [{"numeric": [">=", number, "<", 100_000 - number]}],
        "metadata.region": [f"region-{number}", *_REGIONS],
    }


def _array(number: int) -> dict[str, Any]:
    """A fourth, through an array."""
    return {**_shared(number), "data.items.sku": [{"anything_but": [f"SKU-{number}"]}]}


def _own(number: int) -> dict[str, Any]:
    """One path that nobody else asks about."""
    return {"type": ["order.fulfilled"], f"data.customer.field{number}": [{"exists": False}]}


_KINDS: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "three paths in common": _shared,
    "four, one through an array": _array,
    "one in common, one of its own": _own,
}


def _absent(number: int) -> dict[str, Any]:
    return {f"data.a.k{number}_{i}": [{"exists": False}] for i in range(FILTER_PATHS_MAX)}


def _prefixes(number: int) -> dict[str, Any]:
    asked = [{"prefix": f"{number:02d}{i:02d}"} for i in range(25)]
    return {f"data.{key}": [*asked, "zz"] for key in "abcdef"}


#: Of events: their data, and what is asked of them.
_HOSTILE: Final[Mapping[str, tuple[Callable[[int], dict[str, Any]], dict[str, Any]]]] = {
    "200 paths through 80,000 empty arrays": (_absent, {"a": [[[[]] * 100] * 100] * 8}),
    "3,000 prefixes and 600 strings": (_prefixes, {key: ["zz"] * 100 for key in "abcdef"}),
}


def measure(plan: Plan, _: Path) -> list[Row]:
    """All of them match, so each is gone through to its end. Medians over the rounds."""
    body = orjson.dumps(EVENT)
    return [
        *(_row(name, kind, plan.rounds, body) for name, kind in _KINDS.items()),
        *(_hostile(name, *given, plan.rounds) for name, given in _HOSTILE.items()),
    ]


def _row(name: str, kind: Callable[[int], dict[str, Any]], rounds: int, body: bytes) -> Row:
    filters = Filters([kind(number) for number in range(WORKFLOWS)])
    parts = (EVENT["type"], EVENT["actor"], EVENT["metadata"], EVENT["data"])
    if filters.passed(*parts) != (1 << WORKFLOWS) - 1:
        raise RuntimeError("a filter of the bench does not match")
    ours, read = [], []
    for _ in range(rounds):
        read.append(_us(lambda: orjson.loads(body)))
        ours.append(_us(lambda: filters.passed(*parts)))
    us = median(ours)
    return Row(
        name=f"filters of {WORKFLOWS} workflows, {name}",
        goal=f"{GOAL_US:.0f} us",
        result=f"{us:.1f} us",
        met=us <= GOAL_US,
        raw=f"an event; {us / median(read):.1f} x reading its JSON once, {median(read):.1f} us",
    )


def _hostile(name: str, kind: Callable[[int], dict[str, Any]], data: dict[str, Any], rounds: int) -> Row:
    definitions = [kind(number) for number in range(WORKFLOWS)]
    for definition in definitions:
        check_filter(definition)
    filters = Filters(definitions)
    body = orjson.dumps({**EVENT, "data": data})
    decoded = strict_json.read(body).value  # arrays of its own, where `data` repeats one
    ours, read = [], []
    for _ in range(rounds):
        read.append(_us(lambda: strict_json.read(body).value, 1))
        ours.append(_us(lambda: filters.passed(EVENT["type"], None, None, decoded["data"]), 1))
    ratio = median(ours) / median(read)
    return Row(
        name=f"filters of {WORKFLOWS} workflows, {name}",
        goal=f"{HOSTILE_RATIO:.0f} x reading",
        result=f"{ratio:.1f} x",
        met=ratio <= HOSTILE_RATIO,
        raw=f"{median(ours):,.0f} us an event of {len(body):,} bytes; reading it, {median(read):,.0f} us",
    )


def _us(turn: Callable[[], object], turns: int = _TURNS) -> float:
    started_s = time.thread_time()
    for _ in range(turns):
        turn()
    return (time.thread_time() - started_s) / turns * 1e6
