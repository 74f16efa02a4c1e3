"""Whether a gateway on Kafka may take keyed events, and as which producer (design section 7).

The idempotency index is a file, and a file can be lost, copied, or put back from a copy. The log tells: every
producer is written into the control log before it sends anything keyed, in the name of the opening of the
index that it sends for. So whoever opens an index later knows every producer whose records it may lack
(`kafka_recovery`); and whoever reads of a later opening knows that its own index has been superseded, and
takes no keyed event any more. It would know nothing of the keys that the other one takes.

Below a partition's *position* every keyed record is in the index. It moves with what this gateway's announced
producer appends: the next gateway fences that producer in each partition before it takes a key, so an append
that came through lies before anything the other one sent. And it is held back by every keyed append that is
not in the index yet, or of which nobody can tell whether it landed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

from atlas.adapters.kafka_index import KeyIndex
from atlas.adapters.kafka_index_thread import IndexThread
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_producer import Owner
from atlas.core.entities import Producer
from atlas.core.errors import LogUnavailable
from atlas.ports.log import TopicPartition

#: Positions are written this often while something is appended: a crash has the rest read again.
WRITE_POSITIONS_EVERY_S: Final = 1.0

_SUPERSEDED: Final = (
    "another gateway has opened an idempotency index of its own since: "
    "two without a common index would take a key twice"
)


class ProducerLog(Protocol):
    """What the control log knows of producers."""

    async def announce(self, producer_id: int, epoch: int, index: str) -> None:
        """Write the producer down. What `producers` and `topics` give then reaches at least up to there.

        Refused when another index was opened after the first producer of this one.

        Raises:
            LogUnavailable: refused, or not known to be written.
        """

    def producers(self) -> Sequence[Producer]:
        """Those opened in the last 24 hours and the one before, in the order of the log."""

    def topics(self) -> Collection[str]:
        """Every event topic there is.

        No event is accepted for a topic before `producers` knows as much of the log as whoever accepts it:
        whoever opened an index before the topic was made is then known.
        """


class Standing:
    """One opening of the index.

    Attributes:
        name: of this opening.
        lacking: why the index cannot be relied on yet; None once it can.
    """

    def __init__(self, log: KafkaLog, index: IndexThread, control: ProducerLog) -> None:
        self._log, self._index, self._control = log, index, control
        self.name = uuid.uuid4().hex
        self.lacking: str | None = "the idempotency index has not been compared with the log yet"
        self._announced: Owner | None = None
        self._announcing: asyncio.Task[Owner] | None = None
        self._superseded = False
        #: Topics that had no partitions to shut earlier producers out of when that was done.
        self.unmade: set[str] = set()
        self._passed: dict[TopicPartition, int] = {}
        self._moved: set[TopicPartition] = set()
        self._holds: dict[TopicPartition, dict[int, int]] = {}
        self._held = 0
        self._written_s = asyncio.get_running_loop().time()

    @property
    def superseded(self) -> bool:
        """Whether another index was opened after this one; for good."""
        if self._announced is not None and not self._superseded:
            producers = self._control.producers()
            self._superseded = not producers or producers[-1].index != self.name
        return self._superseded

    def not_ready(self) -> str | None:
        """Why keyed events are not taken now; None when they are."""
        return _SUPERSEDED if self.superseded else self.lacking

    def check(self) -> None:
        """Refuse a keyed event while it cannot be judged.

        Raises:
            LogUnavailable: with the reason.
        """
        reason = self.not_ready()
        if reason is not None:
            raise LogUnavailable(reason)

    async def owner(self) -> Owner:
        """The producer that sends now, announced.

        Raises:
            LogUnavailable: there is none, or it must send nothing keyed.
        """
        owner = await self.announced()
        self.check()
        return owner

    async def announced(self) -> Owner:
        """The producer that sends now, in the index and in the control log, in this order.

        The other way about a crash in between would look like a lost index.

        Raises:
            LogUnavailable: there is none, or it could not be announced.
        """
        if self._announced is not None and self._announced == self._log.producer.current:
            return self._announced
        if self._announcing is None:  # one for all who come meanwhile: they fail together too
            self._announcing = asyncio.create_task(self._announce(), name="announce a producer")
            self._announcing.add_done_callback(self._has_announced)
        return await asyncio.shield(self._announcing)

    async def _announce(self) -> Owner:
        owner = await self._log.producer.owner()
        if self.superseded:  # the control log forgets who was, and would take it for a new one
            raise LogUnavailable(_SUPERSEDED)
        if owner != self._announced:
            await self._index.run(partial(KeyIndex.open_owner, owner=owner))
            await self._control.announce(*owner, self.name)
            self._announced = owner
        return owner

    def _has_announced(self, task: asyncio.Task[Owner]) -> None:
        self._announcing = None
        if not task.cancelled():
            task.exception()  # whoever waited was told

    def check_topics(self, topics: Iterable[str]) -> None:
        """Refuse keyed events of a topic that earlier producers may still send to.

        Raises:
            LogUnavailable: with the reason.
        """
        if self.unmade and not self.unmade.isdisjoint(topics):
            raise LogUnavailable("the topic was made a moment ago: earlier gateways are being shut out of it")

    # -- positions ----------------------------------------------------------------------------

    def passed(self, source: TopicPartition, next_offset: int, owner: Owner) -> None:
        """An append of that producer was acknowledged up to there."""
        if owner == self._announced and self.not_ready() is None and source.topic not in self.unmade:
            self._passed[source] = next_offset
            self._moved.add(source)

    def hold(self, source: TopicPartition, offset: int) -> Callable[[], None]:
        """Keyed records are about to be sent: the position stays, until all of them are in the index.

        Args:
            offset: they lie at or above it.

        Returns:
            What is to be called then, or when it is known that they are not in the log and never will be.
        """
        self._held += 1
        number, holds = self._held, self._holds.setdefault(source, {})
        holds[number] = offset

        def release() -> None:
            del holds[number]
            if not holds:
                self._holds.pop(source, None)

        return release

    def to_write(self) -> dict[TopicPartition, int]:
        """Positions to be written with the next transaction; they count as written from now on."""
        positions = {source: self._position(source) for source in self._moved}
        self._moved = {source for source in self._moved if positions[source] < self._passed[source]}
        self._written_s = asyncio.get_running_loop().time()
        return positions

    def _position(self, source: TopicPartition) -> int:
        return min([self._passed[source], *self._holds.get(source, {}).values()])

    @property
    def write_is_due(self) -> bool:
        """Whether positions have not been written for long."""
        age_s = asyncio.get_running_loop().time() - self._written_s
        return bool(self._moved) and age_s >= WRITE_POSITIONS_EVERY_S

    async def write(self) -> None:
        """Write the positions.

        Raises:
            LogUnavailable: they are not written: more is read again after a crash.
        """
        await self._index.run(partial(KeyIndex.advance, positions=self.to_write()))

    async def rest(self) -> None:
        """Nothing is on its way any more: write down that these producers are over.

        But not when something was left behind that is not in the index, nor when that is not known to be
        whole: then the next opening fences them. So a copy made while a gateway ran is known for what it is.
        """
        if self.lacking is None and not self._holds and not self.unmade:
            await self._index.run(partial(KeyIndex.rest, positions=self.to_write()))
