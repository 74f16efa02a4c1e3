"""Invariant 3 at the receivers: where a workflow is ordered, events of a key come one after another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.invariants_history import History, LogRecord, Rule, Violation


def order_reaches_receivers(history: History) -> Iterator[Violation]:
    """3. First attempts only: one that was cut off or repeated may come again at any time."""
    first: dict[tuple[str, str], int] = {}
    for number, arrival in enumerate(history.arrivals):
        first.setdefault((arrival.event_id, arrival.target), number)
    lines: dict[tuple[str, int, str, str], list[LogRecord]] = defaultdict(list)
    for record in history.records:
        if record.is_event:
            for target in record.json.get("ordered_routes", ()):
                lines[record.topic, record.partition, record.json["ordering_key"], target].append(record)
    for (_, _, key, target), records in lines.items():
        newest, before = -1, ""
        for record in sorted(records, key=lambda each: each.offset):
            came = first.get((record.json["id"], target))
            if came is None:
                continue
            if came < newest:
                said = f"{target}, key {key}: {record.json['id']} before {before}"
                yield Violation(Rule.RECEIVED_OUT_OF_ORDER, said)
            elif came > newest:
                newest, before = came, record.json["id"]
