"""Members of the embedded log that fall silent: the group gives their partitions to others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from atlas.adapters.embedded_group import BEAT_EVERY_S, SESSION_TIMEOUT_S, EmbeddedMember
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.core.errors import StaleWriter
from atlas.ports.log import Member, TopicPartition
from tests.virtual_time import VirtualClock, pass_time, settle, virtual_time

ALL = frozenset(range(4))


async def opened(path: Path, clock: VirtualClock) -> EmbeddedLog:
    log = await EmbeddedLog.open(path / "log.db", clock, threads=False)
    await log.create_topic("t", 4, None)
    return log


def beat(member: Member, beating: bool) -> None:
    assert isinstance(member, EmbeddedMember)
    member.beating = beating


@virtual_time
async def test_a_silent_member_loses_its_partitions_after_its_session(
    clock: VirtualClock, tmp_path: Path
) -> None:
    log = await opened(tmp_path, clock)
    paused, other = await log.join("g", "t"), await log.join("g", "t")
    await settle()
    held = paused.assignment()
    assert len(held) == 2
    beat(paused, False)
    silent_since_s = clock.monotonic_s()
    await pass_time(SESSION_TIMEOUT_S - 1)
    assert (paused.assignment(), len(other.assignment())) == (held, 2)
    assert paused.heartbeat_age_s() >= SESSION_TIMEOUT_S - 1
    async with asyncio.timeout(1 + 2 * BEAT_EVERY_S):
        assert await other.assignment_changed(other.assignment()) == ALL
    assert clock.monotonic_s() - silent_since_s > SESSION_TIMEOUT_S
    await log.close()


@virtual_time
async def test_who_was_given_up_cannot_commit_and_does_not_know_it(
    clock: VirtualClock, tmp_path: Path
) -> None:
    log = await opened(tmp_path, clock)
    paused, other = await log.join("g", "t"), await log.join("g", "t")
    await settle()
    held = paused.assignment()
    beat(paused, False)
    await pass_time(SESSION_TIMEOUT_S + 2 * BEAT_EVERY_S)
    await other.commit(dict.fromkeys(ALL, 50))
    assert paused.assignment() == held  # nobody told it: it is paused
    with pytest.raises(StaleWriter):
        await paused.commit(dict.fromkeys(held, 7))
    for partition in range(4):
        assert await log.committed("g", TopicPartition("t", partition)) == 50
    await log.close()


@virtual_time
async def test_who_wakes_up_joins_again(clock: VirtualClock, tmp_path: Path) -> None:
    log = await opened(tmp_path, clock)
    paused, other = await log.join("g", "t"), await log.join("g", "t")
    await settle()
    beat(paused, False)
    await pass_time(SESSION_TIMEOUT_S + 2 * BEAT_EVERY_S)
    beat(paused, True)
    await pass_time(BEAT_EVERY_S)
    await settle()
    assert paused.assignment() | other.assignment() == ALL
    assert len(paused.assignment()) == len(other.assignment()) == 2
    assert paused.heartbeat_age_s() <= BEAT_EVERY_S
    await paused.commit(dict.fromkeys(paused.assignment(), 9))
    await log.close()


@virtual_time
async def test_a_lone_silent_member_keeps_what_nobody_else_wants(clock: VirtualClock, tmp_path: Path) -> None:
    log = await opened(tmp_path, clock)
    member = await log.join("g", "t")
    await settle()
    beat(member, False)
    await pass_time(SESSION_TIMEOUT_S * 3)
    assert member.heartbeat_age_s() >= SESSION_TIMEOUT_S * 3 - BEAT_EVERY_S
    late = await log.join("g", "t")
    await settle()
    assert late.assignment() == ALL
    await log.close()


@virtual_time
async def test_members_that_beat_are_left_alone_for_days(clock: VirtualClock, tmp_path: Path) -> None:
    log = await opened(tmp_path, clock)
    members = [await log.join("g", "t") for _ in range(2)]
    await settle()
    before = [member.assignment() for member in members]
    for _ in range(24):
        await pass_time(600)
        clock.jump(-86_400)
        assert [member.assignment() for member in members] == before
    await log.close()


@virtual_time
async def test_who_stays_keeps_what_it_holds(clock: VirtualClock, tmp_path: Path) -> None:
    log = await opened(tmp_path, clock)
    members = []
    for _ in range(3):
        members.append(await log.join("g", "t"))
        await settle()
    leaver, *stayers = members
    before = [member.assignment() for member in stayers]
    await leaver.leave()
    assert all(old < member.assignment() for old, member in zip(before, stayers, strict=True))
    assert frozenset().union(*(member.assignment() for member in stayers)) == ALL
    await log.close()
