"""The ledger of a run: how much was done, and what became of it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from tests.faults_run import Run
from tests.invariants_history import OK, History, Rule, Violation


def ledger(run: Run, violations: Sequence[Violation]) -> list[tuple[str, str]]:
    """What to show of the kill loop, line by line."""
    history = run.history
    kills = ", ".join(f"{count} {moment.value}" for moment, count in run.killed.items())
    return [
        ("seed", str(run.plan.seed)),
        ("kills (-9)", f"{sum(run.killed.values())}: {kills}"),
        *became(history, violations),
        ("recovery", f"{durations(run.starts_s)} from a start to readiness"),
        ("healed", "never" if history.healed_s is None else f"{history.healed_s:.1f} s after the last start"),
        ("rebuilt", f"{run.rebuild_s:.1f} s with the start"),
        ("invariants broken", str(len(violations))),
        ("other faults", str(len(run.faults))),
    ]


def became(history: History, violations: Sequence[Violation]) -> list[tuple[str, str]]:
    """How much was done in a run, and what became of it."""
    outcomes = Counter(each.outcome for each in history.tries)
    sent = {each.logical for each in history.tries}
    accepted = {each.logical for each in history.tries if each.outcome == OK}
    in_log = sum(record.is_event for record in history.records)
    routes = Counter(route["status"] for shown in history.shown.values() for route in shown.event["attempts"])
    received = Counter((arrival.delivery_id, arrival.attempt) for arrival in history.arrivals)
    broken = Counter(violation.rule for violation in violations)
    return [
        ("operations", f"{len(sent):,} events in {len(history.tries):,} tries"),
        ("tries", ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))),
        ("accepted", f"{len(accepted):,}"),
        ("in the log", f"{in_log:,} events among {len(history.records):,} records"),
        ("delivered", f"{routes['delivered']:,} of {routes.total():,} routes; {routes['failed']:,} failed"),
        (
            "received",
            f"{len(history.arrivals):,} requests, {received.total() - len(received):,} of them repeats",
        ),
        ("lost", str(broken[Rule.LOST])),
        ("doubled", str(broken[Rule.DOUBLED] + broken[Rule.ID_TWICE])),
    ]


def table(lines: Sequence[tuple[str, str]]) -> Table:
    """The ledger for a terminal."""
    made = Table(show_header=False, box=None)
    for name, value in lines:
        made.add_row(name, value)
    return made


def durations(durations_s: Sequence[float]) -> str:
    """Median and longest."""
    if not durations_s:
        return "none"
    return f"{statistics.median(durations_s):.2f} s (median), {max(durations_s):.2f} s (longest)"
