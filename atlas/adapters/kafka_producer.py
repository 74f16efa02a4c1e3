"""Appends: one queue for each partition in front of an idempotent producer.

While one batch of a partition is in flight the next collects; every request in it gets its own offset out
of the batch's first one. A deadline belongs to the request: past it the caller is told so, while the batch
goes on being tried under the same producer id, so that it lands once or never. (Sending it again through
another producer makes duplicates when the first was only delayed; tried with a paused broker.)

A batch that is refused breaks the sequence of its producer: the broker would refuse all later ones. That
producer is then given up, with everything unresolved, and another takes the next requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from atlas.adapters.kafka_errors import InDoubt, NotSent, unavailable, within
from atlas.adapters.kafka_settings import KafkaSettings
from atlas.adapters.kafka_topics import APPEND_BYTES_MAX
from atlas.core.errors import LogUnavailable
from atlas.ports.log import NewRecord, TopicPartition

#: A caller waits this long, then gets `LogUnavailable`; its batch goes on.
DEADLINE_S: Final = 10.0
#: Bytes of records not yet acknowledged; past it an append is refused at once.
OUTSTANDING_BYTES_MAX: Final = 64 * 1024 * 1024
#: Requests are put into one batch up to this size: beyond it a batch gains nothing more (measured).
BATCH_BYTES: Final = 256 * 1024
#: Charged for each record besides its key and value.
_RECORD_OVERHEAD_BYTES: Final = 96
#: A batch unresolved for this long (a topic deleted under it, say) is given up with its producer.
STUCK_S: Final = 120.0
_START_MAX_S: Final = 10.0
_STOP_MAX_S: Final = 5.0


class Owner(NamedTuple):
    """One incarnation of a producer, as the brokers know it."""

    producer_id: int
    epoch: int


class Appended(NamedTuple):
    """Records that are in the log: where the first of them lies, and who sent them."""

    offset: int
    owner: Owner


class _Request:
    __slots__ = ("done", "owner", "records", "size_bytes")

    def __init__(
        self,
        records: Sequence[NewRecord],
        size_bytes: int,
        owner: Owner | None,
        done: asyncio.Future[Appended],
    ) -> None:
        self.records, self.size_bytes, self.owner, self.done = records, size_bytes, owner, done


class _Incarnation:
    """A producer of aiokafka's.

    Attributes:
        waits: of batches under way in it. Once it has stopped nothing comes of them any more, and nobody
            tells them: a wait for metadata, or for an acknowledgement, of a closed client lasts for ever.
        is_over: it has stopped.
    """

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self.waits: set[asyncio.Timeout] = set()
        self.is_over = False

    @property
    def owner(self) -> Owner:
        state = self.producer._txn_manager  # noqa: SLF001  # nothing public tells
        return Owner(state.producer_id, state.producer_epoch)

    async def stop(self) -> None:
        """End it within a bound: aiokafka's own waits for ever for a broker that is away."""
        try:
            async with within(_STOP_MAX_S, "a producer did not stop"):
                await self.producer.stop()
        except LogUnavailable:
            await self.producer.client.close()
            sender = self.producer._sender.sender_task  # noqa: SLF001  # nothing public ends it
            while sender is not None and not sender.done():
                sender.cancel()
                await asyncio.wait([sender], timeout=_STOP_MAX_S / 50)
        finally:
            self.is_over = True
            for wait in self.waits:
                if not wait.expired():
                    wait.reschedule(asyncio.get_running_loop().time())


class KafkaProducer:
    """The one way records get into Kafka from this process."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: _Incarnation | None = None
        self._starting = asyncio.Lock()
        self._queues: dict[TopicPartition, deque[_Request]] = {}
        self._pumps: dict[TopicPartition, asyncio.Task[None]] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._outstanding_bytes = 0
        self._oldest_s: dict[TopicPartition, float] = {}
        self._closed = False

    @property
    def stalled_s(self) -> float:
        """How long the oldest batch in flight has been waiting for its acknowledgement."""
        now_s = asyncio.get_running_loop().time()
        return max((now_s - since_s for since_s in self._oldest_s.values()), default=0.0)

    async def start(self) -> None:
        """Connect.

        Raises:
            LogUnavailable: no broker answers.
        """
        await self._current()

    async def append(self, source: TopicPartition, records: Sequence[NewRecord]) -> int:
        """Append in one piece; the offset of the first record. The partition must exist.

        Raises:
            LogUnavailable: it was not acknowledged in time, or refused; it may still land.
        """
        done = self.submit(source, records)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return (await done).offset
        except TimeoutError as error:
            raise LogUnavailable("Kafka did not acknowledge in time") from error

    def submit(
        self, source: TopicPartition, records: Sequence[NewRecord], owner: Owner | None = None
    ) -> asyncio.Future[Appended]:
        """Have it appended; the result comes when that is settled, however long it takes: else `NotSent`, or
        `InDoubt`.

        Args:
            owner: not sent unless this incarnation sends it.

        Raises:
            NotSent: too much is waiting, or it is too large, or the log is closed.
        """
        size_bytes = _size(records)
        if size_bytes > APPEND_BYTES_MAX:
            raise NotSent(f"{size_bytes} bytes cannot be appended in one piece")
        if self._closed:
            raise NotSent("the log is closed")
        if self._outstanding_bytes + size_bytes > OUTSTANDING_BYTES_MAX:
            raise NotSent("too much is waiting to be written")
        done: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._enqueue(source, _Request(records, size_bytes, owner, done))
        return done

    async def owner(self) -> Owner:
        """The incarnation that sends now.

        Raises:
            LogUnavailable: there is none, and no broker to make one.
        """
        return (await self._current()).owner

    @property
    def current(self) -> Owner | None:
        """The incarnation that sends now, if there is one just now."""
        return None if self._producer is None else self._producer.owner

    def give_up(self, owner: Owner) -> None:
        """Send nothing more through this incarnation."""
        if self._producer is not None and self._producer.owner == owner:
            producer, self._producer = self._producer, None
            self._retire(producer)

    async def close(self) -> None:
        """Finish what was asked for, as far as the deadline allows, then disconnect."""
        self._closed = True
        if self._pumps:
            await asyncio.wait([*self._pumps.values()], timeout=DEADLINE_S)
        for pump in [*self._pumps.values()]:
            pump.cancel()
        if self._producer is not None:
            self._retire(self._producer)
        if self._retired:
            await asyncio.wait([*self._retired])

    # -- queues -------------------------------------------------------------------------------

    def _enqueue(self, source: TopicPartition, request: _Request) -> None:
        self._outstanding_bytes += request.size_bytes
        self._queues.setdefault(source, deque()).append(request)
        if source not in self._pumps:
            self._pumps[source] = asyncio.create_task(self._pump(source), name=f"append to {source}")

    async def _pump(self, source: TopicPartition) -> None:
        queue = self._queues[source]
        try:
            while queue:
                requests = _next_batch(queue)
                try:
                    await self._send(source, requests)
                finally:
                    self._outstanding_bytes -= sum(request.size_bytes for request in requests)
                    _fail(requests, InDoubt, "the log is closed")
        finally:
            _fail(queue, NotSent, "the log is closed")
            self._outstanding_bytes -= sum(request.size_bytes for request in queue)
            del self._queues[source], self._pumps[source]

    async def _send(self, source: TopicPartition, requests: Sequence[_Request]) -> None:
        """One batch, to its end. Nothing is raised: each request is told."""
        self._oldest_s[source] = asyncio.get_running_loop().time()
        try:
            producer = await self._current()
        except LogUnavailable as error:
            _fail(requests, NotSent, str(error))
            return
        finally:
            del self._oldest_s[source]
        owner = producer.owner
        stale = [request for request in requests if request.owner not in {None, owner}]
        if stale:
            _fail(stale, NotSent, "its producer was given up")
            requests = [request for request in requests if request not in stale]
        if requests:
            await self._send_through(producer, source, requests)

    async def _send_through(
        self, through: _Incarnation, source: TopicPartition, requests: Sequence[_Request]
    ) -> None:
        self._oldest_s[source] = asyncio.get_running_loop().time()
        wait = asyncio.timeout(0 if through.is_over else STUCK_S)
        through.waits.add(wait)
        try:
            async with wait:
                batch = _batch(through.producer, requests)
                sent = await through.producer.send_batch(batch, source.topic, partition=source.partition)
                base_offset = (await sent).offset
        except (KafkaError, OSError, TimeoutError) as error:
            self.give_up(through.owner)
            _fail(requests, InDoubt, str(unavailable("the append is in doubt", error)))
        else:
            _resolve(requests, base_offset, through.owner)
        finally:
            through.waits.discard(wait)
            del self._oldest_s[source]

    # -- the producer -------------------------------------------------------------------------

    async def _current(self) -> _Incarnation:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._settings.client_options(),
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=APPEND_BYTES_MAX + 64 * 1024,
                    linger_ms=0,
                )
                try:
                    async with within(_START_MAX_S, "no producer"):
                        await producer.start()
                except BaseException:
                    self._retire(_Incarnation(producer))
                    raise
                self._producer = _Incarnation(producer)
            return self._producer

    def _retire(self, producer: _Incarnation) -> None:
        task = asyncio.create_task(producer.stop(), name="stop a producer")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


def _next_batch(queue: deque[_Request]) -> list[_Request]:
    """Requests that go together, in order."""
    taken: list[_Request] = []
    size_bytes = 0
    while queue and (not taken or size_bytes + queue[0].size_bytes <= BATCH_BYTES):
        request = queue.popleft()
        taken.append(request)
        size_bytes += request.size_bytes
    return taken


def _batch(producer: Any, requests: Sequence[_Request]) -> Any:
    batch = producer.create_batch()
    for request in requests:
        for record in request.records:
            batch.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
    batch.close()
    return batch


def _resolve(requests: Sequence[_Request], base_offset: int, owner: Owner) -> None:
    if base_offset < 0:
        # The broker has the batch, but no longer knows where.
        _fail(requests, InDoubt, "appended, but Kafka does not say where")
        return
    for request in requests:
        if not request.done.done():
            request.done.set_result(Appended(base_offset, owner))
        base_offset += len(request.records)


def _fail(requests: Iterable[_Request], error: type[LogUnavailable], reason: str) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error(reason))


def _size(records: Sequence[NewRecord]) -> int:
    size = 0
    for record in records:
        size += _RECORD_OVERHEAD_BYTES + len(record.value or b"") + len(record.key or b"")
        for name, value in record.headers:
            size += 4 * len(name) + len(value)
    return size
