"""Rebuilds and verifications beside a projection that goes on, in virtual time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from atlas.adapters.sqlite_driver import InlineDriver
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.adapters.sqlite_stores import SqliteStores
from atlas.core.commands import RequestRebuild, RequestVerification
from atlas.core.errors import LogUnavailable, StoreUnavailable
from atlas.core.facts import LIFECYCLE_TOPIC, RecordsTrimmed
from atlas.core.lifecycle import RETRY_SCHEDULED
from atlas.ports.log import TopicPartition
from atlas.ports.read_model import Difference, JobState, ReadModel
from consumers.keeper import AWAY_MAX_S, COMPLETED, FAILED, RUNNING, TRIES, Keeper
from consumers.projector import Projector
from tests.sim_process import Process
from tests.simulation import SCOPE, Simulation, refuse
from tests.virtual_time import VirtualClock, pass_time, virtual_time

NAME = "read-model.db"


class Kept(Simulation):
    """A simulation whose read model lies in a file, with a keeper."""

    stores: SqliteStores
    projector: Projector

    async def open_read_model(self) -> ReadModel:
        return await open_read_model(self.path, entropy=self.random.randbytes, inline=True)

    @property
    def path(self) -> Path:
        return self.directory / NAME

    def start_projector(self) -> None:
        self.stores = SqliteStores(self.path, entropy=self.random.randbytes, inline=True)
        self.projector = Projector(self.log, self.read_model, self.registry, self.clock, self.metrics)
        self.supervisor.start("projector", self.projector.run)
        self.keep()

    def keep(self) -> None:
        keeper = Keeper(self.log, self.read_model, self.stores, self.projector, self.registry, self.clock)
        self.supervisor.start("keeper", keeper.run)

    async def ask(self, kind: type[RequestRebuild | RequestVerification]) -> str:
        """Ask for a job; its id."""
        job_id = self.ids.new("rbd_" if kind is RequestRebuild else "vfy_")
        await self.registry.propose(kind(**self.command(), job_id=job_id))
        return job_id

    async def job(self, job_id: str) -> JobState:
        """The job, once it is over."""
        for _ in range(2_000):
            state = (await self.read_model.jobs()).states.get(job_id)
            if state is not None and state.status != RUNNING:
                return state
            await pass_time(0.1)
        raise AssertionError(f"{job_id} is not over")

    async def incarnation(self) -> str:
        return (await self.read_model.progress()).incarnation

    def files(self) -> set[str]:
        """Names of the generations there are."""
        found = (path.name.removesuffix("-wal").removesuffix("-shm") for path in self.directory.iterdir())
        return {name for name in found if name.startswith("read-model.") and name != NAME}

    def change(self, sql: str) -> None:
        """Something that did not come from the log."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute(sql)
        connection.close()


@asynccontextmanager
async def kept(clock: VirtualClock, directory: Path, *, seed: int = 0) -> AsyncIterator[Kept]:
    async with Kept(clock, directory, seed=seed) as sim:
        await sim.workflow("wf_a")
        await sim.stream("orders", ["wf_a"])
        sim.process()
        yield sim


async def traffic(sim: Kept, ids: list[str], over: Callable[[], bool]) -> None:
    while not over():
        ids += await sim.accept("orders", 5)
        await pass_time(sim.random.uniform(0, 0.05))


@virtual_time
async def test_a_rebuild_under_traffic_takes_over_whole(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        ids = await sim.accept("orders", 100)
        await pass_time(5)
        before, over = await sim.incarnation(), asyncio.Event()
        sending = asyncio.create_task(traffic(sim, ids, over.is_set))
        rebuild = await sim.job(await sim.ask(RequestRebuild))
        assert rebuild.status == COMPLETED
        assert rebuild.records_folded >= rebuild.records_total > 200
        assert await sim.incarnation() != before
        over.set()
        await sending
        await sim.until_status(ids, "delivered", 60)
        assert len({sent.event_id for sent in sim.sender.sent}) == len(sim.sender.sent) == len(ids)
        verification = await sim.job(await sim.ask(RequestVerification))
        assert verification.comparison is not None
        assert verification.comparison.live_digest == verification.comparison.rebuilt_digest
        assert verification.comparison.differences == []
        assert len(sim.files()) == 1
        assert all(status.restarts == 0 for status in sim.supervisor.statuses())


@virtual_time
async def test_routes_that_wait_are_taken_up_across_a_rebuild(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        sim.sender.targets["http://wf_a"] = refuse
        ids = await sim.accept("orders", 50)
        await pass_time(5)
        states = await sim.read_model.load([(*SCOPE, event_id) for event_id in ids])
        assert {state.routes[0].status for state in states.values()} == {RETRY_SCHEDULED}
        for _ in range(3):
            assert (await sim.job(await sim.ask(RequestRebuild))).status == COMPLETED
            await pass_time(20)
        del sim.sender.targets["http://wf_a"]
        await sim.until_status(ids, "delivered", 3_600)
        for event_id in ids:
            numbers = [attempt.attempt for attempt in await sim.attempts(event_id)]
            assert numbers == list(range(1, len(numbers) + 1))


@virtual_time
async def test_new_owners_wait_for_no_position_of_the_store_before(
    clock: VirtualClock, tmp_path: Path
) -> None:
    async with kept(clock, tmp_path) as sim:
        ids = await sim.accept("orders", 20)
        await pass_time(5)
        assert (await sim.job(await sim.ask(RequestRebuild))).status == COMPLETED
        await sim.processes[0].kill()
        Process(sim, "second")
        ids += await sim.accept("orders", 20)
        sim.process("third")
        await sim.until_status(ids, "delivered", 60)


@virtual_time
async def test_a_rebuild_cut_short_is_begun_again(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        ids = await sim.accept("orders", 500)
        await sim.until_status(ids, "delivered", 60)
        for _ in range(3):  # killed again and again, each time a little later
            await sim.supervisor.stop("keeper", "projector")
            job_id = await sim.ask(RequestRebuild)
            before = await sim.incarnation()
            sim.start_projector()
            while job_id not in (await sim.read_model.jobs()).states:
                await pass_time(0)
            await sim.supervisor.stop("keeper", "projector")
            await sim.read_model.close()
            left = (await open_read_model(sim.path, inline=True)).made_anew
            assert left is None
            sim.read_model = await sim.open_read_model()
            assert len(sim.files()) == 1
            sim.start_projector()
            assert (await sim.job(job_id)).status == COMPLETED
            assert await sim.incarnation() != before
        done = (await sim.read_model.jobs()).states
        assert len(done) == 3
        assert all(state.status == COMPLETED for state in done.values())


@virtual_time
async def test_a_store_made_anew_owes_no_rebuild(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        await sim.accept("orders", 20)
        await sim.supervisor.stop("keeper")
        await sim.ask(RequestRebuild)
        await sim.supervisor.stop("projector")
        sim.path.unlink()  # the next look makes it anew
        made = await sim.incarnation()
        sim.start_projector()
        await pass_time(60)
        assert await sim.incarnation() == made
        assert (await sim.read_model.jobs()).position == sim.registry.position
        assert (await sim.job(await sim.ask(RequestRebuild))).status == COMPLETED


TAMPERED = {
    "UPDATE events SET type = 'forged' WHERE id = '{0}'": [("events", "both")],
    "DELETE FROM attempts WHERE event_id = '{0}'": [("attempts", "rebuilt")],
    "INSERT INTO epochs VALUES (99, 1)": [("epochs", "live")],
    "INSERT INTO scopes VALUES (99, 'ws_x', 'live'); INSERT INTO terms VALUES (99, 's', 'evt_x')": [
        ("terms", "live")
    ],
}


@virtual_time
async def test_a_verification_says_where_a_store_differs(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        ids = await sim.accept("orders", 30)
        await sim.until_status(ids, "delivered", 60)
        for statements, expected in TAMPERED.items():
            for sql in statements.split("; "):
                sim.change(sql.format(ids[7]))
            found = (await sim.job(await sim.ask(RequestVerification))).comparison
            assert found is not None
            assert found.live_digest != found.rebuilt_digest
            assert [(each.table, each.where) for each in found.differences] == expected
            assert (await sim.job(await sim.ask(RequestRebuild))).status == COMPLETED
        again = (await sim.job(await sim.ask(RequestVerification))).comparison
        assert again is not None
        assert again.differences == []


@virtual_time
async def test_differences_are_told_up_to_a_bound(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        ids = await sim.accept("orders", 30)
        await sim.until_status(ids, "delivered", 60)
        sim.change("UPDATE routes SET attempt = 9")
        found = (await sim.job(await sim.ask(RequestVerification))).comparison
        assert found is not None
        assert found.differences == [
            Difference("routes", "/".join(SCOPE), [event_id, 0, ""], "both") for event_id in sorted(ids)[:10]
        ]


@virtual_time
async def test_records_trimmed_meanwhile_make_it_look_again(clock: VirtualClock, tmp_path: Path) -> None:
    """The trim is in the log, its records are gone, and the store has not folded it yet."""
    async with kept(clock, tmp_path) as sim:
        stream = await sim.stream("brief", ["wf_a"], retention_days=1)
        ids = await sim.accept("brief", 20)
        await sim.until_status(ids, "delivered", 60)
        await pass_time(30)
        async with sim.projector.paused():
            for owner in sim.processes[0].deliverer.owners():
                source = TopicPartition(stream.topic, owner.shard)
                end = (await sim.log.end_offsets([source]))[source]
                now_ms = clock.now_ms()
                fact = RecordsTrimmed(
                    epoch=owner.epoch, topic=stream.topic, before_offset=end, before_ms=now_ms, at_ms=now_ms
                )
                await owner.write(fact)
                await sim.log.delete_records(source, end)
            asked = await sim.ask(RequestVerification)
            await pass_time(0.05)
        found = (await sim.job(asked)).comparison
        assert found is not None
        assert found.live_digest == found.rebuilt_digest
        await sim.folded()
        assert (await sim.read_model.counts())["events"] == 0


@virtual_time
async def test_a_job_that_fails_again_and_again_is_given_up(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        ids, tries = await sim.accept("orders", 20), 0
        await pass_time(5)
        before, make = await sim.incarnation(), sim.stores.shadow

        async def full() -> object:
            nonlocal tries
            tries += 1
            raise StoreUnavailable("the disk is full")

        sim.stores.shadow = full  # type: ignore[assignment, method-assign]  # a disk that is full
        rebuild = await sim.job(await sim.ask(RequestRebuild))
        assert (rebuild.status, rebuild.error, tries) == (FAILED, "the disk is full", TRIES)
        assert rebuild.completed_at_ms is not None
        sim.stores.shadow = make  # type: ignore[method-assign]  # as it was
        assert await sim.incarnation() == before
        assert (await sim.job(await sim.ask(RequestRebuild))).status == COMPLETED
        await sim.until_status(ids, "delivered", 60)


@virtual_time
async def test_a_job_waits_for_a_log_that_is_away(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        await sim.accept("orders", 20)
        await pass_time(5)
        make, since_s = sim.stores.shadow, clock.monotonic_s()

        async def away() -> object:
            if clock.monotonic_s() - since_s < AWAY_MAX_S / 2:
                raise LogUnavailable("Kafka did not answer in time")
            return await make()

        sim.stores.shadow = away  # type: ignore[assignment, method-assign]  # a fault at the port
        job_id = await sim.ask(RequestRebuild)
        await pass_time(AWAY_MAX_S)
        assert (await sim.job(job_id)).status == COMPLETED


@virtual_time
async def test_a_snapshot_stands_still(clock: VirtualClock, tmp_path: Path) -> None:
    async with kept(clock, tmp_path) as sim:
        await sim.accept("orders", 20)
        await pass_time(5)
        snapshot = await sim.stores.snapshot()
        ids = await sim.accept("orders", 20)
        await sim.until_status(ids, "delivered", 60)
        driver = snapshot._driver
        assert isinstance(driver, InlineDriver)
        count = "SELECT count(*) FROM events"
        assert await driver.read(lambda connection: connection.execute(count).fetchone()) == (20,)
        lifecycle = sum(at for s, at in snapshot.progress.positions.items() if s.topic == LIFECYCLE_TOPIC)
        assert lifecycle < sum((await sim.log.end_offsets(sim.sources())).values())
        await snapshot.close()
