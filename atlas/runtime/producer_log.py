"""What the acceptor on Kafka writes into the control log, and reads there: who may send keyed events."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.core.commands import OpenProducer
from atlas.core.entities import Producer
from atlas.core.errors import ApiError, LogUnavailable
from atlas.core.ids import IdSource
from atlas.ports.clock import Clock
from atlas.runtime.registry import Registry


class ProducerLog:
    """Over the control fold; see `atlas.adapters.kafka_standing` for what is asked of it."""

    def __init__(self, registry: Registry, ids: IdSource, clock: Clock) -> None:
        self._registry, self._ids, self._clock = registry, ids, clock

    async def announce(self, producer_id: int, epoch: int, index: str) -> None:
        """Write down that this producer will send in the name of that index, and fold up to there.

        Raises:
            LogUnavailable: not known to be written, or refused: another index was opened since.
        """
        now_ms = self._clock.now_ms()
        producer = Producer(producer_id=producer_id, epoch=epoch, index=index, opened_at_ms=now_ms)
        command = OpenProducer(id=self._ids.new("cmd_"), at_ms=now_ms, producer=producer)
        try:
            await self._registry.propose(command)
        except ApiError as error:
            raise LogUnavailable(error.message) from error

    def producers(self) -> Sequence[Producer]:
        """Those opened, in the order of the log, as far as it is folded."""
        return self._registry.state.producers

    def topics(self) -> list[str]:
        """Every event topic there is, also of archived streams, as far as the log is folded."""
        streams = self._registry.state.streams.values()
        return [stream.topic for by_name in streams for stream in by_name.values()]
