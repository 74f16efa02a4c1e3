"""The control fold of one process, kept at the end of `atlas.control`, and the way to add to it.

Every process that authenticates, routes or delivers reads the fold's dictionaries directly: the hot
path touches no database. A gateway refuses with 503 once it could not confirm the end of the topic for
`CONFIRM_MAX_S`, so that a revoked key does not live on behind a broken connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from atlas.core.commands import Command, UnknownControlFact, decode_command, encode_command
from atlas.core.control import ControlState, Decision, Entity
from atlas.core.errors import ApiError, LogError, OffsetOutOfRange, Unavailable
from atlas.core.facts import CONTROL_SCHEMA, CONTROL_TOPIC, SCHEMA_HEADER
from atlas.core.reading import schema_in
from atlas.ports.clock import Clock
from atlas.ports.log import Batch, Log, NewRecord, Reader, Record, TopicPartition

CONTROL: Final = TopicPartition(CONTROL_TOPIC, 0)

#: A gateway that could not confirm the control end for this long refuses (design section 6).
CONFIRM_MAX_S: Final = 5.0
#: How long an unknown key or stream waits for the control end before it is refused.
CATCH_UP_MAX_S: Final = 1.0
#: How long a proposal may take, resends included, before its caller gets 503.
PROPOSE_MAX_S: Final = 10.0
_POLL_S: Final = 2.0
#: Beside a steady flow of commands no poll is ever empty: the end is looked at this often then.
_CONFIRM_EVERY_S: Final = 1.0
_RECORDS_MAX: Final = 1_000

Listener = Callable[[Command, Decision], None]


class Registry:
    """Folds `atlas.control`; `run` must be kept running by a supervisor.

    Attributes:
        state: the fold; read it, never change it.
        position: the next control offset to fold.
        failure: why the fold will never get on; None while it may.
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        self.state = ControlState()
        self.position = 0
        self._log = log
        self._clock = clock
        self._confirmed_s = float("-inf")
        self._moved: asyncio.Event = asyncio.Event()
        self._listeners: list[Listener] = []
        self._next_look: asyncio.Task[int] | None = None
        self._looking = asyncio.Lock()
        self.failure: str | None = None

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with every command folded from now on, on the event loop."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Undo `subscribe`."""
        self._listeners.remove(listener)

    def not_ready(self) -> str | None:
        """Why this process may not act on the fold now; None when it may."""
        if self.failure is not None:
            return self.failure
        age_s = self._clock.monotonic_s() - self._confirmed_s
        return None if age_s <= CONFIRM_MAX_S else "the end of atlas.control could not be confirmed"

    async def run(self) -> None:
        """Fold for ever. Ends only with an exception.

        Raises:
            UnknownControlFact: a newer version wrote the topic; this process must be upgraded.
            LogUnavailable: the topic cannot be read now.
        """
        reader = self._log.reader()
        reader.assign({CONTROL: self.position})
        try:
            await self._confirm()
            while True:
                batches = await self._poll(reader)
                for batch in batches:
                    for record in batch.records:
                        self._fold(record)
                if not batches or self._clock.monotonic_s() - self._confirmed_s >= _CONFIRM_EVERY_S:
                    await self._confirm()
        finally:
            await reader.close()

    async def _poll(self, reader: Reader) -> list[Batch]:
        try:
            return await reader.poll(_RECORDS_MAX, _POLL_S)
        except OffsetOutOfRange:
            # What was folded cannot be taken back.
            self.failure = "atlas.control has lost what was folded of it: restart this process"
            raise

    async def reached(self, offset: int) -> None:
        """Wait until the record at `offset` has been folded."""
        while self.position <= offset:
            await self._moved.wait()

    async def stands_at(self, position: int) -> None:
        """Wait until the fold stands at `position`, or at the end of the topic if that comes before.

        Raises:
            LogUnavailable: the end cannot be read now.
        """
        if self.position < position:
            ends = await self._log.end_offsets([CONTROL])
            await self.reached(min(position, ends.get(CONTROL, 0)) - 1)

    async def stands_at_end(self) -> None:
        """Wait until the fold has passed what is in the topic now.

        Raises:
            LogUnavailable: the end cannot be read now.
        """
        ends = await self._log.end_offsets([CONTROL])
        await self.reached(ends.get(CONTROL, 0) - 1)

    async def catch_up(self) -> None:
        """Wait, at most `CATCH_UP_MAX_S`, until the fold has passed what is in the topic now.

        One look at the topic's end is made at a time; calls that come while one is under way share the next,
        for that one may have been answered before they came.

        Raises:
            Unavailable: the end could not be confirmed in time.
        """
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look())
            self._next_look.add_done_callback(_retrieve)
        look = self._next_look
        try:
            async with asyncio.timeout(CATCH_UP_MAX_S):
                await self.reached(await asyncio.shield(look) - 1)
        except (TimeoutError, LogError) as error:
            raise Unavailable("The control log cannot be read now.") from error

    async def propose(self, command: Command) -> Entity:
        """Append a command and answer with what the fold decided.

        What the fold refuses as it stands is refused without a record.

        Raises:
            ApiError: the fold refused it, or (503) it was not decided in time.
        """
        await self.catch_up()
        refusal = self.state.refusal(command)
        if refusal is not None:
            raise refusal
        record = NewRecord(encode_command(command), headers=((SCHEMA_HEADER, CONTROL_SCHEMA),))
        try:
            async with asyncio.timeout(PROPOSE_MAX_S):
                decision = await self._decide(command, record)
        except (TimeoutError, LogError) as error:
            raise Unavailable("The control log cannot take this now.") from error
        if isinstance(decision, ApiError):
            raise ApiError(decision.code, decision.message, decision.details)
        return decision

    async def _decide(self, command: Command, record: NewRecord) -> Decision:
        offset = await self._log.append(CONTROL_TOPIC, 0, [record])
        await self.reached(offset)
        decision = self.state.decision(command.id)
        if decision is None:
            raise Unavailable("The decision was lost from memory; ask again.")
        return decision

    def _fold(self, record: Record) -> None:
        offset = record.offset
        try:
            command = decode_command(record.value, schema_in(record.headers))
        except UnknownControlFact as error:
            self.failure = f"control record {offset} is unknown to this version"
            raise UnknownControlFact(f"{self.failure}: {error}") from error
        decision = self.state.apply(command, offset)
        self.position = offset + 1
        self._wake()
        for listener in list(self._listeners):
            listener(command, decision)

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _confirm(self) -> None:
        ends = await self._log.end_offsets([CONTROL])
        if self.position >= ends.get(CONTROL, 0):
            self._confirmed_s = self._clock.monotonic_s()

    async def _look(self) -> int:
        async with self._looking:
            self._next_look = None
            ends = await self._log.end_offsets([CONTROL])
        return ends.get(CONTROL, 0)


def _retrieve(look: asyncio.Task[int]) -> None:
    """Those who wait get the exception; perhaps nobody waits any more."""
    if not look.cancelled():
        look.exception()
