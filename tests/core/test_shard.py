"""Takeover of a shard: whatever the owner had written when it died, the next one misses nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atlas.core.facts import (
    DecidedRoute,
    DeliveryAttempted,
    DeliveryStarted,
    LifecycleFact,
    ShardCheckpoint,
    ShardClaimed,
)
from atlas.core.shard import DECIDED_MAX, ShardFold, Undecided

TOPIC = "atlas.live.ws_1.orders"
TARGETS = ("wf_a", "wf_b")


def claimed() -> ShardClaimed:
    return ShardClaimed(owner="o", at_ms=1)


def attempted(epoch: int, offset: int, target: str) -> DeliveryAttempted:
    return DeliveryAttempted(
        epoch=epoch, event_id=f"evt_{offset}", topic=TOPIC, offset=offset, target=target, attempt=1,
        outcome="delivered", started_at_ms=1, completed_at_ms=1, duration_ms=0,
    )  # fmt: skip


def fold(facts: list[LifecycleFact], start: int = 0) -> ShardFold:
    shard = ShardFold()
    for offset, fact in enumerate(facts[start:], start):
        shard.apply(offset, fact)
    return shard


def test_facts_of_an_older_epoch_are_void() -> None:
    shard = fold([claimed(), claimed(), attempted(0, 5, "wf_a"), attempted(1, 6, "wf_a")])
    assert shard.decided == {(TOPIC, 6, "wf_a")}
    assert shard.epoch == 1


def test_a_started_attempt_decides_nothing() -> None:
    started = DeliveryStarted(
        epoch=0, event_id="evt_5", topic=TOPIC, offset=5, target="wf_a", attempt=1, started_at_ms=1
    )
    assert fold([claimed(), started]).decided == set()


def test_folding_may_begin_at_a_checkpoint() -> None:
    route = DecidedRoute(TOPIC, 9, "wf_b")
    point = ShardCheckpoint(epoch=0, next_offsets={TOPIC: 7}, decided=(route,), at_ms=1)
    facts: list[LifecycleFact] = [claimed(), attempted(0, 1, "wf_a"), point, attempted(0, 3, "wf_a")]
    shard = fold([*facts, attempted(0, 8, "wf_a")], start=2)
    assert shard.next_offsets == {TOPIC: 7}
    assert shard.decided == {(TOPIC, 9, "wf_b"), (TOPIC, 8, "wf_a")}


def test_a_checkpoint_that_lands_again_forgets_nothing() -> None:
    """Its append was in doubt, was repeated, and then the first one landed after all."""
    early = ShardCheckpoint(
        epoch=0, next_offsets={TOPIC: 3}, decided=(DecidedRoute(TOPIC, 5, "wf_a"),), at_ms=1
    )
    later = ShardCheckpoint(epoch=0, next_offsets={TOPIC: 6}, decided=(), at_ms=2)
    shard = fold([claimed(), early, attempted(0, 4, "wf_a"), later, attempted(0, 7, "wf_a"), early])
    assert shard.next_offsets == {TOPIC: 6}
    assert shard.decided == {(TOPIC, 7, "wf_a")}


def test_a_checkpoint_that_would_be_too_long_waits() -> None:
    undecided = Undecided()
    undecided.start(TOPIC, 0)
    undecided.read(TOPIC, 0, ["wf_a"])
    for offset in range(1, DECIDED_MAX + 1):
        undecided.read(TOPIC, offset, ["wf_a"])
        undecided.decide(TOPIC, offset, "wf_a")
    full = undecided.checkpoint()
    assert full is not None
    assert len(full[1]) == DECIDED_MAX
    undecided.read(TOPIC, DECIDED_MAX + 1, (), ["wf_a"])
    assert undecided.checkpoint() is None
    undecided.decide(TOPIC, 0, "wf_a")
    assert undecided.checkpoint() == ({TOPIC: DECIDED_MAX + 2}, ())


@given(st.data())
def test_a_takeover_at_any_moment_knows_what_is_decided(data: st.DataObject) -> None:
    """Events are read, routes decided in any order, checkpoints written now and then; the fold of any
    prefix, from any checkpoint in it, agrees with the facts in that prefix."""
    undecided = Undecided()
    undecided.start(TOPIC, 0)
    log: list[LifecycleFact] = [claimed()]
    checkpoints = [0]
    waiting: list[tuple[int, str]] = []
    read = 0
    for step in data.draw(st.lists(st.sampled_from(["read", "decide", "checkpoint"]), max_size=40)):
        if step == "read":
            targets = data.draw(st.sets(st.sampled_from(TARGETS)))
            undecided.read(TOPIC, read, targets)
            waiting += [(read, target) for target in targets]
            read += 1
        elif step == "decide" and waiting:
            offset, target = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            undecided.decide(TOPIC, offset, target)
            log.append(attempted(0, offset, target))
        elif step == "checkpoint" and (known := undecided.checkpoint()) is not None:
            checkpoints.append(len(log))
            log.append(ShardCheckpoint(epoch=0, next_offsets=known[0], decided=known[1], at_ms=1))
    start = data.draw(st.sampled_from(checkpoints))
    shard = fold([*log, claimed()], start)
    facts = {(fact.offset, fact.target) for fact in log if isinstance(fact, DeliveryAttempted)}
    low = shard.next_offsets.get(TOPIC, 0)
    decided = {(offset, target) for _, offset, target in shard.decided}
    assert decided == {fact for fact in facts if fact[0] >= low}
    assert not [route for route in waiting if route[0] < low], "an undecided route would be missed"


def test_of_a_topic_that_has_lost_records_nothing_holds_that_was_said_before() -> None:
    fold = ShardFold()
    fold.apply(0, ShardClaimed(owner="a", at_ms=0))
    said = ShardCheckpoint(
        epoch=0, next_offsets={"t": 50, "u": 9}, decided=(DecidedRoute("t", 55, "wf_a"),), at_ms=0
    )
    fold.apply(1, said)
    assert fold.known() == {"t": 56, "u": 9}
    fold.apply(2, ShardCheckpoint(epoch=0, next_offsets={"t": 3}, decided=(), lost={"t": 56}, at_ms=0))
    assert (fold.next_offsets, fold.decided, fold.read_before) == ({"t": 3, "u": 9}, set(), {"t": 56})
    fold.apply(3, ShardCheckpoint(epoch=0, next_offsets={"t": 20}, decided=(), lost={"t": 56}, at_ms=0))
    assert (fold.next_offsets["t"], fold.read_before) == (20, {"t": 56})
    fold.apply(4, ShardCheckpoint(epoch=0, next_offsets={"t": 56}, decided=(), at_ms=0))
    assert (fold.next_offsets["t"], fold.read_before) == (56, {})
