"""Filters: twenty workflows' held against one event, beside reading the event's JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from atlas.core.filters import Filters
from scripts.bench_lib.event import EVENT
from scripts.bench_lib.plan import Plan
from scripts.bench_lib.report import Row

GOAL_US: Final = 20.0
WORKFLOWS: Final = 20
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


def measure(plan: Plan, _: Path) -> list[Row]:
    """All of them match, so each is gone through to its end. Medians over the rounds."""
    body = orjson.dumps(EVENT)
    return [_row(name, kind, plan.rounds, body) for name, kind in _KINDS.items()]


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
        raw=f"an event; reading its JSON once takes {median(read):.1f} us",
    )


def _us(turn: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    for _ in range(_TURNS):
        turn()
    return (time.perf_counter() - started_s) / _TURNS * 1e6
