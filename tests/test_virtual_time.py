"""The virtual loop itself: other tests stand on it."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from tests.virtual_time import (
    EPOCH_MS,
    Deadlock,
    VirtualClock,
    VirtualLoop,
    VirtualTimeLimit,
    pass_time,
    run_virtual,
    settle,
    virtual_time,
)

DAY_S = 86_400.0


def test_a_day_takes_no_time_and_ends_where_it_should() -> None:
    async def main(clock: VirtualClock) -> tuple[float, int]:
        await pass_time(DAY_S)
        return clock.monotonic_s(), clock.now_ms()

    assert run_virtual(main) == (DAY_S, EPOCH_MS + 86_400_000)


@virtual_time
async def test_the_decorator_gives_the_clock_and_fixtures(clock: VirtualClock, tmp_path: Path) -> None:
    assert isinstance(tmp_path, Path)
    assert clock.now_ms() == EPOCH_MS


def test_timers_fire_in_order_of_time_then_of_setting() -> None:
    async def main(clock: VirtualClock) -> list[tuple[float, str]]:
        fired: list[tuple[float, str]] = []

        async def sleeper(name: str, delay_s: float) -> None:
            await pass_time(delay_s)
            fired.append((clock.monotonic_s(), name))

        await asyncio.gather(sleeper("c", 3), sleeper("a", 1), sleeper("b1", 2), sleeper("b2", 2))
        return fired

    first = run_virtual(main)
    assert first == [(1.0, "a"), (2.0, "b1"), (2.0, "b2"), (3.0, "c")]
    assert run_virtual(main) == first


def test_ready_work_comes_before_time() -> None:
    async def main(clock: VirtualClock) -> float:
        for _ in range(1_000):
            await asyncio.sleep(0)
        await settle()
        return clock.monotonic_s()

    assert run_virtual(main) == 0.0


def test_a_deadline_is_met_exactly() -> None:
    async def main(clock: VirtualClock) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(12.5):
                await asyncio.Event().wait()
        return clock.monotonic_s()

    assert run_virtual(main) == 12.5


def test_a_deadlock_says_who_waits_where() -> None:
    async def waits_for_ever(clock: VirtualClock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"waits_for_ever.*test_virtual_time\.py:\d+"):
        run_virtual(waits_for_ever)


def test_timers_alone_do_not_keep_a_stuck_run_going() -> None:
    async def main(clock: VirtualClock) -> None:
        async def heartbeat() -> None:
            while True:
                await pass_time(1)

        beating = asyncio.create_task(heartbeat(), name="heartbeat")
        await asyncio.Event().wait()
        beating.cancel()

    with pytest.raises(VirtualTimeLimit, match="heartbeat"):
        run_virtual(main, limit_s=100)


def test_milliseconds_do_not_lose_one_to_rounding() -> None:
    async def main(clock: VirtualClock) -> list[int]:
        seen = []
        for _ in range(1_000):
            await pass_time(0.001)
            seen.append(clock.now_ms() - EPOCH_MS)
        return seen

    assert run_virtual(main) == list(range(1, 1_001))


@virtual_time
async def test_the_wall_can_jump_and_the_monotonic_clock_does_not_notice(clock: VirtualClock) -> None:
    await pass_time(10)
    clock.jump(-DAY_S)
    assert clock.now_ms() == EPOCH_MS + 10_000 - 86_400_000
    clock.jump(2 * DAY_S)
    assert clock.now_ms() == EPOCH_MS + 10_000 + 86_400_000
    assert clock.monotonic_s() == 10


@virtual_time
async def test_executor_work_runs_inline(clock: VirtualClock) -> None:
    assert await asyncio.to_thread(threading.current_thread) is threading.main_thread()
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)


@virtual_time
async def test_time_stands_still_for_real_io(clock: VirtualClock) -> None:
    assert isinstance(clock.loop, VirtualLoop)
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        threading.Timer(0.02, far.send, [b"x"]).start()
        with clock.loop.real_io():
            async with asyncio.timeout(5):
                assert await clock.loop.sock_recv(near, 1) == b"x"
        assert clock.monotonic_s() == 0


async def test_time_does_not_pass_on_a_real_loop() -> None:
    with pytest.raises(AssertionError, match="virtual time only"):
        await pass_time(1)
