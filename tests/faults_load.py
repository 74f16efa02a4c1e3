"""The load: clients that each do one thing after the other and retry until they are answered, and pollers.

Half of the clients give all their events an ordering key, two of them the same one. All send singles,
batches with keys of their own or derived ones, now and then an event without a key, the same request twice
at once, an old request again, or a key that is taken with another payload.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from tests.faults_client import Clients, Operation, Verdict
from tests.invariants_history import INFO, OK

ORDERS: Final = "orders"
BARE: Final = "bare"
BATCH_MAX: Final = 6
_OLD_MAX: Final = 200
_THINK_S: Final = (0.02, 0.12)
_RETRY_S: Final = (0.01, 0.15)
_POLL_S: Final = (0.005, 0.04)
_LOOKS_MAX: Final = 12
_TWICE: Final = 0.1
_AGAIN: Final = 0.15
_REUSE: Final = 0.15


class Load:
    """All clients and pollers of a run.

    Args:
        clients: what they send with.
        chance: where all their choices come from.
        count: clients; one of them works in the test environment, with the keys of another.
        prefix: of their names and keys; of two loads on one Atlas each needs its own.

    Attributes:
        stopping: nothing new is begun.
        recent: ids of events accepted lately.
    """

    def __init__(self, clients: Clients, chance: random.Random, count: int, prefix: str = "c") -> None:
        self.clients = clients
        self.stopping = False
        self.recent: deque[str] = deque(maxlen=_OLD_MAX)
        self._going = asyncio.Event()
        self._going.set()
        self._busy = 0
        self._none_busy = asyncio.Event()
        seeds = [chance.getrandbits(64) for _ in range(count + 2)]
        workers = [
            Worker(self, f"{prefix}{index}", "live", index, seeds[index]) for index in range(count - 1)
        ]
        workers.append(Worker(self, f"{prefix}0", "test", 0, seeds[count - 1]))
        self._workers = [asyncio.create_task(worker.run()) for worker in workers]
        self._pollers = [
            asyncio.create_task(self._poll(f"p{index}", random.Random(seed)))
            for index, seed in enumerate(seeds[count:])
        ]

    def go_on(self) -> None:
        """Begin again."""
        self._going.set()

    async def idle(self) -> None:
        """Begin nothing new; returns once every client has its answer."""
        self._going.clear()
        await self._none_busy.wait()

    async def finish(self, within_s: float) -> int:
        """End once every client has its answer, or after so long; returns how many have none."""
        self.stopping = True
        self.go_on()
        _, late = await asyncio.wait(self._workers, timeout=within_s)
        for task in (*late, *self._pollers):
            task.cancel()
        ended = await asyncio.gather(*self._workers, *self._pollers, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        return len(late)

    async def turn(self) -> bool:
        """Wait to be let on; False at the end."""
        await self._going.wait()
        return not self.stopping

    async def settle(self, operation: Operation, chance: random.Random) -> list[Verdict]:
        """Send until every event has a definite answer."""
        self._busy += 1
        self._none_busy.clear()
        try:
            twice = chance.random() < _TWICE and operation.keys[0] is not None
            send = self.clients.send_twice if twice else self.clients.send
            verdicts = await send(operation)
            # Without a key a second try would be another event.
            while operation.keys[0] is not None and _in_doubt(verdicts):
                await asyncio.sleep(chance.uniform(*_RETRY_S))
                verdicts = await self.clients.send(operation)
        finally:
            self._busy -= 1
            if not self._busy:
                self._none_busy.set()
        if operation.environment == "live":
            self.recent.extend(v.event_id for v in verdicts if v.event_id is not None)
        return verdicts

    async def _poll(self, name: str, chance: random.Random) -> None:
        while True:
            await asyncio.sleep(chance.uniform(*_POLL_S))
            if not self.recent:
                continue
            event_id = self.recent[-1 - min(len(self.recent) - 1, chance.randrange(8))]
            for _ in range(_LOOKS_MAX):
                event = await self.clients.look(name, "live", event_id)
                if event is not None and event["status"] in ("delivered", "failed"):
                    break
                await asyncio.sleep(chance.uniform(*_POLL_S))


def _in_doubt(verdicts: Sequence[Verdict]) -> bool:
    return any(verdict.outcome == INFO for verdict in verdicts)


class Worker:
    """One client: its next operation begins when the last one has its answer."""

    def __init__(self, load: Load, name: str, environment: str, index: int, seed: int) -> None:
        self._load = load
        self._environment = environment
        self._name = f"{environment}/{name}"
        self._key = name
        self._ordering_key = None if index % 2 else "shared" if index in (2, 4) else name
        self._chance = random.Random(seed)
        self._sequence = 0
        self._old: deque[Operation] = deque(maxlen=_OLD_MAX)

    async def run(self) -> None:
        """Until the load ends."""
        while await self._load.turn():
            draw = self._chance.random()
            if draw < _REUSE and self._old:
                operation = self._reused(self._chance.choice(self._old))
            elif draw < _REUSE + _AGAIN and self._old:
                operation = self._chance.choice(self._old)
            else:
                operation = self._new()
            verdicts = await self._load.settle(operation, self._chance)
            if operation.keys[0] is not None and all(verdict.outcome == OK for verdict in verdicts):
                self._old.append(operation)
            await asyncio.sleep(self._chance.uniform(*_THINK_S))

    def _new(self) -> Operation:
        draw = self._chance.random()
        count = self._chance.randint(1, BATCH_MAX) if draw < 0.3 else 1
        first = self._sequence
        events = self._events(count)
        keys = [f"{self._key}-{first + index}" for index in range(count)]
        if draw < 0.2:
            return self._operation(first, events, keys, batch=True, own_keys=True)
        if draw < 0.3:
            derived = [f"{self._key}-b{first}/{index}" for index in range(count)]
            return self._operation(first, events, derived, batch=True, header_key=f"{self._key}-b{first}")
        if draw < 0.4:
            return self._operation(first, events, [None])
        return self._operation(first, events, keys, header_key=keys[0])

    def _reused(self, old: Operation) -> Operation:
        """The same keys with other payloads."""
        first = self._sequence
        return replace(old, sequence=first, events=self._events(len(old.events)))

    def _events(self, count: int) -> list[dict[str, Any]]:
        """New events; no two of a run are equal."""
        numbers = range(self._sequence, self._sequence + count)
        self._sequence += count
        return [self._event(number) for number in numbers]

    def _event(self, number: int) -> dict[str, Any]:
        event = {
            "stream": BARE if self._chance.random() < 0.1 else ORDERS,
            "type": "order.fulfilled",
            "occurred_at": "2026-05-18T14:22:11Z",
            "data": {"by": self._name, "number": number, "filling": "x" * self._chance.randrange(400)},
            "metadata": {"client": self._key},
        }
        return event if self._ordering_key is None else {**event, "ordering_key": self._ordering_key}

    def _operation(
        self, first: int, events: Sequence[dict[str, Any]], keys: Sequence[str | None], **more: Any
    ) -> Operation:
        return Operation(
            environment=self._environment, client=self._name, sequence=first, events=events, keys=keys, **more
        )
