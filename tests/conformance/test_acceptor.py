"""What every adapter of the `Acceptor` port promises."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from atlas.core.errors import UnknownTopic
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.log import NewRecord, TopicPartition
from tests.conformance.log_deployments import Deployment, numbered, on_every_log, read_all, values

FREE = None
CONFLICT = Outcome(Verdict.CONFLICT)


def key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def candidate(
    topic: str, name: str | None, payload: str = "payload", response: str = "", partition: int = 0
) -> Candidate:
    """An event; its record tells its key and its response, as a real one does."""
    frozen = response or f'{{"id":"evt_{name}"}}'
    record = NewRecord(f"{name}|{payload}|{frozen}".encode())
    return Candidate(
        topic=topic,
        partition=partition,
        record=record,
        response=frozen.encode(),
        dedup_key=None if name is None else key(name),
        payload_hash=b"" if name is None else key(payload),
    )


def appended(one: Candidate) -> Outcome:
    return Outcome(Verdict.APPENDED, one.response)


def replayed(one: Candidate) -> Outcome:
    return Outcome(Verdict.REPLAYED, one.response)


@on_every_log
async def test_the_first_is_appended_its_equal_replayed_another_payload_refused(d: Deployment) -> None:
    topic = await d.topic()
    first = candidate(topic, "k", "a", "first answer")
    assert await d.log.accept([first]) == [appended(first)]
    assert await d.log.accept([candidate(topic, "k", "a", "second answer")]) == [replayed(first)]
    assert await d.log.accept([candidate(topic, "k", "b", "third answer")]) == [CONFLICT]
    assert await d.log.accept([candidate(topic, "k", "a", "fourth answer")]) == [replayed(first)]
    assert values(await read_all(d.log, TopicPartition(topic, 0))) == [first.record.value]


@on_every_log
async def test_without_a_key_every_event_is_its_own(d: Deployment) -> None:
    topic = await d.topic()
    one = candidate(topic, None)
    assert await d.log.accept([one, one]) == [appended(one)] * 2
    assert await d.log.accept([one]) == [appended(one)]
    assert len(await read_all(d.log, TopicPartition(topic, 0))) == 3


@on_every_log
async def test_equal_keys_within_one_call(d: Deployment) -> None:
    topic = await d.topic()
    first, other = candidate(topic, "k", "a", "first"), candidate(topic, "other", "a", "other")
    outcomes = await d.log.accept(
        [first, candidate(topic, "k", "a", "second"), other, candidate(topic, "k", "b"), first]
    )
    assert outcomes == [appended(first), replayed(first), appended(other), CONFLICT, replayed(first)]
    assert len(await read_all(d.log, TopicPartition(topic, 0))) == 2


@on_every_log
async def test_outcomes_and_records_keep_the_order_of_the_call(d: Deployment) -> None:
    topic = await d.topic(3)
    batch = [candidate(topic, f"k{n}" if n % 2 else None, f"{n}", f"r{n}", n % 3) for n in range(900)]
    assert await d.log.accept(batch) == [appended(one) for one in batch]
    for partition in range(3):
        expected = [one.record.value for one in batch[partition::3]]
        assert values(await read_all(d.log, TopicPartition(topic, partition))) == expected
    again = await d.log.accept(batch[1::2])
    assert again == [replayed(one) for one in batch[1::2]]


@on_every_log
async def test_concurrent_duplicates_are_one_event(d: Deployment) -> None:
    topic = await d.topic(4)
    rivals = [candidate(topic, "k", "same", f"answer {n}", n % 4) for n in range(60)]
    outcomes = [outcome for [outcome] in await asyncio.gather(*(d.log.accept([one]) for one in rivals))]
    [winner] = [one for one, outcome in zip(rivals, outcomes, strict=True) if outcome == appended(one)]
    assert outcomes.count(replayed(winner)) == 59
    found = [record for p in range(4) for record in await read_all(d.log, TopicPartition(topic, p))]
    assert values(found) == [winner.record.value]


@on_every_log
async def test_of_concurrent_payloads_one_wins(d: Deployment) -> None:
    topic = await d.topic()
    rivals = [candidate(topic, "k", f"payload {n % 5}", f"answer {n}") for n in range(50)]
    outcomes = [outcome for [outcome] in await asyncio.gather(*(d.log.accept([one]) for one in rivals))]
    [winner] = [n for n, outcome in enumerate(outcomes) if outcome.verdict is Verdict.APPENDED]
    for number, outcome in enumerate(outcomes):
        if number != winner:
            same = number % 5 == winner % 5
            assert outcome == (replayed(rivals[winner]) if same else CONFLICT)
    assert values(await read_all(d.log, TopicPartition(topic, 0))) == [rivals[winner].record.value]


@on_every_log
async def test_a_key_holds_across_topics_and_partitions(d: Deployment) -> None:
    """The key names workspace and environment, not the stream: where it lands does not matter."""
    one, two = await d.topic(2), await d.topic(2)
    first = candidate(one, "k", partition=1)
    await d.log.accept([first])
    assert await d.log.accept([candidate(two, "k", response="x", partition=0)]) == [replayed(first)]
    assert await read_all(d.log, TopicPartition(two, 0)) == []


@on_every_log
async def test_find_tells_what_accept_would(d: Deployment) -> None:
    topic = await d.topic()
    one = candidate(topic, "k")
    assert await d.log.find(key("k"), one.payload_hash) is FREE
    await d.log.accept([one])
    for _ in range(2):
        assert await d.log.find(key("k"), one.payload_hash) == replayed(one)
        assert await d.log.find(key("k"), key("another payload")) == CONFLICT
        assert await d.log.find(key("other"), one.payload_hash) is FREE
        await d.reopen()


@on_every_log
async def test_answers_are_the_same_bytes_after_a_restart(d: Deployment) -> None:
    topic = await d.topic(2)
    batch = [candidate(topic, f"k{n}", f"{n}", f"answer {n}\x00\N{SNOWMAN}", n % 2) for n in range(700)]
    for start in range(0, 700, 70):
        await d.log.accept(batch[start : start + 70])
    for _ in range(2):
        await d.reopen()
        rivals = [candidate(topic, f"k{n}", f"{n}", "another answer") for n in range(700)]
        assert await d.log.accept(rivals) == [replayed(one) for one in batch]
    assert await d.log.accept([candidate(topic, "k5", "changed")]) == [CONFLICT]
    sizes = [len(await read_all(d.log, TopicPartition(topic, p))) for p in range(2)]
    assert sizes == [350, 350]


@on_every_log
async def test_replays_and_conflicts_leave_offsets_alone(d: Deployment) -> None:
    topic = await d.topic()
    taken = candidate(topic, "k", "a")
    await d.log.accept([taken])
    results = await asyncio.gather(
        d.log.append(topic, 0, numbered(2)),
        d.log.accept([taken, candidate(topic, "k", "b"), candidate(topic, "new")]),
        d.log.append(topic, 0, numbered(1)),
    )
    assert results[0] == 1
    assert results[2] == 4
    assert await d.log.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 5}


@on_every_log
async def test_a_call_that_raises_leaves_its_keys_free(d: Deployment) -> None:
    topic = await d.topic()
    one = candidate(topic, "k")
    with pytest.raises(UnknownTopic):
        await d.log.accept([one, candidate("nobody", "other")])
    assert await d.log.find(key("k"), one.payload_hash) is FREE
    assert await d.log.accept([one]) == [appended(one)]


@on_every_log
async def test_a_caller_that_gave_up_may_send_again(d: Deployment) -> None:
    topic = await d.topic()
    for turns in range(6):
        one = candidate(topic, f"k{turns}", response=f"first {turns}")
        gone = asyncio.create_task(d.log.accept([one]))
        for _ in range(turns):
            await asyncio.sleep(0)
        gone.cancel()
        again = candidate(topic, f"k{turns}", response=f"second {turns}")
        [outcome] = await d.log.accept([again])
        assert outcome in (replayed(one), appended(again))
    assert len(await read_all(d.log, TopicPartition(topic, 0))) == 6


@on_every_log
async def test_nothing_to_accept(d: Deployment) -> None:
    assert await d.log.accept([]) == []


@on_every_log
async def test_keys_outlive_their_records(d: Deployment) -> None:
    topic = await d.topic()
    one = candidate(topic, "k")
    await d.log.accept([one])
    await d.log.delete_records(TopicPartition(topic, 0), 1)
    await d.reopen()
    assert await d.log.accept([candidate(topic, "k", response="x")]) == [replayed(one)]
    assert await d.log.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 1}
