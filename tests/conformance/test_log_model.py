"""The log and the acceptor against a naive model: any order of calls, restarts and the passing of time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atlas.adapters.embedded_log import EmbeddedLog
from atlas.core.errors import OffsetOutOfRange, StaleWriter
from atlas.ports.acceptor import Candidate, Outcome, Verdict
from atlas.ports.log import Member, NewRecord, Reader, TopicPartition
from tests.virtual_time import VirtualClock, VirtualLoop, pass_time

TOPIC, PARTITIONS, GROUP = "modelled", 2, "group"
HOUR_MS = 3_600_000
SOURCES = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]

T = TypeVar("T")
partitions = st.integers(0, PARTITIONS - 1)
keys = st.sampled_from([b"%016d" % number for number in range(4)])
hashes = st.sampled_from([b"one", b"two"])


class Model:
    """What the log should hold: values by partition, where each starts, keys with their time."""

    def __init__(self) -> None:
        self.values: list[list[bytes]] = [[] for _ in SOURCES]
        self.starts = [0] * PARTITIONS
        self.keys: dict[bytes, tuple[bytes, bytes, int]] = {}
        self.stored: dict[int, int] = {}
        self.positions = [0] * PARTITIONS

    def outcome(self, key: bytes, payload_hash: bytes) -> Outcome | None:
        known = self.keys.get(key)
        if known is None:
            return None
        return Outcome(Verdict.REPLAYED, known[1]) if known[0] == payload_hash else Outcome(Verdict.CONFLICT)


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(float("inf")))
        self.clock = VirtualClock(self.runner.get_loop())
        self.model = Model()
        self.made = 0
        self.log: EmbeddedLog
        self.reader: Reader
        self.member: Member

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def value(self) -> bytes:
        self.made += 1
        return b"value %d" % self.made

    @initialize()
    def start(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        path = Path(self.directory.name) / "log.db"
        self.log = await EmbeddedLog.open(path, self.clock, threads=False)
        await self.log.create_topic(TOPIC, PARTITIONS, None)
        self.reader = self.log.reader()
        self.reader.assign(dict(zip(SOURCES, self.model.positions, strict=True)))
        self.member = await self.log.join(GROUP, TOPIC)
        await self.member.assignment_changed(frozenset())

    @rule()
    def restart(self) -> None:
        self.run(self.log.close())
        self.run(self._open())

    @rule(appends=st.lists(st.tuples(partitions, st.integers(0, 5)), max_size=4))
    def append(self, appends: list[tuple[int, int]]) -> None:
        sent = [(partition, [self.value() for _ in range(count)]) for partition, count in appends]

        async def all_at_once() -> list[int]:
            calls = (self.log.append(TOPIC, p, [NewRecord(value) for value in own]) for p, own in sent)
            return await asyncio.gather(*calls)

        for offset, (partition, own) in zip(self.run(all_at_once()), sent, strict=True):
            assert offset == len(self.model.values[partition])
            self.model.values[partition] += own

    @rule(events=st.lists(st.tuples(partitions, st.none() | keys, hashes), max_size=5), split=st.booleans())
    def accept(self, events: list[tuple[int, bytes | None, bytes]], split: bool) -> None:
        candidates = []
        expected = []
        for partition, key, payload_hash in events:
            value = self.value()
            candidates.append(Candidate(TOPIC, partition, NewRecord(value), value, key, payload_hash))
            outcome = self.model.outcome(key, payload_hash) if key is not None else None
            if outcome is None:
                outcome = Outcome(Verdict.APPENDED, value)
                self.model.values[partition].append(value)
                if key is not None:
                    self.model.keys[key] = (payload_hash, value, self.clock.now_ms())
            expected.append(outcome)

        async def send() -> list[Outcome]:
            if not split:
                return await self.log.accept(candidates)
            parts = await asyncio.gather(*(self.log.accept([one]) for one in candidates))
            return [outcome for part in parts for outcome in part]

        assert self.run(send()) == expected

    @rule(key=keys, payload_hash=hashes)
    def find(self, key: bytes, payload_hash: bytes) -> None:
        assert self.run(self.log.find(key, payload_hash)) == self.model.outcome(key, payload_hash)

    @rule(records_max=st.integers(1, 8))
    def poll(self, records_max: int) -> None:
        batches = self.run(self.reader.poll(records_max, 0))
        assert sum(len(batch.records) for batch in batches) <= records_max
        behind = [p for p in range(PARTITIONS) if self.model.positions[p] < len(self.model.values[p])]
        assert bool(batches) == bool(behind)
        for batch in batches:
            partition = batch.source.partition
            position, start = self.model.positions[partition], self.model.starts[partition]
            first = max(position, start)
            assert batch.gap_from == (position if start > position else None)
            expected = self.model.values[partition][first : batch.next_offset]
            assert [record.value for record in batch.records] == expected
            assert [r.offset for r in batch.records] == list(range(first, batch.next_offset))
            self.model.positions[partition] = batch.next_offset

    @rule(partition=partitions, back=st.integers(0, 12))
    def move(self, partition: int, back: int) -> None:
        position = max(0, self.model.positions[partition] - back)
        self.reader.assign({SOURCES[partition]: position})
        self.model.positions[partition] = position

    @rule(partition=partitions, offset=st.integers(-1, 40))
    def fetch(self, partition: int, offset: int) -> None:
        if self.model.starts[partition] <= offset < len(self.model.values[partition]):
            record = self.run(self.log.fetch(SOURCES[partition], offset))
            assert (record.offset, record.value) == (offset, self.model.values[partition][offset])
        else:
            with pytest.raises(OffsetOutOfRange):
                self.run(self.log.fetch(SOURCES[partition], offset))

    @rule(partition=partitions, befores=st.lists(st.integers(0, 40), min_size=1, max_size=3))
    def delete(self, partition: int, befores: list[int]) -> None:
        end = len(self.model.values[partition])

        async def all_at_once() -> None:
            calls: list[Awaitable[None]] = [
                self.log.delete_records(SOURCES[partition], before) for before in befores
            ]
            await asyncio.gather(*calls)

        self.run(all_at_once())
        self.model.starts[partition] = max(self.model.starts[partition], min(end, max(befores)))

    @rule(partition=partitions, offset=st.integers(0, 40))
    def commit(self, partition: int, offset: int) -> None:
        self.run(self.member.commit({partition: offset}))
        self.model.stored[partition] = offset

    @rule()
    def leave_and_join_again(self) -> None:
        async def work() -> None:
            await self.member.leave()
            with pytest.raises(StaleWriter):
                await self.member.commit({0: 99})
            self.member = await self.log.join(GROUP, TOPIC)
            await self.member.assignment_changed(frozenset())

        self.run(work())

    @precondition(lambda self: self.made < 200)
    @rule(hours=st.sampled_from([0.5, 3, 6, 23, 24, 31]))
    def time_passes(self, hours: float) -> None:
        """A key is kept for 24 hours at least and for 30 at most, once somebody clears up."""

        async def work() -> None:
            # Members beat once a second: not for a day on end.
            await self.member.leave()
            await pass_time(hours * 3_600)
            await self.log.expire_keys()
            self.member = await self.log.join(GROUP, TOPIC)
            await self.member.assignment_changed(frozenset())

        self.run(work())
        for key, (payload_hash, response, taken_ms) in list(self.model.keys.items()):
            age_ms = self.clock.now_ms() - taken_ms
            found = self.run(self.log.find(key, payload_hash))
            if found is None:
                assert age_ms > 24 * HOUR_MS
                del self.model.keys[key]
            else:
                assert age_ms < 30 * HOUR_MS
                assert found == Outcome(Verdict.REPLAYED, response)

    @invariant()
    def starts_and_ends_agree(self) -> None:
        if not hasattr(self, "log"):
            return

        async def look() -> tuple[list[int], list[int], list[int | None]]:
            starts, ends = await self.log.start_offsets(SOURCES), await self.log.end_offsets(SOURCES)
            stored = [await self.log.committed(GROUP, source) for source in SOURCES]
            return list(starts.values()), list(ends.values()), stored

        starts, ends, stored = self.run(look())
        assert starts == self.model.starts
        assert ends == [len(own) for own in self.model.values]
        assert stored == [self.model.stored.get(partition) for partition in range(PARTITIONS)]

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.run(self.log.close())
        self.runner.close()
        self.directory.cleanup()


LogMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestLogAgainstModel = LogMachine.TestCase
