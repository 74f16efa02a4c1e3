"""Disk full, for real: 503 with Retry-After, reads go on, nothing is half accepted, it recovers unaided."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults_client import Clients, Operation, Verdict
from tests.faults_disk import Disk, file_size_limit, small_filesystem
from tests.faults_log import copy_log, read_log
from tests.faults_receiver import FINE, TIMEOUT_MS, Receiver
from tests.faults_server import Server
from tests.faults_views import Views, fetch_views, shown, until_nothing_is_open, walk
from tests.invariants import check
from tests.invariants_history import FAIL, INFO, OK, History, Try
from tests.processes import Reply, eventually, request

#: First big events, then what goes into the corners.
SIZES_BYTES: Final = (100_000, 10_000, 500)
SENDERS: Final = 4
BATCH: Final = 8
REFUSED_EACH: Final = 5
#: From the moment there is room again until everything that was refused is accepted and delivered.
RECOVERS_WITHIN_S: Final = 30.0
#: An answer that takes longer is a hang.
ANSWER_MAX_S: Final = 5.0


def event(number: int, size: int) -> dict[str, Any]:
    return {
        "stream": "orders",
        "type": "order.fulfilled",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {"number": number, "filling": "x" * size},
    }


def operation(client: str, number: int, *, size: int, count: int = 1, keyed: bool = True) -> Operation:
    """A single event or a batch; in a batch without keys nothing can be retried."""
    numbers = range(number, number + count)
    keys = [f"{client}-{each}" if keyed else None for each in numbers]
    return Operation(
        environment="live",
        client=client,
        sequence=number,
        events=[{**event(each, size), "metadata": {"client": client}} for each in numbers],
        keys=keys,
        header_key=keys[0] if count == 1 else None,
        batch=count > 1,
        own_keys=keyed,
    )


class Scenario:
    """One Atlas over a disk that gets full."""

    def __init__(self, server: Server, clients: Clients, url: str, key: str) -> None:
        self.server, self.clients, self.url, self.key = server, clients, url, key
        self.refused: list[Operation] = []

    async def send(self, sent: Operation) -> list[Verdict]:
        """Send, with an eye on how long the answer takes."""
        started_s = time.monotonic()
        verdicts = await self.clients.send(sent)
        assert time.monotonic() - started_s < ANSWER_MAX_S, "that was a hang"
        assert all(verdict.status in (202, 503) for verdict in verdicts), verdicts
        if verdicts[0].status == 503:
            self.refused.append(sent)
        return verdicts

    async def fill(self) -> None:
        """Several clients send events, singles and batches, until not even small ones go in any more."""
        await asyncio.gather(*(self._fill(f"c{index}") for index in range(SENDERS)))

    async def _fill(self, client: str) -> None:
        number = 0
        for size in SIZES_BYTES:
            refused = 0
            while refused < REFUSED_EACH:
                count = BATCH if number % 3 == 0 else 1
                sent = operation(client, number, size=size, count=count, keyed=number % 4 != 0)
                refused += (await self.send(sent))[0].status == 503
                number += count

    async def ask(self, method: str, path: str, body: object = None, key: str = "") -> Reply:
        headers = {"Idempotency-Key": key} if key else None
        return await asyncio.to_thread(request, self.url, method, path, body, self.key, headers)

    async def refusal_has_the_right_form(self) -> None:
        """A 503 as the API notes say, and a `/readyz` that tells why."""
        answer = await self.ask("POST", "/v1/events", event(0, 2 * SIZES_BYTES[0]), key="form")
        assert (answer.status, answer.value["error"]["code"]) == (503, "service_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        ready = await self.until_ready_is(503)
        assert ready.value["status"] == "unready"
        assert ready.value["checks"]["log"] != "ok"
        assert (await self.ask("GET", "/healthz")).status == 200

    async def until_ready_is(self, status: int) -> Reply:
        """The answer of `/readyz`, which is kept for a second, once it has this status."""
        answers: list[Reply] = []

        def reached() -> bool:
            answers.append(request(self.url, "GET", "/readyz"))
            return answers[-1].status == status

        await asyncio.to_thread(eventually, reached, f"/readyz answers {status}")
        return answers[-1]

    async def reads_go_on(self, before: Views) -> None:
        """What showed before the disk got full shows still: status, attempts, payload, list."""
        assert await fetch_views(self.clients, "live", before) == before
        for event_id in list(before)[:3]:
            payload = await self.ask("GET", f"/v1/events/{event_id}/payload")
            assert (payload.status, payload.value["id"]) == (200, event_id)
        assert (await self.ask("GET", "/v1/events?limit=5")).value["data"]
        assert (await self.ask("GET", "/v1/workflows")).status == 200

    async def control_is_refused_too(self) -> None:
        """A stream cannot be made now, or is made for good: no 500, no hang."""
        answer = await self.ask("POST", "/v1/event-streams", {"name": "another", "description": "x" * 999})
        assert answer.status in (201, 503), answer

    async def retry_refused(self) -> None:
        """Every refused event with a key gets in."""
        for sent in self.refused:
            if sent.keys[0] is None:
                continue
            while (await self.send(sent))[0].outcome == INFO:  # noqa: ASYNC110  # HTTP tells nobody
                await asyncio.sleep(random.uniform(0.01, 0.1))


def refusals_count(tries: Sequence[Try]) -> list[Try]:
    """A 503 here came from a disk without room, and is a no: what was never accepted is not in the log."""
    accepted = {each.logical for each in tries if each.outcome == OK}
    return [
        replace(each, outcome=FAIL) if each.outcome == INFO and each.logical not in accepted else each
        for each in tries
    ]


@pytest.fixture(params=["filesystem", "file size"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """The data directory's disk; skipped where this machine has no such means."""
    kind = small_filesystem(tmp_path / "data") if request.param == "filesystem" else file_size_limit()
    with ExitStack() as held:
        try:
            entered = held.enter_context(kind)
        except OSError as error:
            pytest.skip(f"no disk can be made full by its {request.param} here: {error}")
        yield entered


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("program", "killed"), [("hypercorn", False), ("uvicorn", True)])
async def test_a_full_disk_refuses_writes_serves_reads_and_heals(
    tmp_path: Path, disk: Disk, program: str, killed: bool
) -> None:
    """Also when it is killed (-9) and started again while its disk is full."""
    async with Receiver({"wf_fine": FINE}, random.Random(0)) as receiver:
        with Server(tmp_path) as server:
            server.start(program)
            announced = await server.ready()
            clients = Clients(announced.url, announced.keys)
            try:
                scenario = Scenario(server, clients, announced.url, announced.keys["live"])
                secret = await set_up(clients, receiver)
                await scenario.send(operation("first", 0, size=100, count=BATCH))
                await until_nothing_is_open(clients, ["live"])
                before = await fetch_views(clients, "live", await walk(clients, "live"))
                assert len(before) == BATCH

                disk.tighten(server.pid)
                await scenario.fill()
                await scenario.refusal_has_the_right_form()
                await scenario.reads_go_on(before)
                await scenario.control_is_refused_too()
                if killed:
                    server.kill()
                    server.start(program)
                    disk.tighten(server.pid)
                    await server.ready()
                    await scenario.until_ready_is(503)
                    await scenario.reads_go_on(before)

                disk.free(server.pid)
                freed_s = time.monotonic()
                async with asyncio.timeout(RECOVERS_WITHIN_S):
                    await scenario.retry_refused()
                    await until_nothing_is_open(clients, ["live"])
                healed_s = time.monotonic() - freed_s
                await scenario.until_ready_is(200)
                views = await fetch_views(clients, "live", await walk(clients, "live"))
                assert await server.stop() == 0
            finally:
                await clients.close()
    records = read_log(copy_log(tmp_path / "data", tmp_path / "log"))
    history = History(
        tries=refusals_count(clients.tries),
        records=records,
        shown=shown(views),
        arrivals=receiver.arrivals,
        secrets={"wf_fine": secret},
        healed_s=healed_s,
        heals_within_s=RECOVERS_WITHIN_S,
    )
    assert [str(violation) for violation in check(history)] == []
    assert clients.faults == []
    assert "request_failed" not in server.stderr()
    assert len(scenario.refused) >= REFUSED_EACH * len(SIZES_BYTES)


async def set_up(clients: Clients, receiver: Receiver) -> str:
    """A workflow and a stream with it; the signing secret."""
    workflow = {"id": "wf_fine", "url": receiver.url("wf_fine"), "timeout_ms": TIMEOUT_MS}
    secret: str = (await clients.make("live", "/v1/workflows", workflow))["secret"]
    await clients.make("live", "/v1/event-streams", {"name": "orders", "default_routes": ["wf_fine"]})
    return secret
