"""What the API says when what is under it breaks: the disk is full, or the log lost a payload."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api.atlas_process import (
    EVENT,
    SERVERS,
    WIDE,
    answered,
    create_stream,
    every_page,
    refused,
    running,
    wait_for_status,
)
from tests.http_client import Client
from tests.processes import Dev, eventually, start_dev

KEYED: Final = [("Idempotency-Key", "k")]
#: No file of the process may grow past this: what a full disk does, for one process.
FULL_BYTES: Final = 4_096


@contextmanager
def full_disk(dev: Dev) -> Iterator[None]:
    soft, hard = resource.prlimit(dev.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(dev.process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, hard))
    try:
        yield
    finally:
        resource.prlimit(dev.process.pid, resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process's files")
@pytest.mark.parametrize("server", SERVERS)
def test_a_full_disk_is_a_503_and_reads_go_on(tmp_path: Path, server: str) -> None:
    with running(tmp_path, server, faults=True) as dev, Client(dev.port, dev.live_secret_key) as live:
        create_stream(live)
        before = wait_for_status(live, answered(live.post("/v1/events", EVENT), 202)["id"], "delivered")
        with full_disk(dev):
            for target, body in (
                ("/v1/events", EVENT),
                ("/v1/events/batch", {"events": [EVENT]}),
                ("/v1/event-streams", {"name": "another"}),
            ):
                answer = live.post(target, body, KEYED)
                error = refused(answer, 503, "service_unavailable")
                assert answer.header("retry-after") == "1"
                assert error["details"] == {"retry_after_ms": 1_000}
            target = f"/v1/events/{before['id']}"
            assert answered(live.get(target), 200) == before
            assert answered(live.get(f"{target}/payload"), 200)["data"] == EVENT["data"]
            assert len(every_page(live, "/v1/events")) == 1
            eventually(lambda: live.get("/readyz").status == 503, "it says that it cannot append")
            assert live.get("/healthz").status == 200
        _recovers(live)


def _recovers(live: Client) -> None:
    """Unaided; the keys of what was refused are free, and nothing of it was kept."""
    changed: dict[str, Any] = {**EVENT, "data": {}}
    eventually(lambda: live.post("/v1/events", changed, KEYED).status == 202, "events are taken again")
    create_stream(live, "another")
    assert answered(live.post("/v1/events", changed, KEYED), 202)
    eventually(lambda: live.get("/readyz").status == 200, "it is ready again")
    assert len(every_page(live, "/v1/events")) == 2


def test_a_payload_that_the_log_dropped_is_a_410(tmp_path: Path) -> None:
    with start_dev(tmp_path, *WIDE) as dev, Client(dev.port, dev.live_secret_key) as live:
        create_stream(live)
        event = answered(live.post("/v1/events", EVENT), 202)
        shown = wait_for_status(live, event["id"], "delivered")
        assert dev.stop() == 0
    _drop_events(dev.data_dir / "log.db")
    with running(tmp_path) as dev, Client(dev.port, dev.live_secret_key) as live:
        target = f"/v1/events/{event['id']}"
        refused(live.get(f"{target}/payload"), 410, "payload_expired")
        assert answered(live.get(target), 200) == shown
        assert answered(live.get(f"{target}/attempts"), 200)["data"] == []


def _drop_events(log: Path) -> None:
    """What retention does to the event topics, ahead of its time."""
    topics = "SELECT id FROM topic WHERE name LIKE 'atlas.live.%'"
    with closing(sqlite3.connect(log)) as db, db:
        assert db.execute(f"DELETE FROM batch WHERE topic_id IN ({topics})").rowcount == 1
        db.execute(f"UPDATE log_start SET start_offset = next_offset WHERE topic_id IN ({topics})")
