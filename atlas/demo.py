"""`atlas demo`: all of Atlas, a receiver and real payloads, in one go on a temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from atlas.bootstrap import MASTER_KEY_BYTES, Options, open_embedded
from atlas.client.http import Client
from atlas.core.addresses import LOOPBACK
from atlas.core.entities import Quota
from atlas.core.errors import AtlasError
from atlas.core.tokens import ENTROPY_BYTES, digest, make_operator_token
from atlas.data import github_events
from atlas.demo_receiver import Receiver
from atlas.demo_report import collect, problems, show
from atlas.first_workspace import ensure_first_workspace
from atlas.runtime.supervisor import describe
from atlas.runtime.telemetry import Metrics, configure_logging
from atlas.serve import bind, listen, serve, url_of

STREAM: Final = "github-events"
WORKFLOWS: Final = ("wf_billing_sync", "wf_search_index")
#: The workflow whose receiver fails at first.
FLAKY: Final = WORKFLOWS[1]
RETRY_SCHEDULE_S: Final = (1, 1, 2)
#: Every this many events the flaky receiver fails the first attempt, and the first two.
FAILS_ONCE_EVERY: Final = 6
FAILS_TWICE_EVERY: Final = 30
BATCH: Final = 40
SINGLES_AT_ONCE: Final = 8
#: Of what is sent, so many go in batches; the others one by one.
IN_BATCHES: Final = 120
#: The demo asks more often than a client should.
_QUOTA: Final = Quota(600_000, 10_000)
#: All of it but `--keep`; it takes a few seconds.
DEMO_MAX_S: Final = 27.0
_POLL_S: Final = 0.05


def run(server: str, keep: bool) -> None:
    """Run the demo and print what came of it.

    Args:
        server: hypercorn or uvicorn.
        keep: go on serving at the end, until Ctrl-C, or Enter on a terminal.

    Raises:
        AtlasError: something is not as it should be; what was written is kept to be looked at.
    """
    console = Console(highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="atlas-demo-"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(_demo(directory, server, keep, console))
    except (AtlasError, ExceptionGroup) as error:
        found = [describe(error)]
    except TimeoutError:
        found = [f"it was not done after {DEMO_MAX_S:.0f} s"]
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    if found:
        for problem in found[:10]:
            console.print(f"not as it should be: {problem}", style="red", markup=False)
        raise AtlasError(f"the demo failed ({len(found)} found); its data and log are kept in {directory}")
    shutil.rmtree(directory, ignore_errors=True)


async def _demo(directory: Path, server: str, keep: bool, console: Console) -> list[str]:
    """The demo; returns what was not as it should be."""
    async with contextlib.AsyncExitStack() as running:
        async with asyncio.timeout(DEMO_MAX_S):
            receiver = Receiver(_failures)
            receiver_url = await running.enter_async_context(_served(receiver))
            url, key = await running.enter_async_context(_atlas(directory, server))
            client = await running.enter_async_context(Client(url, key))
            _introduce(console, url, server)
            await _create_targets(client, receiver, receiver_url)
            events = _events()
            ids = await _send_all(client, events, console)
            await _wait_for_the_end(client, receiver, len(events), console)
            outcome = await collect(client, ids)
            found = problems(dict(zip(ids, events, strict=True)), outcome, receiver, WORKFLOWS)
        if not found:
            show(console, outcome, f"curl -sS {url}/v1/events/{ids[0]} -H 'Authorization: Bearer {key}'")
            await _end(console, keep)
    return found


def _introduce(console: Console, url: str, server: str) -> None:
    delays = ", ".join(str(delay_s) for delay_s in RETRY_SCHEDULE_S)
    for line in (
        f"Atlas serves at {url} ({server}); stream {STREAM}, workflows {' and '.join(WORKFLOWS)}.",
        f"The receiver answers 503 to some first attempts of {FLAKY}, on purpose.",
        f"For the demo retries come after {delays} s, not after 30 s to 12 h, and the quota is high.",
    ):
        console.print(line, soft_wrap=True)


def _failures(workflow_id: str, body: Mapping[str, Any]) -> int:
    """How many first attempts of an event its receiver fails."""
    number = int(body["metadata"]["number"])
    if workflow_id != FLAKY or number % FAILS_ONCE_EVERY:
        return 0
    return 1 if number % FAILS_TWICE_EVERY else 2


@contextlib.asynccontextmanager
async def _served(receiver: Receiver) -> AsyncIterator[str]:
    sock = listen(bind("127.0.0.1", 0))
    await receiver.start(sock)
    try:
        yield url_of(sock)
    finally:
        await receiver.stop()


@contextlib.asynccontextmanager
async def _atlas(directory: Path, server: str) -> AsyncIterator[tuple[str, str]]:
    """All of Atlas, serving; yields its URL and a live secret key. Its log lines go to a file."""
    options = Options(
        master_key=os.urandom(MASTER_KEY_BYTES),
        operator_token_digest=digest(make_operator_token(os.urandom(ENTROPY_BYTES))),
        quota=_QUOTA,
        allow_networks=LOOPBACK,
    )
    metrics, stop = Metrics(), asyncio.Event()
    with (directory / "atlas.log").open("w") as file:
        log_lines = configure_logging(metrics, file)
        atlas = await open_embedded(directory, options, metrics=metrics)
        try:
            await atlas.start()
            workspace = await ensure_first_workspace(atlas, directory)
            sock = listen(bind("127.0.0.1", 0))
            serving = asyncio.create_task(serve(atlas.app, sock, server, stop))
            try:
                yield url_of(sock), workspace.live.secret
            finally:
                stop.set()
                await asyncio.gather(serving, atlas.drain())
        finally:
            await atlas.close()
            log_lines.close()


async def _create_targets(client: Client, receiver: Receiver, receiver_url: str) -> None:
    for workflow_id in WORKFLOWS:
        wanted = {
            "id": workflow_id,
            "url": f"{receiver_url}/{workflow_id}",
            "retry_schedule_seconds": RETRY_SCHEDULE_S,
        }
        answer = await client.post("/v1/workflows", wanted)
        receiver.secrets[workflow_id] = answer.value["secret"]
    await client.post("/v1/event-streams", {"name": STREAM, "default_routes": WORKFLOWS})


def _events() -> list[dict[str, Any]]:
    return [
        {
            "stream": STREAM,
            "type": event_type,
            "occurred_at": "2026-05-18T14:22:11Z",
            "data": data,
            "metadata": {"number": str(number)},
        }
        for number, (event_type, data) in enumerate(github_events())
    ]


async def _send_all(client: Client, events: list[dict[str, Any]], console: Console) -> list[str]:
    """Post the first events in batches and the others one by one, each with a key; their ids, in order."""
    ids: dict[int, str] = {}
    slots = asyncio.Semaphore(SINGLES_AT_ONCE)

    async def send_batch(first: int) -> None:
        items = [{**event, "idempotency_key": str(uuid.uuid4())} for event in events[first : first + BATCH]]
        answer = await client.post("/v1/events/batch", {"events": items})
        for number, item in enumerate(answer.value["data"], first):
            if item["status"] != 202:
                raise AtlasError(f"event {number} of a batch was refused: {item['error']['message']}")
            ids[number] = item["event"]["id"]
        bar.advance(task, len(items))

    async def send_one(number: int) -> None:
        keyed = {"Idempotency-Key": str(uuid.uuid4())}
        async with slots:
            answer = await client.post("/v1/events", events[number], keyed)
            if number == len(events) - 1:
                again = await client.post("/v1/events", events[number], keyed)
                if again.value != answer.value or again.headers.get("idempotent-replayed") != "true":
                    raise AtlasError("the same key with the same event got another answer")
        ids[number] = answer.value["id"]
        bar.advance(task)

    with _progress(console) as bar:
        task = bar.add_task("events sent", total=len(events))
        async with asyncio.TaskGroup() as sending:
            for first in range(0, IN_BATCHES, BATCH):
                sending.create_task(send_batch(first))
            for number in range(IN_BATCHES, len(events)):
                sending.create_task(send_one(number))
    return [ids[number] for number in range(len(events))]


async def _wait_for_the_end(client: Client, receiver: Receiver, events: int, console: Console) -> None:
    """Until no event is on its way any more, as the API tells it."""
    with _progress(console) as bar:
        task = bar.add_task("deliveries made", total=events * len(WORKFLOWS))
        while True:
            bar.update(task, completed=receiver.acknowledged)
            if receiver.acknowledged >= events * len(WORKFLOWS) and not await _underway(client):
                return
            await asyncio.sleep(_POLL_S)


async def _underway(client: Client) -> bool:
    for status in ("accepted", "processing", "retried"):
        if (await client.get(f"/v1/events?status={status}&limit=1"))["data"]:
            return True
    return False


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


async def _end(console: Console, keep: bool) -> None:
    """With `keep`, wait for a signal, or for Enter where there is somebody to press it."""
    if not keep:
        console.print("This Atlas ends now; atlas demo --keep leaves it running for that.", soft_wrap=True)
        return
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    interactive = sys.stdin is not None and sys.stdin.isatty()
    if interactive:
        loop.add_reader(sys.stdin, done.set)
    console.print(f"Atlas goes on serving. {'Enter or ' if interactive else ''}Ctrl-C ends it.")
    await done.wait()
    if interactive:
        loop.remove_reader(sys.stdin)
