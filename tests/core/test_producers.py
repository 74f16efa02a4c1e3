"""Producers in the control fold: whose turn it is, and which are still to be known."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.commands import OpenProducer, decode_command, encode_command
from atlas.core.control import ControlState
from atlas.core.control_operations import PRODUCERS_KEPT_MAX, PRODUCERS_KEPT_MS
from atlas.core.entities import Producer
from atlas.core.errors import ApiError
from atlas.core.facts import CONTROL_SCHEMA

_numbers = count()


def opened(state: ControlState, index: str, at_ms: int) -> Producer | ApiError:
    """Fold one, as it comes from the log."""
    producer = Producer(producer_id=next(_numbers), epoch=0, index=index, opened_at_ms=at_ms)
    command = OpenProducer(id=f"cmd_{producer.producer_id}", at_ms=at_ms, producer=producer)
    refusal = state.refusal(command)
    decided = state.apply(decode_command(encode_command(command), CONTROL_SCHEMA), 0)
    assert (refusal is not None) == isinstance(decided, ApiError)
    assert isinstance(decided, Producer | ApiError)
    return decided


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_an_index_that_another_followed_opens_no_producer_any_more(indexes: list[str]) -> None:
    state = ControlState()
    turns: list[str] = []
    for index in indexes:
        decided = opened(state, index, 0)
        if index in turns[:-1]:
            assert isinstance(decided, ApiError)
        else:
            assert state.producers[-1] == decided
            turns += [index] if index not in turns else []
        assert state.producers[-1].index == turns[-1]
    order = [producer.index for producer in state.producers]
    assert order == sorted(order, key=turns.index)


def test_a_producer_is_known_for_a_day_and_more_after_the_next_came() -> None:
    state = ControlState()
    for at_ms, index in [(0, "a"), (PRODUCERS_KEPT_MS * 5, "b"), (PRODUCERS_KEPT_MS * 6 - 1, "c")]:
        opened(state, index, at_ms)
    assert [producer.index for producer in state.producers] == ["a", "b", "c"]
    opened(state, "d", PRODUCERS_KEPT_MS * 6)
    assert [producer.index for producer in state.producers] == ["b", "c", "d"]


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_are_known_and_no_more(more: int) -> None:
    state = ControlState()
    for number in range(PRODUCERS_KEPT_MAX + more):
        opened(state, f"{number}", number)
    assert len(state.producers) == PRODUCERS_KEPT_MAX
    assert state.producers[0].index == f"{more}"
