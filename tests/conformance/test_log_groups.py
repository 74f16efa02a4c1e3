"""What every adapter of the `Log` port promises to consumer groups."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from atlas.core.errors import LogUnavailable, StaleWriter, UnknownTopic
from atlas.ports.log import Member, TopicPartition
from tests.conformance.log_deployments import AT_ONCE_S, Deployment, on_every_log


async def settled(members: Sequence[Member], partitions: int) -> list[frozenset[int]]:
    """The members' assignments, once they share all partitions, none twice."""
    async with asyncio.timeout(AT_ONCE_S * 4):
        while True:
            held = [member.assignment() for member in members]
            if sorted(p for own in held for p in own) == list(range(partitions)):
                return held
            waiting = [
                asyncio.create_task(m.assignment_changed(own)) for m, own in zip(members, held, strict=True)
            ]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()


@on_every_log
async def test_a_lone_member_gets_everything(d: Deployment) -> None:
    topic = await d.topic(4)
    member = await d.log.join("group", topic)
    assert await settled([member], 4) == [frozenset(range(4))]
    assert 0 <= member.heartbeat_age_s() < member.session_timeout_s
    await member.leave()
    assert member.assignment() == frozenset()


@on_every_log
async def test_members_share_evenly_and_inherit_from_who_leaves(d: Deployment) -> None:
    topic = await d.topic(4)
    members: list[Member] = []
    for shares in ([4], [2, 2], [1, 1, 2], [1, 1, 1, 1], [0, 1, 1, 1, 1]):
        members.append(await d.log.join("group", topic))
        await shared(members, shares)
    for shares in ([1, 1, 1, 1], [1, 1, 2], [2, 2], [4]):
        await members.pop(0).leave()
        await shared(members, shares)
    await members[0].leave()


async def shared(members: Sequence[Member], shares: Sequence[int]) -> None:
    async with asyncio.timeout(AT_ONCE_S * 4):
        while sorted(len(own) for own in await settled(members, 4)) != list(shares):
            await members[-1].assignment_changed(members[-1].assignment())


@on_every_log
async def test_who_stays_keeps_what_it_can(d: Deployment) -> None:
    topic = await d.topic(4)
    first = await d.log.join("group", topic)
    await settled([first], 4)
    second = await d.log.join("group", topic)
    await shared([first, second], [2, 2])
    before = first.assignment()
    await second.leave()
    await settled([first], 4)
    assert before < first.assignment()


@on_every_log
async def test_a_new_term_begins_before_others_are_given_anything(d: Deployment) -> None:
    topic = await d.topic(4)
    first = await d.log.join("group", topic)
    await settled([first], 4)
    term = first.term
    second = await d.log.join("group", topic)
    await second.assignment_changed(frozenset())
    assert first.term > term


@on_every_log
async def test_no_two_members_ever_have_the_same_id(d: Deployment) -> None:
    topic = await d.topic(1)
    ids = []
    for _ in range(2):
        ids += [(await d.log.join(group, topic)).id for group in ("one", "one", "two")]
        await d.reopen()
    assert len(set(ids)) == 6


@on_every_log
async def test_groups_do_not_see_each_other(d: Deployment) -> None:
    topic = await d.topic(3)
    source = TopicPartition(topic, 0)
    one, two = await d.log.join("one", topic), await d.log.join("two", topic)
    assert await settled([one], 3) == await settled([two], 3) == [frozenset(range(3))]
    await one.commit({0: 5})
    assert await d.log.committed("one", source) == 5
    assert await d.log.committed("two", source) is None


@on_every_log
async def test_stored_offsets_outlive_member_and_process(d: Deployment) -> None:
    topic = await d.topic(2)
    sources = [TopicPartition(topic, p) for p in range(2)]
    assert await d.log.committed("group", sources[0]) is None
    member = await d.log.join("group", topic)
    await settled([member], 2)
    await member.commit({0: 7, 1: 9})
    await member.commit({1: 12})
    await member.commit({})
    await member.leave()
    for _ in range(2):
        assert [await d.log.committed("group", source) for source in sources] == [7, 12]
        await d.reopen()


@on_every_log
async def test_a_commit_of_what_is_not_held_is_refused_whole(d: Deployment) -> None:
    topic = await d.topic(4)
    first = await d.log.join("group", topic)
    await settled([first], 4)
    await first.commit(dict.fromkeys(range(4), 1))
    second = await d.log.join("group", topic)
    await shared([first, second], [2, 2])
    for member, other in ((first, second), (second, first)):
        own, lost = min(member.assignment()), min(other.assignment())
        with pytest.raises(StaleWriter):
            await member.commit({own: 100, lost: 100})
    await second.leave()
    with pytest.raises(StaleWriter):
        await second.commit({0: 100})
    stored = [await d.log.committed("group", TopicPartition(topic, p)) for p in range(4)]
    assert stored == [1, 1, 1, 1]


@on_every_log
async def test_an_unknown_topic_cannot_be_joined(d: Deployment) -> None:
    with pytest.raises(UnknownTopic):
        await d.log.join("group", "nobody")
    with pytest.raises(UnknownTopic):
        await d.log.join("group", "nobody", alone=True)


@on_every_log
async def test_who_is_alone_holds_everything_at_once(d: Deployment) -> None:
    topic = await d.topic(4)
    sources = [TopicPartition(topic, p) for p in range(4)]
    killed = await d.log.join("group", topic, alone=True)  # it never leaves
    assert killed.assignment() == frozenset(range(4))
    await killed.commit({0: 3})
    member = await d.log.join("group", topic, alone=True)
    assert member.id != killed.id
    assert member.assignment() == frozenset(range(4))
    assert member.heartbeat_age_s() < member.session_timeout_s
    await member.commit({0: 7, 3: 9})
    await member.commit({})
    with pytest.raises(StaleWriter):
        await member.commit({4: 1})
    changed = asyncio.create_task(member.assignment_changed(member.assignment()))
    await asyncio.sleep(0)
    assert not changed.done()
    await member.leave()
    assert await changed == member.assignment() == frozenset()
    with pytest.raises(StaleWriter):
        await member.commit({0: 100})
    await d.reopen()
    assert [await d.log.committed("group", source) for source in sources] == [7, None, None, 9]


@on_every_log
async def test_who_is_alone_does_not_overwrite_what_a_group_stores(d: Deployment) -> None:
    topic = await d.topic(2)
    member, alone = await d.log.join("group", topic), await d.log.join("group", topic, alone=True)
    await settled([member], 2)
    with pytest.raises(LogUnavailable):
        await alone.commit({0: 5})
    await member.commit({0: 1})
    await member.leave()
    await alone.commit({1: 6})
    stored = [await d.log.committed("group", TopicPartition(topic, p)) for p in range(2)]
    assert stored == [1, 6]
