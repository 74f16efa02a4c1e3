"""Idempotency keys of the embedded log over time: 24 hours at least, and gone by whole buckets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from atlas.adapters.embedded_keys import BUCKET_MS, EXPIRE_KEYS_MAX, KEY_LIFETIME_MS
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.system_clock import SystemClock
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.clock import Clock
from atlas.ports.log import NewRecord, TopicPartition
from tests.adapters.tracing import traced
from tests.virtual_time import EPOCH_MS, VirtualClock, pass_time, virtual_time

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S


async def opened(path: Path, clock: Clock) -> EmbeddedLog:
    log = await EmbeddedLog.open(path / "log.db", clock, threads=False)
    await log.create_topic("t", 1, None)
    return log


def candidate(name: str, response: bytes = b"frozen") -> Candidate:
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return Candidate("t", 0, NewRecord(b"value"), response, key, b"hash")


def machine(clock: VirtualClock, steps_s: list[float]) -> SystemClock:
    """The clock of a process on a machine whose wall clock is set now and then."""
    return SystemClock(
        steps_s.append, wall_ms=clock.now_ms, steady_ms=lambda: int(clock.monotonic_s() * 1_000)
    )


async def verdict(log: EmbeddedLog, name: str) -> Verdict:
    [outcome] = await log.accept([candidate(name, b"another")])
    if outcome.verdict is Verdict.REPLAYED:
        assert outcome.response == b"frozen"
    return outcome.verdict


def age_until_free_s(tmp_path: Path, accepted_at_s: float) -> float:
    """How old a key gets taken this long after its bucket began, if somebody clears up often."""
    age_s = 0.0

    @virtual_time
    async def scenario(clock: VirtualClock) -> None:
        nonlocal age_s
        clock.epoch_ms = EPOCH_MS // BUCKET_MS * BUCKET_MS
        log = await opened(tmp_path, clock)
        await pass_time(accepted_at_s)
        one = candidate("k")
        await log.accept([one])
        while await log.find(one.dedup_key or b"", b"hash") is not None:
            await pass_time(HOUR_S / 2)
            age_s += HOUR_S / 2
            await log.expire_keys()
        await log.close()

    scenario()
    return age_s


@pytest.mark.parametrize("accepted_at_s", [0, 1, 3 * HOUR_S, 6 * HOUR_S - 0.001])
def test_a_key_lives_for_a_day_and_not_much_longer(tmp_path: Path, accepted_at_s: float) -> None:
    assert DAY_S <= age_until_free_s(tmp_path, accepted_at_s) <= DAY_S + (BUCKET_MS / 1_000)


@virtual_time
async def test_a_bucket_goes_at_its_time_and_not_a_millisecond_before(
    clock: VirtualClock, tmp_path: Path
) -> None:
    clock.epoch_ms = EPOCH_MS // BUCKET_MS * BUCKET_MS
    log = await opened(tmp_path, clock)
    await log.accept([candidate("k")])
    await pass_time((BUCKET_MS + KEY_LIFETIME_MS - 1) / 1_000)
    await log.expire_keys()
    assert await verdict(log, "k") is Verdict.REPLAYED
    await pass_time(0.001)
    await log.expire_keys()
    assert await verdict(log, "k") is Verdict.APPENDED
    await log.close()


@virtual_time
async def test_no_key_is_judged_by_its_age(clock: VirtualClock, tmp_path: Path) -> None:
    log = await opened(tmp_path, clock)
    await log.accept([candidate("k")])
    await pass_time(5 * DAY_S)
    assert await verdict(log, "k") is Verdict.REPLAYED
    await log.close()


@virtual_time
async def test_a_bucket_is_dropped_in_bounded_steps_between_appends(
    clock: VirtualClock, tmp_path: Path
) -> None:
    log = await opened(tmp_path, clock)
    many = 5 * EXPIRE_KEYS_MAX // 2
    await log.accept([candidate(f"k{number}") for number in range(many)])
    await pass_time(2 * DAY_S)
    await log.accept([candidate("young")])
    with traced(log) as trace:
        await trace.append_beside(log.expire_keys())
    steps = trace.changes("DELETE FROM idempotency_")
    assert steps == [EXPIRE_KEYS_MAX, EXPIRE_KEYS_MAX, EXPIRE_KEYS_MAX // 2, 0]
    assert trace.tasks_between_appends_max() <= 1
    assert [table for table in tables(log) if table.startswith("idempotency_")] != []
    assert await verdict(log, "young") is Verdict.REPLAYED
    assert await verdict(log, "k0") is Verdict.APPENDED
    await log.close()


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S, 40 * DAY_S])
def test_a_clock_that_jumps_drops_nothing_early(tmp_path: Path, jump_s: float) -> None:
    @virtual_time
    async def scenario(clock: VirtualClock) -> None:
        steps: list[float] = []
        log = await opened(tmp_path, machine(clock, steps))
        await log.accept([candidate("before")])
        clock.jump(jump_s)
        await log.accept([candidate("after")])
        for _ in range(24):
            await log.expire_keys()
            assert await verdict(log, "before") is Verdict.REPLAYED
            assert await verdict(log, "after") is Verdict.REPLAYED
            await pass_time(HOUR_S - 1)
        assert steps == [jump_s]
        await pass_time(8 * HOUR_S)
        await log.expire_keys()
        assert await verdict(log, "before") is Verdict.APPENDED
        await log.close()

    scenario()


@virtual_time
async def test_a_clock_set_back_between_two_runs_drops_nothing_early(
    clock: VirtualClock, tmp_path: Path
) -> None:
    log = await opened(tmp_path, machine(clock, []))
    await log.accept([candidate("before")])
    newest_ms = log.newest_timestamp_ms
    await log.close()
    clock.jump(-3 * DAY_S)
    second = machine(clock, [])
    log = await opened(tmp_path, second)
    assert log.newest_timestamp_ms == newest_ms
    second.floor(log.newest_timestamp_ms)
    await log.accept([candidate("after")])
    await pass_time(DAY_S)
    await log.expire_keys()
    assert await verdict(log, "before") is Verdict.REPLAYED
    assert await verdict(log, "after") is Verdict.REPLAYED
    assert (await log.fetch(TopicPartition("t", 0), 1)).timestamp_ms >= newest_ms
    await log.close()


@virtual_time
async def test_keys_of_many_buckets_are_all_found(clock: VirtualClock, tmp_path: Path) -> None:
    log = await opened(tmp_path, clock)
    for number in range(12):
        assert await verdict(log, f"k{number}") is Verdict.APPENDED
        await pass_time(3 * HOUR_S)
        await log.expire_keys()
    names = [candidate(f"k{number}", b"another") for number in range(12)]
    outcomes = await log.accept(names)
    young = [Outcome(Verdict.REPLAYED, b"another")] * 8  # 24 of 36 hours
    assert outcomes[4:] == young
    await log.close()


def tables(log: EmbeddedLog) -> list[str]:
    rows = log._store._db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return [name for (name,) in rows]
