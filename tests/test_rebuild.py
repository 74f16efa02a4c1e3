"""`atlas rebuild` and `atlas verify` against a real `atlas dev`: under load, tampered with, killed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import pytest

from tests.processes import Dev, eventually, run_atlas, start_dev

REBUILDS: Final = "/admin/v1/rebuilds"
#: So that no batch meets the quota.
WIDE: Final = ("--quota-per-minute", "1000000", "--quota-burst", "1000000")
#: Beside the load, and whatever else the machine does.
COMMAND_MAX_S: Final = 50.0
BATCH: Final = {
    "events": [
        {
            "stream": "load",
            "type": "load.sent",
            "occurred_at": "2026-05-18T14:22:11Z",
            "data": {"number": number},
            "metadata": {"number": str(number), "kind": "load"},
        }
        for number in range(200)
    ]
}


def atlas(dev: Dev, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"ATLAS_OPERATOR_TOKEN": dev.operator_token}
    return run_atlas(*arguments, "--url", dev.url, env=env, timeout_s=COMMAND_MAX_S)


def done(dev: Dev, command: str) -> dict[str, Any]:
    ended = atlas(dev, command, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(ended.stdout)
    assert answer["status"] == "completed"
    return answer


def send(dev: Dev) -> None:
    assert dev.request("POST", "/v1/events/batch", BATCH).status == 202


def prepare(dev: Dev, batches: int) -> None:
    assert dev.request("POST", "/v1/event-streams", {"name": "load"}).status in {201, 409}
    for _ in range(batches):
        send(dev)


def incarnation(dev: Dev) -> str:
    connection = sqlite3.connect(dev.data_dir / "read-model.db")
    try:
        [[found]] = connection.execute("SELECT incarnation FROM meta")
        return str(found)
    finally:
        connection.close()


def generations(dev: Dev) -> list[str]:
    return [path.name for path in dev.data_dir.glob("read-model.*.db")]


@contextmanager
def load(dev: Dev) -> Iterator[None]:
    """Batches, one after the other, until the end."""
    over, failures = threading.Event(), []

    def go() -> None:
        while not over.is_set():
            try:
                send(dev)
            except (AssertionError, OSError, HTTPException) as error:
                failures.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures


@pytest.mark.timeout(180)  # two commands beside the load
def test_both_under_load(tmp_path: Path) -> None:
    with start_dev(tmp_path, *WIDE) as dev:
        prepare(dev, 4)
        before = incarnation(dev)
        with load(dev):
            rebuilt = done(dev, "rebuild")
            verified = done(dev, "verify")
        assert rebuilt["object"] == "rebuild"
        assert rebuilt["records_folded"] == rebuilt["records_total"] > 800
        assert verified["equal"] is True
        assert verified["differences"] == []
        assert incarnation(dev) != before
        assert len(generations(dev)) == 1
        assert [each["id"] for each in listed(dev)] == [rebuilt["id"]]
        for command, said in (("rebuild", "The read model is new"), ("verify", "equals the log")):
            ended = atlas(dev, command)
            assert (ended.returncode, ended.stderr.strip()) == (0, "")
            assert said in ended.stdout
        assert dev.stop() == 0


def listed(dev: Dev) -> list[dict[str, Any]]:
    reply = dev.request("GET", REBUILDS, token=dev.operator_token)
    assert reply.status == 200
    found: list[dict[str, Any]] = reply.value["data"]
    return found


def test_a_row_tampered_with_is_found_and_put_right(tmp_path: Path) -> None:
    with start_dev(tmp_path, *WIDE) as dev:
        prepare(dev, 1)
        done(dev, "verify")
        connection = sqlite3.connect(dev.data_dir / "read-model.db", timeout=10)
        [[victim]] = connection.execute("SELECT min(id) FROM events")
        with connection:
            connection.execute("UPDATE events SET type = 'forged' WHERE id = ?", (victim,))
        connection.close()
        ended = atlas(dev, "verify")
        assert ended.returncode == 1
        assert "the read model differs from the log" in ended.stderr
        assert f"{dev.workspace_id}/live {victim}: not the same" in ended.stdout
        ended = atlas(dev, "verify", "--json")
        assert ended.returncode == 1
        found = json.loads(ended.stdout)
        assert found["equal"] is False
        assert found["differences"] == [
            {"table": "events", "scope": f"{dev.workspace_id}/live", "key": [victim], "where": "both"}
        ]
        done(dev, "rebuild")
        done(dev, "verify")


def test_kill_9_in_the_middle_of_a_rebuild(tmp_path: Path) -> None:
    with start_dev(tmp_path, *WIDE) as dev:
        prepare(dev, 40)
        before = incarnation(dev)
        asked = dev.request("POST", REBUILDS, {}, token=dev.operator_token)
        assert asked.status == 202
        eventually(lambda: len(generations(dev)) == 2, "a shadow")
        dev.kill()
        assert incarnation(dev) == before
    with start_dev(tmp_path, *WIDE) as dev:
        eventually(lambda: listed(dev)[0]["status"] == "completed", "the rebuild")
        assert [each["id"] for each in listed(dev)] == [asked.value["id"]]
        assert incarnation(dev) != before
        eventually(lambda: len(generations(dev)) == 1, "the old file's end")
        done(dev, "verify")
        assert dev.stop() == 0
