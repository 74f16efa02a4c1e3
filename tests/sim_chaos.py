"""A scenario made of random faults and random changes under load, and what must hold after any of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from atlas.adapters.embedded_group import SESSION_TIMEOUT_S
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.core.commands import (
    DeleteTarget,
    DisableTarget,
    PatchStream,
    PatchTarget,
    ReactivateTarget,
    RotateSecret,
)
from atlas.core.entities import ENABLED, Workflow, secret_context
from atlas.core.facts import (
    LIFECYCLE_TOPIC,
    DeliveryParked,
    ShardClaimed,
    decode_lifecycle,
    parse_event_topic,
)
from atlas.core.lifecycle import TERMINAL, IllegalTransition
from atlas.core.projection import EventState, accepted, advance
from atlas.core.reading import event_in
from atlas.ports.log import TopicPartition
from atlas.ports.sender import DeliveryResult
from tests.sim_faults import FaultySimulation
from tests.sim_process import Process
from tests.simulation import DOWN, GONE, OK, SCOPE, SECRET, Sent
from tests.test_takeover import check_rebuild
from tests.virtual_time import VirtualClock, pass_time

TARGETS = ("wf_a", "wf_b", "wf_c")
STREAMS = ("orders", "payments")
SCHEDULE_S = (1, 2, 4, 8, 16, 32, 64, 128)
#: An attempt that reads its payload from a log that is slow, or away, starts this long after its target
#: was last looked at.
GRACE_MS = 6_000

Act = Callable[[], Awaitable[None]]


class Chaos:
    """Random faults from a seed. `kinds` names what may happen; see the methods."""

    def __init__(self, sim: FaultySimulation, kinds: Sequence[str], lane_max: int, queued_max: int) -> None:
        self.sim, self.kinds = sim, tuple(kinds)
        self.lane_max, self.queued_max = lane_max, queued_max
        self.chance = sim.chance
        self.running: list[Process] = []
        self.ids: list[str] = []
        self.disabled_since: dict[str, int] = {}
        self.sent_while_disabled: list[tuple[Sent, int]] = []
        self._made = 0

    async def prepare(self) -> None:
        """Targets, streams and the first process."""
        sim = self.sim
        for target in TARGETS:
            await sim.workflow(target, retry_schedule_seconds=SCHEDULE_S)
            for url in (f"http://{target}", f"http://{target}/other"):
                sim.sender.targets[url] = self.flaky
        for stream in STREAMS:
            await sim.stream(stream, list(TARGETS))
        sim.registry.subscribe(lambda _, decision: self.changed(decision))
        self.start()

    async def flaky(self, sent: Sent) -> DeliveryResult:
        """A target that fails now and then, at its own pace."""
        target = sent.url.removeprefix("http://").partition("/")[0]
        if target in self.disabled_since and sent.at_ms - self.disabled_since[target] > GRACE_MS:
            self.sent_while_disabled.append((sent, self.disabled_since[target]))
        await pass_time(self.chance.choice([0.001, 0.05, 0.3, 2.0]))
        if "gone" in self.kinds and self.chance.random() < 0.01:
            return GONE
        if "raise" in self.kinds and self.chance.random() < 0.03:
            raise RuntimeError("a sender with a bug")
        return OK if self.chance.random() < 0.7 else DOWN

    def changed(self, decision: object) -> None:
        if isinstance(decision, Workflow):
            now = self.sim.registry.state.workflows[SCOPE].get(decision.id)
            if now is None or now.status != ENABLED:
                self.disabled_since.setdefault(decision.id, self.sim.clock.now_ms())
            else:
                self.disabled_since.pop(decision.id, None)

    def start(self) -> None:
        self._made += 1
        self.running.append(self.sim.process(str(self._made), self.lane_max, self.queued_max))

    # -- what may happen ----------------------------------------------------------------------

    async def step(self) -> None:
        """Load, time, and one thing that happens."""
        sim, chance = self.sim, self.chance
        for _ in range(chance.randrange(1, 4)):
            self.ids += await sim.accept(chance.choice(STREAMS), chance.randrange(1, 12))
            await pass_time(chance.uniform(0, 2))
        kind = chance.choice(self.kinds)
        act: Act | None = getattr(self, f"do_{kind}", None)
        if act is not None:
            await act()

    async def do_append(self) -> None:
        faults, chance = self.sim.faults, self.chance
        faults.append_refused = chance.choice([0.0, 0.1, 0.5])
        faults.append_in_doubt = chance.choice([0.0, 0.1, 0.5])
        faults.append_late = chance.choice([0.0, 0.0, 0.1])

    async def do_read(self) -> None:
        self.sim.faults.read_fails = self.chance.choice([0.0, 0.02, 0.2])
        self.sim.faults.commit_fails = self.chance.choice([0.0, 0.5])

    async def do_slow(self) -> None:
        self.sim.faults.log_slow_s = self.chance.choice([0.0, 0.05, 1.0])
        self.sim.faults.store_slow_s = self.chance.choice([0.0, 0.05, 1.0])

    async def do_store(self) -> None:
        self.sim.faults.store_fails = self.chance.choice([0.0, 0.05, 0.5])

    async def do_away(self) -> None:
        faults = self.sim.faults
        which = self.chance.choice(["log_away", "store_away"])
        setattr(faults, which, True)
        await pass_time(self.chance.uniform(0, 200))
        setattr(faults, which, False)

    async def do_kill(self) -> None:
        victim = self.chance.choice(self.running)
        await victim.kill()
        self.running.remove(victim)
        if not self.running:
            self.start()

    async def do_pause(self) -> None:
        self.chance.choice(self.running).pause()
        await pass_time(self.chance.uniform(0, 2 * SESSION_TIMEOUT_S))
        if self.chance.random() < 0.7:
            self.wake()

    def wake(self) -> None:
        for process in self.running:
            process.resume()

    async def do_start(self) -> None:
        if len(self.running) < 3:
            self.start()

    async def do_projector(self) -> None:
        await self.sim.kill_projector()
        await pass_time(self.chance.choice([0, 1, 20, 300]))
        self.sim.start_projector()

    async def do_exchange(self) -> None:
        """The read model is lost, or restored from an older copy."""
        if self.chance.random() < 0.5:
            self.sim.store.exchange(await open_read_model(None))
            return
        copy = await self.sim.store.copy()
        await pass_time(self.chance.uniform(0, 30))
        self.sim.store.exchange(copy)

    async def do_registry(self) -> None:
        await self.sim.supervisor.stop("control")
        await pass_time(self.chance.uniform(0, 5))
        self.sim.supervisor.start("control", self.sim.registry.run)

    async def do_target(self) -> None:
        sim, chance, target = self.sim, self.chance, self.chance.choice(TARGETS)
        which = chance.choice(["disable", "reactivate", "delete", "create", "patch", "patch", "rotate"])
        await sim.try_to(lambda: self.change(which, target))

    async def change(self, which: str, target: str) -> None:
        sim, chance = self.sim, self.chance
        match which:
            case "disable":
                await sim.registry.propose(DisableTarget(**sim.scoped(target), reason="requested"))
            case "reactivate":
                await sim.registry.propose(ReactivateTarget(**sim.scoped(target)))
            case "delete":
                await sim.registry.propose(DeleteTarget(**sim.scoped(target)))
                await self.route()
            case "create":
                await sim.workflow(target, retry_schedule_seconds=SCHEDULE_S)
                await self.route()
            case "patch":
                patch = PatchTarget(
                    **sim.scoped(target),
                    url=chance.choice([f"http://{target}", f"http://{target}/other"]),
                    timeout_ms=chance.choice([100, 5_000]),
                    retry_schedule_seconds=chance.choice([(), (1, 2), SCHEDULE_S]),
                    max_in_flight=chance.choice([1, 3, 32]),
                    rate_limit_per_second=chance.choice([None, 2, 100]),
                )
                await sim.registry.propose(patch)
            case "rotate":
                sealed = sim.box.seal(SECRET, secret_context(*SCOPE, target))
                rotate = RotateSecret(
                    **sim.scoped(target), sealed=sealed, old_ends_at_ms=sim.clock.now_ms() + 10_000
                )
                await sim.registry.propose(rotate)

    async def route(self) -> None:
        """Streams route to the targets there are."""
        there = tuple(t for t in TARGETS if t in self.sim.registry.state.workflows[SCOPE])
        for stream in STREAMS:
            patch = PatchStream(
                **self.sim.command(), workspace_id=SCOPE[0], environment=SCOPE[1], name=stream,
                default_routes=there,
            )  # fmt: skip
            await self.sim.registry.propose(patch)

    async def do_jump(self) -> None:
        """A suspended machine: the wall clock is ahead when it wakes up."""
        self.sim.clock.jump(self.chance.choice([10, 600, 86_400]))

    async def do_retention(self) -> None:
        days = self.chance.choice([1, 2])
        patch = PatchStream(
            **self.sim.command(), workspace_id=SCOPE[0], environment=SCOPE[1],
            name=self.chance.choice(STREAMS), retention_days=days,
        )  # fmt: skip
        await self.sim.try_to(lambda: self.sim.registry.propose(patch))

    # -- what must hold -----------------------------------------------------------------------

    async def heal(self) -> None:
        """No more faults, healthy targets."""
        sim = self.sim
        sim.faults.heal()
        self.wake()
        sim.sender.targets.clear()
        self.kinds = tuple(kind for kind in self.kinds if kind not in ("gone", "raise"))

    async def quiet(self, seconds: float = 3_600) -> None:
        """G3, and nothing left over in memory."""
        sim = self.sim

        async def all_terminal() -> bool:
            await sim.folded()
            return not await self.open_events()

        try:
            await sim.until(all_terminal, seconds)
        except AssertionError:
            raise AssertionError(f"not terminal: {(await self.open_events())[:3]}") from None
        for process in self.running:
            process.name = f"process {process.name}"
        await pass_time(200)
        for process in list(sim.processes):
            if process not in self.running:
                sim.processes.remove(process)
        assert not (left := sim.left_over()), left

    async def open_events(self) -> list[EventState]:
        found = await self.sim.read_model.load([(*SCOPE, event_id) for event_id in self.ids])
        gone = [i for i in self.ids if (*SCOPE, i) not in found]
        assert not gone or "retention" in self.kinds, gone
        return [e for e in found.values() if any(r.status not in TERMINAL for r in e.routes)]

    async def check(self) -> None:
        """G4: whatever the log says, in order, against what was sent."""
        sim = self.sim
        assert not self.sent_while_disabled, self.sent_while_disabled[:3]
        bodies = defaultdict(set)
        for sent in sim.sender.sent:
            bodies[sent.delivery_id].add(sent.body)
        assert all(len(found) == 1 for found in bodies.values()), "a delivery id with two bodies"
        ended_ms, twice = await self._ended_ms()
        assert not twice, f"parked twice: {twice[:3]}"
        late = [
            (sent, ended)
            for sent in sim.sender.sent
            if (ended := ended_ms.get((sent.event_id, target_of(sent)))) is not None and sent.at_ms > ended
        ]
        assert not late, f"{len(late)} sent after terminal, first {late[0]}"

    async def _ended_ms(self) -> tuple[dict[tuple[str, str], int], list[DeliveryParked]]:
        """When each route became terminal in the log, and parks by valid owners that were void."""
        sim = self.sim
        states: dict[str, EventState] = {}
        for source in sim.sources():
            name = parse_event_topic(source.topic)
            for record in await sim.records(source) if name else ():
                assert name is not None
                event = event_in(record.value, record.headers, name)
                assert event is not None
                states[event.id] = accepted(event, *source, record.offset)
        ended: dict[tuple[str, str], int] = {}
        twice: list[DeliveryParked] = []
        for shard in range(sim.shards):
            epoch = -1
            seen: set[bytes | None] = set()
            for record in await sim.records(TopicPartition(LIFECYCLE_TOPIC, shard)):
                fact = decode_lifecycle(record.value or b"")
                if isinstance(fact, ShardClaimed):
                    epoch = record.offset
                    continue
                state = states.get(getattr(fact, "event_id", ""))
                if fact.epoch != epoch or state is None:
                    continue
                repeated = record.value in seen
                seen.add(record.value)
                try:
                    states[state.id] = new = advance(state, fact)
                except IllegalTransition:
                    if isinstance(fact, DeliveryParked) and not repeated:
                        twice.append(fact)
                    continue
                for route in new.routes:
                    if route.status in TERMINAL:
                        ended.setdefault((new.id, route.target), record.timestamp_ms)
        return ended, twice


def target_of(sent: Sent) -> str:
    return sent.url.removeprefix("http://").partition("/")[0]


async def run_chaos(
    clock: VirtualClock,
    directory: Path,
    seed: int,
    kinds: Sequence[str],
    *,
    lane_max: int = 5,
    queued_max: int = 40,
    steps: int = 12,
    shards: int = 2,
) -> None:
    """One scenario from its seed, with every check after it."""
    async with FaultySimulation(clock, directory, seed=seed, shards=shards) as sim:
        chaos = Chaos(sim, kinds, lane_max, queued_max)
        await chaos.prepare()
        for _ in range(steps):
            await chaos.step()
        await chaos.heal()
        await chaos.quiet()
        await chaos.check()
        await check_rebuild(sim)
        assert not sim.unhandled, sim.unhandled
