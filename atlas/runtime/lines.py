"""Order: events of one stream with the same ordering key reach a target one after another (design section 8).

A line is the routes of one (stream, target, key); all of them lie in one shard. Only the first of a line is
attempted; the others are parked `in_line` and wait for nothing but those before them. When the first has
ended, the next one goes at once if its owner has parked it itself and remembers it; else the owner asks the
store, once that has folded the fact, who is next.

An event goes straight from its topic only if nothing else of its line is open. The owner knows what is open
from the store, after its claim, and from its own facts since; while it does not, or when there is more than
it may remember, every event joins its line.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from atlas.core.entities import Scope
from atlas.core.facts import DeliveryAttempted, DeliveryClosed, DeliveryFact, DeliveryParked, ReplayRequested
from atlas.core.lifecycle import IN_LINE, TERMINAL
from atlas.ports.read_model import Line, ReadModel, Waiting, WaitingRoute
from atlas.runtime.engine import Engine
from atlas.runtime.overlay import Overlay
from atlas.runtime.patience import backoff_s, patiently
from atlas.runtime.work import LaneKey, Owner, Work, WorkKey

#: Open routes of all lines that an owner remembers.
OPEN_MAX: Final = 50_000
#: Parked routes that an owner remembers to send them on, with their payload if that is small.
FOLLOWERS_MAX: Final = 2_048
FOLLOWER_BYTES_MAX: Final = 1_024
#: Lines whose next route is to be looked for; past it their targets are gone through instead.
WANTED_MAX: Final = 10_000
#: Routes of a line that the store is asked for at a time: it has to have folded the end of the one before, so
#: that for each of a long line there would be a wait for the projection.
AHEAD: Final = 64
#: Lines looked at side by side.
LOOKERS: Final = 8
_AGAIN_S: Final = 0.05

log_line = structlog.get_logger()


class Waits(Protocol):
    """What is needed of the owner's other waiting routes."""

    async def store_has(self, offset: int) -> None:
        """Wait until the store has folded the shard's lifecycle up to this record."""

    def work(self, route: WaitingRoute) -> Work:
        """A stored route as a work of this owner."""

    def spill(self, scope: Scope, target: str, behind: bool = True) -> None:
        """Something for this target is in the store only."""


class Lines:
    """Of one shard. `run` must be kept running by the owner."""

    def __init__(
        self, owner: Owner, read_model: ReadModel, engine: Engine, overlay: Overlay, waits: Waits
    ) -> None:
        self._owner, self._read_model, self._engine = owner, read_model, engine
        self._overlay, self._waits = overlay, waits
        #: Offsets in the order of the line; only while loading in that in which they were heard of.
        self._open: dict[Line, dict[int, None]] = {}
        self._count = 0
        #: Of those, routes whose parking is durable.
        self._followers: dict[tuple[Line, int], Work] = {}
        self._loaded = self._loading = False
        #: Events whose first fact is not durable yet: the store need not have them.
        self._young: set[tuple[Line, int]] = set()
        #: The newest request for a replay.
        self._requested = -1
        #: Whose turn it is, from its first attempt to its end.
        self._going: dict[Line, WorkKey] = {}
        #: Ended while the store was being asked what is open.
        self._ended: set[tuple[Line, int]] = set()
        #: Lines whose next route is wanted, by a store that has folded this record.
        self._wanted: OrderedDict[Line, int] = OrderedDict()
        self._more = asyncio.Event()
        #: Targets whose lines may have a first route that nobody has taken up.
        self._heads: set[LaneKey] = set()

    def __len__(self) -> int:
        return self._count + sum(map(len, (self._young, self._going, self._wanted, self._followers)))

    # -- what the owner tells -----------------------------------------------------------------

    def joins(self, work: Work) -> bool:
        """An event has come; whether it has to wait in line, or may go at once."""
        line = self._line_of(work)
        if line is None:
            return False
        alone = self._loaded and self._open.get(line, {}).keys() <= {work.offset}
        self._young.add((line, work.offset))
        self._add(line, work.offset)
        if alone:
            self._begin(line, work.key)
        return not alone

    def offer(self, work: Work) -> bool:
        """Take up the first of a line, unless another has its turn: then its end comes first.

        Returns:
            False when there is no room for it.
        """
        line = self._line_of(work)
        if line is None:
            return self._engine.offer(work)
        if self._going.get(line, work.key) != work.key:
            return True
        if not self._engine.offer(work):
            return False
        self._add(line, work.offset)
        self._begin(line, work.key)
        return True

    def adopted(self, work: Work) -> None:
        """An event's first attempt was under way in this process already."""
        line = self._line_of(work)
        if line is not None:
            self._young.add((line, work.offset))
            self._add(line, work.offset)
            self._begin(line, work.key)

    def shed(self, lane: LaneKey) -> None:
        """The first of some lines wait in the lane no longer: they are found again when it has room."""
        self._heads.add(lane)

    def recorded(self, work: Work, fact: DeliveryFact, offset: int) -> None:
        """A fact about the route is durable."""
        line = self._line_of(work)
        if line is None:
            return
        self._young.discard((line, work.offset))
        if isinstance(fact, DeliveryParked):
            if fact.reason == IN_LINE:
                self._remember(line, work)
                self._go_on(line, offset)
        elif isinstance(fact, DeliveryClosed) or (
            isinstance(fact, DeliveryAttempted) and fact.outcome in TERMINAL
        ):
            self._remove(line, work.offset)
            if self._going.get(line) == work.key:
                del self._going[line]
            if not self._loaded or line in self._open:
                self._go_on(line, offset)

    def replay_requested(self, scope: Scope, fact: ReplayRequested, offset: int) -> None:
        """Routes may have joined their lines."""
        if fact.ordering_key is None:
            return
        self._requested = offset
        for target in fact.targets:
            line = Line(self._owner.shard, scope, target, fact.topic, fact.ordering_key)
            self._add(line, fact.offset)
            self._want(line, offset)

    def _line_of(self, work: Work) -> Line | None:
        if work.ordering_key is None:
            return None
        return Line(self._owner.shard, work.scope, work.target, work.topic, work.ordering_key)

    def _begin(self, line: Line, key: WorkKey) -> None:
        if len(self._going) >= OPEN_MAX:  # of those that wait for a retry the store knows
            self._going = {at: its for at, its in self._going.items() if self._engine.has(its)}
        self._going[line] = key

    def _add(self, line: Line, offset: int) -> None:
        if not self._loaded and not self._loading:
            return
        offsets = self._open.setdefault(line, {})
        if offset not in offsets:
            offsets[offset] = None
            self._count += 1
        if self._count > OPEN_MAX:
            self._forget()

    def _remove(self, line: Line, offset: int) -> None:
        if self._loading:
            self._ended.add((line, offset))
        self._followers.pop((line, offset), None)
        offsets = self._open.get(line)
        if offsets is None or offset not in offsets:
            return
        del offsets[offset]
        self._count -= 1
        if not offsets:
            del self._open[line]

    def _forget(self) -> None:
        if self._loaded:
            log_line.info("too many routes wait in line to remember", shard=self._owner.shard)
        self._open.clear()
        self._followers.clear()
        self._ended.clear()
        self._count = 0
        self._loaded = self._loading = False

    # -- what is open -------------------------------------------------------------------------

    @property
    def loaded(self) -> bool:
        """Whether it is known what is open."""
        return self._loaded

    async def load(self, offset: int) -> None:
        """Ask the store what is open, once that has folded the shard up to `offset`."""
        self._loading = True
        for line, young in self._young:
            self._add(line, young)
        await self._waits.store_has(max(offset, self._requested))
        snapshot = await patiently(lambda: self._read_model.lines(self._owner.shard, OPEN_MAX + 1))
        if len(snapshot.routes) > OPEN_MAX or not self._overlay.admits(snapshot):
            self._forget()
            return
        for route in snapshot.routes:
            line = self._line(route)
            if (line, route.offset) not in self._ended:
                self._add(line, route.offset)
        # A replay is behind others of higher offsets: nobody remembers it, so the store is asked.
        self._open = {line: dict.fromkeys(sorted(offsets)) for line, offsets in self._open.items()}
        self._loaded, self._loading = self._loading, False
        self._ended.clear()

    async def find_heads(self) -> None:
        """After the claim: take up the first of every line that is nobody's."""
        for workspace_id, environment, target in await patiently(
            lambda: self._read_model.targets_in_line(self._owner.shard)
        ):
            self.want_heads((workspace_id, environment, target))

    def _line(self, route: WaitingRoute) -> Line:
        scope = (route.workspace_id, route.environment)
        assert route.ordering_key is not None
        return Line(self._owner.shard, scope, route.target, route.topic, route.ordering_key)

    # -- who is next --------------------------------------------------------------------------

    def wants_heads(self, lane: LaneKey) -> bool:
        """Whether the target's lines are to be gone through when its lane has room; asked once."""
        if lane not in self._heads:
            return False
        self._heads.remove(lane)
        return True

    def want_heads(self, lane: LaneKey) -> None:
        """They are to be gone through: not all found room, or nobody knows of them."""
        self._heads.add(lane)
        self._waits.spill((lane[0], lane[1]), lane[2], behind=False)

    def _remember(self, line: Line, work: Work) -> None:
        """A route is parked: it need not be asked for when its turn comes."""
        if len(self._followers) < FOLLOWERS_MAX:
            follower = work.again(work.attempt)
            if work.record is not None and len(work.record.data) <= FOLLOWER_BYTES_MAX:
                follower.record = work.record
            self._followers[line, work.offset] = follower

    def _go_on(self, line: Line, offset: int) -> None:
        """It is somebody else's turn, unless the one who has it is not done."""
        if self._loaded and line in self._going:
            return
        follower = self._first(line)
        if follower is None or not self.offer(follower):
            self._want(line, offset)

    def _first(self, line: Line) -> Work | None:
        """The first of the line, if it is known and waits for nothing else."""
        offsets = self._open.get(line) if self._loaded else None
        return self._followers.pop((line, next(iter(offsets))), None) if offsets else None

    def _want(self, line: Line, offset: int) -> None:
        if line not in self._wanted and len(self._wanted) >= WANTED_MAX:
            self.want_heads((*line.scope, line.target))
            return
        self._wanted[line] = max(offset, self._wanted.get(line, 0))
        self._more.set()

    async def run(self) -> None:
        """Find the next of each line that wants it, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(LOOKERS):
                group.create_task(self._look())

    async def _look(self) -> None:
        while True:
            while not self._wanted:
                self._more.clear()
                await self._more.wait()
            line, offset = self._wanted.popitem(last=False)
            await self._next(line, offset)

    async def _next(self, line: Line, offset: int) -> None:
        """Take up the first of the line, if it waits for nothing else."""
        tries = 0
        while not self._owner.closed:
            await self._waits.store_has(offset)
            snapshot = await patiently(lambda: self._read_model.next_in_line(line, AHEAD))
            first, others = snapshot.routes[:1], snapshot.routes[1:]
            if self._is_settled(snapshot, first, offset):
                self._remember_stored(line, others)
                if not self._take(first):
                    self.want_heads((*line.scope, line.target))
                return
            await asyncio.sleep(min(backoff_s(tries), _AGAIN_S))
            tries += 1

    def _is_settled(self, snapshot: Waiting, first: Sequence[WaitingRoute], offset: int) -> bool:
        """Whether the store knows as much of the route as its owner."""
        if snapshot.lifecycle_position <= offset or not self._overlay.admits(snapshot):
            return False
        return not any(self._overlay.knows(self._waits.work(route).key) for route in first)

    def _remember_stored(self, line: Line, routes: Sequence[WaitingRoute]) -> None:
        """Those behind the first that an owner before has parked, as if this one had."""
        offsets = self._open.get(line, {}) if self._loaded else {}
        for route in routes:
            work = self._waits.work(route)
            if not route.in_line or route.replay or route.offset not in offsets:
                return
            if self._overlay.knows(work.key) or len(self._followers) >= FOLLOWERS_MAX:
                return
            self._followers.setdefault((line, route.offset), work)

    def _take(self, first: Sequence[WaitingRoute]) -> bool:
        """False: there was no room for it."""
        for route in first:
            if not route.in_line:
                continue  # it comes by itself: from its topic, or at its time
            work = self._waits.work(route)
            if not self._engine.adopt(work) and not self.offer(work):
                return False
        return True
