"""How much of everything is measured."""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Plan(Struct, frozen=True, kw_only=True):
    """Sizes of one run.

    Attributes:
        rounds, round_s: of raw limit and measured thing in turns.
        steady_s: how long 200 events a second are sent.
        rebuild_events: log that is rebuilt in the rounds; `rebuild_whole_events`: once, at the end.
        end_to_end_events: single POSTs that are delivered, per round.
        memory_events: sent and delivered before memory is looked at.
        parked_events: parked before memory is looked at; `backlog_events`: before another is measured.
        java_records: of Kafka's own producer benchmark.
    """

    rounds: int
    round_s: float
    steady_s: float
    rebuild_events: int
    rebuild_whole_events: int
    end_to_end_events: int
    memory_events: int
    parked_events: int
    backlog_events: int
    java_records: int


FULL: Final = Plan(
    rounds=7,
    round_s=1.5,
    steady_s=20.0,
    rebuild_events=20_000,
    rebuild_whole_events=100_000,
    end_to_end_events=10_000,
    memory_events=200_000,
    parked_events=1_000_000,
    backlog_events=100_000,
    java_records=500_000,
)
QUICK: Final = Plan(
    rounds=3,
    round_s=0.3,
    steady_s=2.0,
    rebuild_events=5_000,
    rebuild_whole_events=0,
    end_to_end_events=2_000,
    memory_events=10_000,
    parked_events=20_000,
    backlog_events=20_000,
    java_records=50_000,
)
