"""Acceptance on Kafka: adapter of the `Acceptor` port for one gateway (design section 7).

Look the key up in the index, append, take the key. Nothing is written before the append, and the answer does
not wait for the key to be in the index: this process knows it meanwhile, and after a crash the next one reads
it back from the log, for the position of the partition has not passed it (`kafka_standing`).

Every keyed record is sent by one producer incarnation, or not at all. When that fails with the record on its
way, the key is in doubt: `kafka_fence` shuts the producer out of the partition, then looks for the record.
Found, the key is taken with its old answer; not found, it is free. Doubt is resolved before payloads are
compared. Events without a key are never sent again.

Before the first keyed event the index is brought up to the log (`kafka_recovery`). Until that is done,
and once another gateway has opened an index of its own (`kafka_standing`), keyed events are refused; others
go on.

A call goes on when its caller gives up: only the waiting has a deadline.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from atlas.adapters.kafka_doubt import DoubtfulKeys, Doubts, heard
from atlas.adapters.kafka_errors import InDoubt
from atlas.adapters.kafka_fence import digest
from atlas.adapters.kafka_index import KeyIndex, TakenKey
from atlas.adapters.kafka_index_thread import IndexThread
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_producer import DEADLINE_S, Appended, Owner
from atlas.adapters.kafka_recovery import Recovery
from atlas.adapters.kafka_standing import ProducerLog, Standing
from atlas.adapters.kafka_taking import Taking
from atlas.core.errors import LogUnavailable
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.clock import Clock
from atlas.ports.log import NewRecord, TopicPartition

#: Calls whose callers have gone are waited for this long when the acceptor closes.
CLOSE_DEADLINE_S: Final = 10.0

#: Keys under way or not in the index yet; past it no more are taken.
KEYS_HELD_MAX: Final = 150_000

_TOO_LATE: Final = "the log did not answer in time"

T = TypeVar("T")


class _Claim:
    """A key being decided in this process: whoever comes with it meanwhile waits for what comes of it.

    Attributes:
        is_decided: whether the first word has been said; it counts.
    """

    __slots__ = ("_decided", "_taken", "is_decided", "key")

    def __init__(self, key: bytes) -> None:
        self.key, self.is_decided = key, False
        self._taken: TakenKey | None = None
        self._decided: asyncio.Future[None] | None = None  # made for whoever waits: mostly nobody does

    def decide(self, taken: TakenKey | None) -> None:
        """Say what holds for the key from now on; None: nobody can tell."""
        if not self.is_decided:
            self.is_decided, self._taken = True, taken
            if self._decided is not None:
                self._decided.set_result(None)

    async def taken(self) -> TakenKey:
        """What holds for the key, once it is decided.

        Raises:
            LogUnavailable: nobody can tell.
        """
        if not self.is_decided:
            if self._decided is None:
                self._decided = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._decided)
        if self._taken is None:
            raise LogUnavailable("nobody can tell yet what became of this key")
        return self._taken


class _Call:
    """One call of `accept`.

    Attributes:
        sources: where each candidate goes.
        claims: for each candidate; None for those without a key.
        own: the candidates, by index, whose keys this call decides.
        free: those of them whose keys were free.
        landed: those of them that are in the log.
    """

    def __init__(self, candidates: Sequence[Candidate], held: dict[bytes, _Claim]) -> None:
        self.candidates = candidates
        self.sources = [TopicPartition(one.topic, one.partition) for one in candidates]
        self.claims: list[_Claim | None] = []
        self.own: dict[int, _Claim] = {}
        self.free: set[int] = set()
        self.landed: set[int] = set()
        for index, one in enumerate(candidates):
            claim = None
            if one.dedup_key is not None:
                claim = held.get(one.dedup_key)
                if claim is None:
                    claim = held[one.dedup_key] = self.own[index] = _Claim(one.dedup_key)
            self.claims.append(claim)

    def to_send(self) -> dict[TopicPartition, list[int]]:
        """The candidates to append, in order, by where they go."""
        groups: dict[TopicPartition, list[int]] = {}
        for index, claim in enumerate(self.claims):
            if claim is None or index in self.free:
                groups.setdefault(self.sources[index], []).append(index)
        return groups


class KafkaAcceptor:
    """See the module. Make one with `open`; one process owns the index."""

    def __init__(self, log: KafkaLog, index: IndexThread, control: ProducerLog, clock: Clock) -> None:
        self._log, self._index = log, index
        self._standing = Standing(log, index, control)
        self._recovery = Recovery(log, index, control, self._standing, clock)
        self._recovering = asyncio.create_task(self._recovery.run(), name="bring the key index up to the log")
        self._doubts, self._taking = Doubts(log, index), Taking(index)
        self._claims: dict[bytes, _Claim] = {}
        self._noted: dict[TopicPartition, int] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, log: KafkaLog, path: Path, clock: Clock, control: ProducerLog) -> Self:
        """Open or create the index at `path`, and begin to bring it up to the log.

        Args:
            control: folded up to its end as of now, or later.

        Raises:
            LogUnavailable: the file cannot be opened.
        """
        try:
            index = KeyIndex(path, clock.now_ms)
        except sqlite3.Error as error:
            raise LogUnavailable(f"the key index cannot be opened: {error}") from error
        return cls(log, IndexThread(index), control, clock)

    def not_ready(self) -> str | None:
        """Why keyed events are refused now, with how far it is; None when they are taken."""
        failure = self._taking.failure
        failed = None if failure is None else f"keys taken cannot be written: {failure}"
        return self._standing.not_ready() or failed

    async def recovered(self) -> None:
        """Wait until the index is up to the log; `not_ready` tells whether it is, or is superseded."""
        await asyncio.wait([self._recovering])

    async def accept(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        self._check_open()
        for source in {(one.topic, one.partition) for one in candidates}:
            await self._log.require(TopicPartition(*source))
        self._check_open()
        if all(one.dedup_key is None for one in candidates):
            return await self._append_unkeyed(candidates)
        self._standing.check()
        if self._taking.failure is not None:
            raise LogUnavailable(f"keys taken cannot be written: {self._taking.failure}")
        if len(self._claims) >= KEYS_HELD_MAX or self._taking.full() or self._doubts.full():
            raise LogUnavailable("too many keys are under way, wait to be written, or are in doubt")
        self._standing.check_topics(one.topic for one in candidates if one.dedup_key is not None)
        return await self._bounded(self._decide(candidates))

    async def find(self, dedup_key: bytes, payload_hash: bytes) -> Outcome | None:
        self._check_open()
        self._standing.check()
        taken = await self._bounded(self._find(dedup_key))
        return None if taken is None else _outcome(taken, payload_hash)

    async def expire_keys(self) -> None:
        """Drop keys whose time is over, in bounded steps. To be called now and then.

        Raises:
            LogUnavailable: some are left; call it again later.
        """
        while await self._index.run(KeyIndex.expire_step):
            pass

    async def close(self) -> None:
        """Finish what is under way, within a bound; to be closed before the log is."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close the acceptor")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._calls:
            await asyncio.wait([*self._calls], timeout=CLOSE_DEADLINE_S)
        for task in [*self._calls]:
            task.cancel()
        if self._calls:
            await asyncio.wait([*self._calls])
        self._recovering.cancel()
        await asyncio.wait([self._recovering])
        await self._recovery.close()
        await self._doubts.close()
        await self._taking.close(CLOSE_DEADLINE_S)
        with suppress(LogUnavailable):  # then the next opening fences what this one cannot tell of
            await self._standing.rest()
        await self._index.close()

    # -- one call -----------------------------------------------------------------------------

    async def _append_unkeyed(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """Nothing follows the append, so nothing has to go on when the caller is gone: the producer does."""
        groups: dict[TopicPartition, list[NewRecord]] = {}
        for one in candidates:
            groups.setdefault(TopicPartition(one.topic, one.partition), []).append(one.record)
        sent = [self._log.producer.submit(source, records) for source, records in groups.items()]
        try:
            async with asyncio.timeout(DEADLINE_S):
                appended = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)
        except TimeoutError as error:
            raise LogUnavailable(_TOO_LATE) from error
        for (source, records), where in zip(groups.items(), appended, strict=True):
            self._acknowledged(source, where, len(records))
        return [Outcome(Verdict.APPENDED, one.response) for one in candidates]

    async def _decide(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        call = _Call(candidates, self._claims)
        try:
            owner = await self._look_up(call) if call.own else None
            await self._append(call, owner)
        finally:
            for claim in call.own.values():
                if not claim.is_decided:
                    claim.decide(None)
                    self._forget(claim)
        outcomes = []
        for index, (one, decided) in enumerate(zip(candidates, call.claims, strict=True)):
            if decided is None or index in call.landed:
                outcomes.append(Outcome(Verdict.APPENDED, one.response))
            else:
                outcomes.append(_outcome(await decided.taken(), one.payload_hash))
        return outcomes

    async def _look_up(self, call: _Call) -> Owner:
        """Find which of the call's own keys are free, and decide the claims of those that are taken.

        Returns:
            Who alone may send their records.
        """
        owner = await self._standing.owner()
        await self._note_ends({call.sources[index] for index in call.own})
        keys = [claim.key for claim in call.own.values()]
        await self._doubts.resolve(keys)
        known = await self._index.find(keys)
        for index, claim in call.own.items():
            taken = known.get(claim.key)
            if taken is None:
                call.free.add(index)
            else:
                claim.decide(taken)
                self._forget(claim)
        return owner

    async def _note_ends(self, sources: set[TopicPartition]) -> None:
        """Know an offset of each partition that nothing sent from now on can land below."""
        unknown = sources - self._noted.keys()
        if unknown:
            self._noted |= await self._log.end_offsets(unknown)

    async def _append(self, call: _Call, owner: Owner | None) -> None:
        """Send what is new.

        Raises:
            LogUnavailable: a part of it has not landed, or nobody can tell.
        """
        sent = [self._send(call, source, group, owner) for source, group in call.to_send().items()]
        failures = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent, return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _send(
        self, call: _Call, source: TopicPartition, group: Sequence[int], owner: Owner | None
    ) -> LogUnavailable | None:
        """One partition's share of a call; returns why it failed."""
        records = [call.candidates[index].record for index in group]
        keyed = [index for index in group if index in call.free]
        if not keyed or owner is None:
            return await self._send_unkeyed(source, records)
        first_offset = self._noted.get(source, 0)
        release = self._standing.hold(source, first_offset)
        try:
            appended = await self._log.producer.submit(source, records, owner)
        except InDoubt as error:
            keys = {digest(call.candidates[index].record): _key_of(call.candidates[index]) for index in keyed}
            self._doubts.add((owner, source), DoubtfulKeys(keys, first_offset, release))
            return error
        except LogUnavailable as error:  # never sent
            release()
            return error
        self._acknowledged(source, appended, len(records))
        call.landed.update(keyed)
        rows = [_key_of(call.candidates[index]) for index in keyed]
        claims = [call.own[index] for index in keyed]
        for claim, row in zip(claims, rows, strict=True):
            claim.decide(row)

        def written() -> None:
            release()
            for claim in claims:
                self._forget(claim)

        self._taking.add(rows, written)
        return None

    async def _send_unkeyed(
        self, source: TopicPartition, records: Sequence[NewRecord]
    ) -> LogUnavailable | None:
        try:
            appended = await self._log.producer.submit(source, records)
        except LogUnavailable as error:
            return error
        self._acknowledged(source, appended, len(records))
        return None

    def _acknowledged(self, source: TopicPartition, appended: Appended, records: int) -> None:
        # Also where it is lower: then the topic was made anew. One that comes late is lower too; no harm.
        self._noted[source] = next_offset = appended.offset + records
        self._standing.passed(source, next_offset, appended.owner)
        if self._standing.write_is_due:
            self._start(self._standing.write(), self._calls)

    async def _find(self, key: bytes) -> TakenKey | None:
        claim = self._claims.get(key)
        if claim is not None:
            return await claim.taken()
        await self._doubts.resolve([key])
        return (await self._index.find([key])).get(key)

    def _forget(self, claim: _Claim) -> None:
        """From now on the index tells."""
        if self._claims.get(claim.key) is claim:
            del self._claims[claim.key]

    # -- tasks --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closing is not None:
            raise LogUnavailable("the acceptor is closed")

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for it up to the deadline; it goes on all the same."""
        task = self._start(work, self._calls)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise LogUnavailable(_TOO_LATE) from error

    def _start(self, work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(heard)
        return task


def _key_of(one: Candidate) -> TakenKey:
    assert one.dedup_key is not None
    return TakenKey(one.dedup_key, one.payload_hash, one.response)


def _outcome(taken: TakenKey, payload_hash: bytes) -> Outcome:
    if taken.payload_hash != payload_hash:
        return Outcome(Verdict.CONFLICT)
    return Outcome(Verdict.REPLAYED, taken.response)
