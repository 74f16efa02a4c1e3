"""Connections to the brokers, and who leads which partition: what all of the adapter but the producer and
the group members sends its requests through.

aiokafka's client keeps the connections. It is not asked for metadata: it would ask the broker to create
every topic it does not know.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Final, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from atlas.adapters.kafka_diagnosis import raise_reason
from atlas.adapters.kafka_errors import is_passing, raise_code
from atlas.adapters.kafka_settings import BACKOFF_S, KafkaSettings
from atlas.ports.log import TopicPartition

#: Requests that answer at once share a connection; one that waits at the broker holds all behind it up.
QUICK: Final = "quick"
#: Broker's error codes (Kafka protocol guide, "Error codes").
OFFSET_OUT_OF_RANGE: Final = 1
UNKNOWN_TOPIC: Final = 3

T = TypeVar("T")
#: What one partition of a response says: its error code, and the rest.
Answer = tuple[TopicPartition, int, T]


class Cluster:
    """One process's view of the cluster. Errors are aiokafka's: callers give deadlines and translate.

    Attributes:
        id: what the cluster calls itself; empty before the first answer.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.id = ""
        self._settings = settings
        self._client = AIOKafkaClient(**settings.client_options())
        self._leaders: dict[str, dict[int, int]] = {}

    async def start(self) -> None:
        """Find the brokers.

        Raises:
            KafkaError: none of them answers.
            LogError: they refuse us, or we them.
        """
        try:
            await self._client.bootstrap()
        except KafkaConnectionError:
            await raise_reason(self._settings, self._client.hosts)
            raise

    async def close(self) -> None:
        """Release the connections; requests under way fail."""
        await self._client.close()

    def nodes(self) -> list[int]:
        """The brokers there are, in random order."""
        nodes = [broker.nodeId for broker in self._client.cluster.brokers()]
        random.shuffle(nodes)
        return nodes

    async def send(self, node: int, request: Any, connection: Hashable = QUICK) -> Any:
        """One request to one broker; its response.

        Args:
            connection: requests on one connection are answered in turn.
        """
        return await self._client.send(node, request, group=connection)

    async def coordinator(self, group: str) -> int:
        """The broker that keeps this group's offsets."""
        found: int = await self._client.coordinator_lookup(0, group)
        return found

    # -- metadata -----------------------------------------------------------------------------

    async def describe(self, topics: Collection[str], node: int | None = None) -> dict[str, Any]:
        """Partition rows by topic, as one broker sees them: (code, partition, leader, replicas, isr, ...).

        Topics it does not know are left out.
        """
        request = MetadataRequest(list(topics), allow_auto_topic_creation=False)
        failure: KafkaError = KafkaConnectionError("no broker is known")
        for candidate in [node] if node is not None else self.nodes():
            try:
                response = await self.send(candidate, request)
            except KafkaError as error:
                failure = error
                continue
            if response.brokers:
                self.id = response.cluster_id or self.id
                self._client.cluster.update_metadata(response)
            return {topic[1]: topic[-1] for topic in response.topics if topic[0] != UNKNOWN_TOPIC}
        raise failure

    async def refresh(self, topics: Collection[str]) -> None:
        """Learn anew who leads these topics' partitions."""
        found = await self.describe(topics)
        for topic in topics:
            self._leaders.pop(topic, None)
        for topic, rows in found.items():
            self._leaders[topic] = {row[1]: row[2] for row in rows}

    def forget(self, topic: str) -> None:
        """What we know of the topic is wrong."""
        self._leaders.pop(topic, None)

    def leader(self, source: TopicPartition) -> int | None:
        """The broker that leads a partition, as far as we know."""
        leader = self._leaders.get(source.topic, {}).get(source.partition)
        return None if leader == -1 else leader

    async def partitions(self, topic: str) -> int:
        """How many the topic has; 0 when there is no such topic."""
        if topic not in self._leaders:
            await self.refresh([topic])
        return len(self._leaders.get(topic, ()))

    async def by_leader(self, sources: Iterable[TopicPartition]) -> dict[int, list[TopicPartition]]:
        """These partitions by who leads them; unknown and leaderless ones are left out."""
        sources = list(sources)
        unknown = {source.topic for source in sources if self.leader(source) is None}
        if unknown:
            await self.refresh(unknown)
        found: dict[int, list[TopicPartition]] = {}
        for source in sources:
            leader = self.leader(source)
            if leader is not None:
                found.setdefault(leader, []).append(source)
        return found

    # -- requests to leaders ------------------------------------------------------------------

    async def ask_leaders(
        self,
        sources: Iterable[TopicPartition],
        build: Callable[[list[TopicPartition]], Any],
        parse: Callable[[Any], Iterable[Answer[T]]],
    ) -> dict[TopicPartition, T]:
        """Ask about partitions, each of its leader, again and again until all have answered.

        Unknown partitions are left out of the result.

        Raises:
            KafkaError: one was refused for good.
        """
        pending = set(sources)
        answers: dict[TopicPartition, T] = {}
        while True:
            leaders = await self.by_leader(pending)
            pending = {source for source in pending if self._may_exist(source)}
            asked = (self._ask(node, build(own), parse) for node, own in leaders.items())
            for source, code, answer in [row for rows in await asyncio.gather(*asked) for row in rows]:
                if code == 0:
                    answers[source] = answer
                    pending.discard(source)
                elif is_passing(code):
                    self.forget(source.topic)
                else:
                    raise_code(code)
            if not pending:
                return answers
            await asyncio.sleep(BACKOFF_S)

    async def _ask(
        self, node: int, request: Any, parse: Callable[[Any], Iterable[Answer[T]]]
    ) -> list[Answer[T]]:
        try:
            return list(parse(await self.send(node, request)))
        except KafkaError as error:
            if not error.retriable:
                raise
            self._leaders.clear()  # it may be gone for good: ask the others who leads now
            return []

    def _may_exist(self, source: TopicPartition) -> bool:
        return source.partition in self._leaders.get(source.topic, ())


def by_topic(
    rows: Iterable[tuple[TopicPartition, tuple[Any, ...]]],
) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """The form that Kafka's requests have: partitions under their topics.

    Args:
        rows: partition, and what follows its number in the request.
    """
    topics: dict[str, list[tuple[Any, ...]]] = {}
    for source, rest in rows:
        topics.setdefault(source.topic, []).append((source.partition, *rest))
    return list(topics.items())
