"""The machine's clock: small drift is followed, steps are refused, and time never goes back."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.system_clock import STEP_MAX_MS, SystemClock

START_MS = 1_800_000_000_000
DAY_MS = 86_400_000


class Machine:
    """A wall clock and a steady clock under the test's control, and the clock that reads them."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.steady_ms = 77_000
        self.steps_s: list[float] = []
        self.clock = SystemClock(
            self.steps_s.append, wall_ms=lambda: self.wall_ms, steady_ms=lambda: self.steady_ms
        )

    def pass_ms(self, ms: int, drift_ms: int = 0) -> None:
        self.steady_ms += ms
        self.wall_ms += ms + drift_ms


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_shows_the_wall_time(machine: Machine) -> None:
    machine.pass_ms(1_234)
    assert machine.clock.now_ms() == START_MS + 1_234


def test_drift_is_followed_however_far_it_adds_up(machine: Machine) -> None:
    for _ in range(100):
        machine.pass_ms(60_000, drift_ms=1_000)
        assert machine.clock.now_ms() == machine.wall_ms
    assert machine.steps_s == []


def test_backward_drift_makes_it_stand_still(machine: Machine) -> None:
    before = machine.clock.now_ms()
    machine.pass_ms(0, drift_ms=-3_000)
    assert machine.clock.now_ms() == before
    machine.pass_ms(2_999)
    assert machine.clock.now_ms() == before
    machine.pass_ms(2)
    assert machine.clock.now_ms() == before + 1 == machine.wall_ms


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_step_followed_and_the_smallest_refused(machine: Machine, sign: int) -> None:
    machine.pass_ms(10_000, drift_ms=sign * STEP_MAX_MS)
    machine.clock.now_ms()
    assert machine.steps_s == []
    machine.pass_ms(10_000, drift_ms=sign * (STEP_MAX_MS + 1))
    machine.clock.now_ms()
    assert machine.steps_s == [sign * (STEP_MAX_MS + 1) / 1_000]


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS])
def test_a_step_is_refused_and_reported_once(machine: Machine, jump_ms: int) -> None:
    machine.clock.now_ms()
    machine.wall_ms += jump_ms
    for _ in range(3):
        machine.pass_ms(1_000)
        machine.clock.now_ms()
    assert machine.clock.now_ms() == START_MS + 3_000
    assert machine.steps_s == [jump_ms / 1_000]
    assert machine.clock.refused_step_s == jump_ms / 1_000


def test_a_step_on_top_of_a_step_is_reported_too(machine: Machine) -> None:
    machine.wall_ms += DAY_MS
    machine.clock.now_ms()
    machine.wall_ms += DAY_MS
    machine.clock.now_ms()
    assert machine.steps_s == [86_400, 172_800]


def test_a_wall_clock_put_right_again_is_followed_again(machine: Machine) -> None:
    machine.wall_ms += DAY_MS
    machine.clock.now_ms()
    machine.wall_ms -= DAY_MS
    machine.pass_ms(5_000, drift_ms=40)
    assert machine.clock.now_ms() == machine.wall_ms
    assert machine.clock.refused_step_s == 0


def test_the_floor_raises_a_clock_that_was_set_back(machine: Machine) -> None:
    machine.clock.floor(START_MS + DAY_MS)
    assert machine.clock.now_ms() == START_MS + DAY_MS
    machine.pass_ms(60_000)
    assert machine.clock.now_ms() == START_MS + DAY_MS + 60_000
    assert machine.steps_s == [-86_400]


def test_a_floor_just_ahead_is_waited_for(machine: Machine) -> None:
    machine.clock.floor(START_MS + 2_000)
    machine.pass_ms(1_500)
    assert machine.clock.now_ms() == START_MS + 2_000
    machine.pass_ms(1_500)
    assert machine.clock.now_ms() == START_MS + 3_000
    assert machine.steps_s == []


def test_a_floor_in_the_past_changes_nothing(machine: Machine) -> None:
    machine.clock.floor(START_MS - DAY_MS)
    assert machine.clock.now_ms() == START_MS


@given(st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(-(10**8), 10**8)), max_size=30))
def test_it_never_steps_back_nor_leaps(moves: list[tuple[int, int]]) -> None:
    machine = Machine()
    seen = machine.clock.now_ms()
    for passed_ms, drift_ms in moves:
        machine.pass_ms(passed_ms, drift_ms)
        now = machine.clock.now_ms()
        assert 0 <= now - seen <= passed_ms + 2 * STEP_MAX_MS
        seen = now


def test_the_real_one_agrees_with_the_machine_from_many_threads() -> None:
    clock = SystemClock()
    back: list[int] = []

    def read() -> None:
        last = 0
        for _ in range(2_000):
            now = clock.now_ms()
            if now < last:
                back.append(last - now)
            last = now

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert back == []
    assert abs(clock.now_ms() - time.time() * 1_000) < STEP_MAX_MS
    assert clock.monotonic_s() <= clock.monotonic_s()
