"""Whether the claims of a process still stand: one reader for all its shards.

A shard's claim stands until another claims it, and whoever does was given the shard by the group. The group
does that in two ways: the holder is silent for the session time-out, or takes part in a rebalance. Both begin
a new term of the member. So within the term in which it was appended, and while the heartbeat is young, a
claim is certain, and nobody need be asked.

In a new term it is certain again once the log has been asked, with the shard already held, and no other claim
was read below the end that it told. An owner that was paused may find its heartbeat young again before it
hears that others had the shard meanwhile: the term tells it that there is something to hear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from atlas.core.errors import AtlasError
from atlas.core.facts import LIFECYCLE_TOPIC, REPLAY_KEY, SHARD_KEY, ReplayRequested, ShardClaimed
from atlas.core.reading import Poison, fact_in
from atlas.ports.log import Batch, Log, Member, Reader, Record, TopicPartition
from atlas.runtime.patience import patiently

#: Beside a steady flow of facts they are read in portions, this far apart; the log is asked no more often.
PAUSE_S: Final = 0.05
_POLL_S: Final = 60.0
RECORDS_MAX: Final = 5_000

OnReplay = Callable[[ReplayRequested, int], None]


class ClaimLost(AtlasError):
    """Another owner claimed the shard after us: claim again if it is still ours, else stop."""


class Claim:
    """One claim, watched until it is released.

    Attributes:
        term: the member's, in which the claim is certain; None before the first.
        position: no other claim lies below, from the own one on.
    """

    def __init__(self, source: TopicPartition, epoch: int, term: int | None, on_replay: OnReplay) -> None:
        self._on_replay = on_replay
        self.source, self.epoch, self.term = source, epoch, term
        self.position = epoch + 1
        self._asked: tuple[int, int] | None = None
        self._moved = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Wait until it is lost.

        Raises:
            ClaimLost: another's claim was read.
            Exception: what the watch ended with.
        """
        await self._lost

    async def passed(self, offset: int) -> None:
        """Wait until it is known that no other claim lies below this record."""
        while self.position <= offset:
            self._moved.clear()
            await self._moved.wait()

    def doubts(self, term: int) -> bool:
        """Whether the log is to be asked. Once a term: beside a steady flow every new end lies further on."""
        return not self.lost() and self.term != term and (self._asked is None or self._asked[0] != term)

    def asked(self, term: int, end: int) -> None:
        """In this term, with the shard held, the log ended here."""
        self._asked = (term, end)
        self._judge()

    def read(self, batch: Batch) -> None:
        """What comes after the claim, in order."""
        if batch.gap_from is not None or any(map(_is_claim, batch.records)):
            self.lose(ClaimLost(f"another claim of {self.source} below {batch.next_offset}"))
            return
        for record in batch.records:
            if record.key == REPLAY_KEY:
                self._replay(record)
        self.position = batch.next_offset
        self._moved.set()
        self._judge()

    def _replay(self, record: Record) -> None:
        try:
            fact = fact_in(record.value, record.headers)
        except Poison:
            return  # the projector quarantines it
        if isinstance(fact, ReplayRequested):
            self._on_replay(fact, record.offset)

    def lose(self, error: Exception) -> None:
        """End it; nothing is certain any more."""
        self.term = self._asked = None
        if not self._lost.done():
            self._lost.set_exception(error)

    def release(self) -> None:
        """Nobody asks any more."""
        self._lost.cancel()

    def lost(self) -> bool:
        return self._lost.done()

    def _judge(self) -> None:
        if self._asked is not None and self.position >= self._asked[1] and not self.lost():
            self.term, self._asked = self._asked[0], None


class ClaimWatch:
    """The claims of one member."""

    def __init__(self, log: Log, member: Member) -> None:
        self._log, self._member = log, member
        self._claims: dict[int, Claim] = {}
        self._reader: Reader | None = None
        self._task: asyncio.Task[None] | None = None
        self._doubted = asyncio.Event()

    def term(self, shard: int) -> int | None:
        """The term in which the member holds the shard for certain; None while that is in doubt."""
        member = self._member
        held = shard in member.assignment() and member.heartbeat_age_s() <= member.session_timeout_s / 2
        return member.term if held else None

    def certain(self, claim: Claim) -> bool:
        """Whether nobody else can have claimed the shard. If not, it is found out: ask again in a moment."""
        if claim.term is not None and self.term(claim.source.partition) == claim.term:
            return True
        self._doubted.set()
        return False

    def watch(self, shard: int, epoch: int, term: int | None, on_replay: OnReplay) -> Claim:
        """From the own claim on.

        Args:
            term: as it was before the claim was appended.
            on_replay: called with each request for a replay, and its offset.
        """
        source = TopicPartition(LIFECYCLE_TOPIC, shard)
        claim = self._claims[shard] = Claim(source, epoch, term, on_replay)
        if self._reader is None:
            self._reader = self._log.reader()
            self._task = asyncio.create_task(self._run(self._reader), name="claim watch")
        self._reader.assign({source: claim.position})
        return claim

    def release(self, claim: Claim) -> None:
        """Undo `watch`."""
        claim.release()
        shard = claim.source.partition
        if self._claims.get(shard) is claim:
            del self._claims[shard]
            if self._reader is not None:
                self._reader.unassign([claim.source])

    async def close(self) -> None:
        """Watch nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, reader: Reader) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_on(reader))
                group.create_task(self._ask_when_doubted())
        except Exception as error:  # noqa: BLE001  # goes to the owners, and with the next claim all begins anew
            for claim in self._claims.values():
                claim.lose(error)
        finally:
            self._reader = None
            await reader.close()

    async def _read_on(self, reader: Reader) -> None:
        while True:
            self._read(await patiently(lambda: reader.poll(RECORDS_MAX, _POLL_S)))
            await asyncio.sleep(PAUSE_S)

    async def _ask_when_doubted(self) -> None:
        while True:
            await self._doubted.wait()
            await self._ask()
            await asyncio.sleep(PAUSE_S)
            self._doubted.clear()

    async def _ask(self) -> None:
        """Where the log ends, for claims that are not certain in the term of now."""
        term = self._member.term
        unsure = [
            claim for shard, claim in self._claims.items() if claim.doubts(term) and self.term(shard) == term
        ]
        if unsure:
            ends = await patiently(lambda: self._log.end_offsets([claim.source for claim in unsure]))
            for claim in unsure:
                if claim.source in ends and not claim.lost():
                    claim.asked(term, ends[claim.source])

    def _read(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            claim = self._claims.get(batch.source.partition)
            if claim is not None and not claim.lost() and batch.next_offset > claim.position:
                claim.read(batch)


def _is_claim(record: Record) -> bool:
    if record.key != SHARD_KEY:
        return False
    try:
        return isinstance(fact_in(record.value, record.headers), ShardClaimed)
    except Poison:
        return False
