"""Members of consumer groups: who holds which partitions of one topic, by Kafka's group protocol.

aiokafka's coordinator is used without its consumer: nothing is fetched here. Partitions are sticky:
who stays keeps what it can. While a group rebalances a member keeps what it holds until it hears what it
is given; but from its own answer on it counts as silent, for others may hear earlier (design section 4).

A member is only as alive as its last heartbeat, by the time it was sent: one that was paused in between
must not take the answer for news. One whose coordinator has failed or stands still is made anew.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Final

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaTopicPartition

from atlas.adapters.kafka_errors import within
from atlas.adapters.kafka_settings import BACKOFF_S, KafkaSettings
from atlas.core.errors import LogUnavailable, StaleWriter
from atlas.ports.clock import Clock

#: A member silent for this long loses its partitions.
SESSION_TIMEOUT_S: Final = 10.0
#: A member learns of a rebalance by its next heartbeat: this is most of what one costs.
HEARTBEAT_EVERY_S: Final = 0.5
#: Who does not join a rebalance within this is left out of it.
REBALANCE_TIMEOUT_S: Final = 10.0
COMMIT_DEADLINE_S: Final = 5.0
LEAVE_DEADLINE_S: Final = 3.0
#: Without a heartbeat for this long the membership is made anew.
STUCK_S: Final = 3 * SESSION_TIMEOUT_S
_WATCH_EVERY_S: Final = 1.0
#: Nobody polls a member, so nothing can be told from its not being polled.
_NEVER_MS: Final = 10**12

log_line = structlog.get_logger()


class KafkaMember:
    """Adapter of the `Member` port."""

    def __init__(self, settings: KafkaSettings, group: str, topic: str, clock: Clock) -> None:
        self._id = f"{group}-{uuid.uuid4().hex}"
        self._settings, self._group, self._topic, self._clock = settings, group, topic, clock
        self._assignment: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._beat_s = clock.monotonic_s()
        self._term = 0
        self._joining = False
        self._membership: _Membership | None = None
        self._watch = asyncio.create_task(self._keep(), name=f"member {self._id}")

    @property
    def id(self) -> str:
        return self._id

    @property
    def term(self) -> int:
        return self._term

    @property
    def session_timeout_s(self) -> float:
        return SESSION_TIMEOUT_S

    def assignment(self) -> frozenset[int]:
        return self._assignment

    async def assignment_changed(self, seen: frozenset[int]) -> frozenset[int]:
        while self._assignment == seen:
            self._changed.clear()
            await self._changed.wait()
        return self._assignment

    def heartbeat_age_s(self) -> float:
        return float("inf") if self._joining else self._silent_s()

    def _silent_s(self) -> float:
        return self._clock.monotonic_s() - self._beat_s

    async def commit(self, offsets: Mapping[int, int]) -> None:
        if not self._assignment.issuperset(offsets):
            raise StaleWriter(f"{self._id} no longer holds all of {sorted(offsets)}")
        if self._membership is None:
            raise LogUnavailable("the group cannot be reached")
        if offsets:
            await self._membership.commit(offsets)

    async def leave(self) -> None:
        self._watch.cancel()
        await asyncio.wait([self._watch])
        membership, self._membership = self._membership, None
        self.give(frozenset())
        if membership is not None:
            await membership.end()

    def give(self, assignment: frozenset[int]) -> None:
        """Called by the membership: these are the member's partitions now."""
        if assignment != self._assignment:
            self._term += not assignment.issuperset(self._assignment)
            self._assignment = assignment
            self._changed.set()

    def joining(self) -> None:
        """Called by the membership: it answers a rebalance. Once all have, others may be given anything of
        what this member holds, and hear of it earlier.
        """
        self._term += 1
        self._joining = True

    def joined(self, assignment: frozenset[int]) -> None:
        """Called by the membership: the rebalance is over."""
        self._joining = False
        self.give(assignment)

    def now_s(self) -> float:
        """The clock that heartbeats are timed by."""
        return self._clock.monotonic_s()

    def beat(self, sent_s: float) -> None:
        """Called by the membership: a heartbeat sent then was confirmed."""
        self._beat_s = max(self._beat_s, sent_s)

    async def _keep(self) -> None:
        """Join, and join again whenever the membership has failed or stands still."""
        while True:
            membership = _Membership(self._settings, self._group, self._topic, self)
            started_s = self._clock.monotonic_s()
            try:
                await membership.start()
                self._membership = membership
                while min(self._silent_s(), self._clock.monotonic_s() - started_s) < STUCK_S:
                    await asyncio.sleep(_WATCH_EVERY_S)
                    membership.check()
                log_line.warning("group member stands still, joins anew", group=self._group, member=self._id)
            except (KafkaError, LogUnavailable) as error:
                log_line.warning("group member failed, joins anew", group=self._group, error=str(error))
            finally:
                if self._membership is not membership:
                    await asyncio.shield(membership.end())
            self._membership = None
            self.give(frozenset())
            await membership.end()
            await asyncio.sleep(_WATCH_EVERY_S)


class _Membership:
    """One stay in the group, with a connection of its own."""

    def __init__(self, settings: KafkaSettings, group: str, topic: str, member: KafkaMember) -> None:
        options = settings.client_options() | {"client_id": member.id}
        # JoinGroup is answered when all have joined.
        options["request_timeout_ms"] = int((REBALANCE_TIMEOUT_S + 5.0) * 1_000)
        self._client = AIOKafkaClient(**options)
        self._group, self._topic, self._member = group, topic, member
        self._coordinator: _Coordinator | None = None
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and begin to join; the assignment comes later."""
        # Cut off in between, aiokafka would leave its first connection open.
        self._starting = asyncio.create_task(self._start(), name=f"start {self._member.id}")
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        async with within(REBALANCE_TIMEOUT_S, "the group cannot be reached"):
            await self._client.bootstrap()
            await self._client.set_topics([self._topic])
        subscription = SubscriptionState()
        subscription.subscribe(topics={self._topic})
        # The assignor keeps its state on its class: each member needs a class of its own.
        assignor = type("Sticky", (StickyPartitionAssignor,), {})
        self._coordinator = _Coordinator(
            self._client,
            subscription,
            group_id=self._group,
            session_timeout_ms=int(SESSION_TIMEOUT_S * 1_000),
            heartbeat_interval_ms=int(HEARTBEAT_EVERY_S * 1_000),
            rebalance_timeout_ms=int(REBALANCE_TIMEOUT_S * 1_000),
            retry_backoff_ms=int(BACKOFF_S * 1_000),
            max_poll_interval_ms=_NEVER_MS,
            enable_auto_commit=False,
            assignors=(assignor,),
        )
        self._coordinator.watch(self._member)

    def check(self) -> None:
        """Raises what the coordinator failed with; it would wait for ever for somebody to ask."""
        if self._coordinator is not None:
            self._coordinator.check_errors()

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See the port."""
        if self._coordinator is None:
            raise LogUnavailable("the group cannot be reached")
        rows = {
            KafkaTopicPartition(self._topic, partition): OffsetAndMetadata(offset, "")
            for partition, offset in offsets.items()
        }
        async with within(COMMIT_DEADLINE_S, "the offsets were not stored"):
            try:
                await self._coordinator.store(rows)
            except UnknownMemberIdError as error:
                raise StaleWriter("the group no longer knows this member") from error

    async def end(self) -> None:
        """Leave the group and disconnect, within a bound."""
        if self._starting is not None:
            await asyncio.wait([self._starting], timeout=LEAVE_DEADLINE_S)
            if not self._starting.cancel() and not self._starting.cancelled():
                self._starting.exception()  # told to whoever waited, if anybody did
        coordinator, self._coordinator = self._coordinator, None
        try:
            if coordinator is not None:
                async with within(LEAVE_DEADLINE_S, "the group was not left"):
                    await coordinator.close()
        except LogUnavailable as error:
            log_line.warning("group not left in time", group=self._group, error=str(error))
        finally:
            # In this order: a task still going would connect again.
            if coordinator is not None:
                await coordinator.stop_tasks()
            await self._client.close()


class _Coordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's coordinator, which tells of heartbeats and assignments."""

    _member: KafkaMember | None = None

    def watch(self, member: KafkaMember) -> None:
        self._member = member

    async def store(self, rows: Mapping[Any, Any]) -> None:
        await self.ensure_coordinator_known()
        await self._do_commit_offsets(None, rows)

    async def stop_tasks(self) -> None:
        """After a `close` that did not come to its end."""
        tasks = [self._coordination_task, self._heartbeat_task, self._commit_refresh_task]
        going = [task for task in tasks if task is not None and not task.done()]
        for task in going:
            task.cancel()
        if going:
            await asyncio.wait(going, timeout=LEAVE_DEADLINE_S)

    async def _do_heartbeat(self) -> bool:
        member = self._member
        sent_s = 0.0 if member is None else member.now_s()
        confirmed: bool = await super()._do_heartbeat()
        if confirmed and member is not None:
            member.beat(sent_s)
        return confirmed

    async def _do_rejoin_group(self, subscription: SubscriptionState) -> bool:
        if self._member is not None:
            self._member.joining()
        joined: bool = await super()._do_rejoin_group(subscription)
        return joined

    async def _on_join_complete(self, *arguments: Any) -> None:
        await super()._on_join_complete(*arguments)
        # What the join itself confirmed may be long ago by now: a heartbeat says since when.
        await self._do_heartbeat()
        held = frozenset(source.partition for source in self._subscription.assigned_partitions())
        if self._member is not None:
            self._member.joined(held)

    def reset_generation(self) -> None:
        """The group does not know this member any more: others may hold its partitions."""
        super().reset_generation()
        if self._member is not None:
            self._member.give(frozenset())
