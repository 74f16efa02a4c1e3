"""The README and what `atlas dev` prints are true: their commands run, their answers are the real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import click
import pytest

from atlas.cli import main
from atlas.core.notices import Outcome
from atlas.core.retry import DEFAULT_SCHEDULE_S
from atlas.core.signing import atlas_signature, encode_secret
from atlas.quickstart import check_status, create_stream, send_event
from atlas.runtime.bodies import notice_body
from tests.processes import START_MAX_S, Dev, end, environment, spawn, start_dev
from tests.tidy_rules import ROOT

README: Final = (ROOT / "README.md").read_text()
README_URL: Final = "http://127.0.0.1:8080"
#: A machine of ours without curl skips these; where tests must not be skipped, curl is required.
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None and not os.environ.get("CI"), reason="needs curl on the path"
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return cast(str, found)


def bash(script: str, **variables: str) -> str:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_MAX_S,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


def shape(value: Any) -> Any:
    """Names, their order, and types."""
    if isinstance(value, dict):
        return [(name, shape(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with start_dev(tmp_path_factory.mktemp("readme")) as running:
        yield running


# --- the quickstart


def test_the_quickstart_is_the_one_that_is_printed() -> None:
    key = "$ATLAS_API_KEY"
    steps = [create_stream(README_URL, key), send_event(README_URL, key), check_status(README_URL, key)]
    assert blocks("bash", section("Quickstart")) == [step + "\n" for step in steps]


@needs_curl
def test_the_commands_answer_as_the_readme_says(dev: Dev) -> None:
    quickstart = section("Quickstart")
    more = [section("Deliveries"), section("Webhooks: told of outcomes")]
    script = "".join(blocks("bash", "".join([quickstart, *more])))
    answers = bash(script.replace(README_URL, dev.url), ATLAS_API_KEY=dev.live_secret_key).splitlines()
    created, sent, shown, workflow, patched, endpoint = (json.loads(line) for line in answers if line)

    examples = [json.loads(block) for block in blocks("json", quickstart)]
    assert [shape(example) for example in examples] == [shape(each) for each in (created, sent, shown)]
    for example, answer in zip(examples, (created, sent, shown), strict=True):
        fixed = {name for name in example if name not in {"id", "workspace_id", "created_at", "received_at"}}
        if answer is shown:
            assert answer["status"] in {"accepted", "delivered"}
            fixed.remove("status")
        assert {name: example[name] for name in fixed} == {name: answer[name] for name in fixed}
    assert shown["id"] == sent["id"]
    assert workflow["secret"].startswith("whsec_")
    assert workflow["timeout_ms"] == 5_000
    assert workflow["retry_schedule_seconds"] == [30, 60, 300, 900, 3_600, 10_800, 21_600, 43_200]
    assert patched["default_routes"] == ["wf_billing_sync"]
    assert endpoint["event_types"] == ["event.failed", "event.retry_scheduled"]


def printed(data_dir: Path, columns: str) -> tuple[str, str]:
    """What `atlas dev` prints, and the answers of its commands, run as they stand while it serves."""
    process = spawn(
        ["dev", "--port", "0", "--data-dir", str(data_dir)],
        stderr=subprocess.DEVNULL,
        env={"COLUMNS": columns},
    )
    guard = threading.Timer(START_MAX_S, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        text = ""
        while "# 3." not in text or not text.endswith('"\n'):
            line = process.stdout.readline()
            assert line, f"it ended after printing:\n{text}"
            text += line
        answers = bash(text[text.index("# The quickstart") :])
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_MAX_S) == 0
        return text, answers
    finally:
        guard.cancel()
        end(process)


@needs_curl
def test_what_dev_prints_can_be_pasted(tmp_path: Path) -> None:
    text, answers = printed(tmp_path / "data", columns="40")
    created, sent, shown = (json.loads(line) for line in answers.splitlines())
    assert created["name"] == "orders-prod"
    assert shown["id"] == sent["id"]
    assert "\x1b" not in text

    again, answers = printed(tmp_path / "data", columns="80")
    assert "# 1. Create an event stream: done, orders-prod exists" in again
    assert "/v1/event-streams" not in again
    repeated, shown = (json.loads(line) for line in answers.splitlines())
    assert repeated == sent  # the same key: the same answer
    assert shown["status"] == "delivered"


# --- what receivers get


def test_the_outcome_shown_is_what_is_posted() -> None:
    (example,) = (json.loads(block) for block in blocks("json", section("Webhooks: told of outcomes")))
    data = example["data"]
    outcome = Outcome(
        type=example["type"],
        stream=data["stream"],
        workflow_id=data["workflow_id"],
        attempt=data["attempt"],
        latency_ms=data["latency_ms"],
        created_at_ms=int(datetime.fromisoformat(example["created_at"]).timestamp() * 1_000),
        message=data["error"]["message"],
    )
    posted = notice_body(example["id"], data["event_id"], outcome)
    assert json.dumps(json.loads(posted)) == json.dumps(example)
    assert data["attempt"] == 1 + len(DEFAULT_SCHEDULE_S), "a failure comes after the last retry"


def test_the_verifier_shown_accepts_what_atlas_signs_and_nothing_else() -> None:
    scope: dict[str, Any] = {}
    (snippet,) = blocks("python", section("Deliveries"))
    exec(compile(snippet, "README.md", "exec"), scope)
    is_from_atlas: Callable[[str, str, bytes], bool] = scope["is_from_atlas"]

    secret, other = encode_secret(bytes(32)), encode_secret(bytes([1]) * 32)
    now_s, body = int(time.time()), b'{"id":"evt_1"}'
    header = atlas_signature([secret], now_s, body)
    assert is_from_atlas(secret, header, body)
    assert is_from_atlas(other, atlas_signature([secret, other], now_s, body), body)
    assert not is_from_atlas(other, header, body)
    assert not is_from_atlas(secret, header, body + b" ")
    for hours in (-1, 1):
        assert not is_from_atlas(secret, atlas_signature([secret], now_s + hours * 3_600, body), body)
    for broken in ("", "t=1", "v1=", f"t={now_s}", f"t={now_s},v1=", f"t=x,v1={'0' * 64}", "t=²,v1=ü"):
        assert not is_from_atlas(secret, broken, body)


# --- what it names exists, and what exists is named


def named(group: click.Group = main, prefix: str = "atlas") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= named(command, f"{prefix} {name}")
        else:
            found[f"{prefix} {name}"] = command
    return found


COMMANDS: Final = named()


def test_every_command_and_script_is_named_and_exists() -> None:
    rows = re.findall(r"^\| `(atlas [a-z ]+|\./scripts/\w+)` \|", section("Commands"), re.MULTILINE)
    scripts = {f"./scripts/{path.name}" for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert sorted(rows) == sorted(COMMANDS.keys() | scripts)
    assert set(re.findall(r"\./scripts/\w+", README)) <= scripts
    shown = {name.strip() for name in re.findall(r"`(atlas(?: [a-z]+)+)", README)}
    assert shown <= COMMANDS.keys() | {"atlas workspace"}


def test_every_option_is_named_and_exists() -> None:
    (row,) = re.findall(r"^\| `atlas dev` \|.*$", README, re.MULTILINE)
    dev_options = {option for each in main.commands["dev"].params for option in each.opts}
    assert set(re.findall(r"--[a-z-]+", row)) == dev_options
    known = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
    for script, described in re.findall(r"^\| `\./scripts/(\w+)` \|(.*)$", README, re.MULTILINE):
        options = set(re.findall(r"`(--[a-z-]+)`", described))
        if options:
            told = subprocess.run(  # a script of ours
                [ROOT / "scripts" / script, "--help"], capture_output=True, text=True, timeout=60, check=True
            )
            assert options <= set(re.findall(r"--[a-z-]+", told.stdout)), script
        known |= options
    ours = README.replace(section("Run it with compose"), "")  # those are Docker's
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known


def test_every_file_and_package_is_named_and_exists(dev: Dev) -> None:
    tables = section("Where things are")
    stored = set(re.findall(r"^\| `([\w.-]+)` \|", tables.partition("| in the repository")[0], re.MULTILINE))
    there = {path.name for path in dev.data_dir.iterdir() if not path.name.endswith(("-wal", "-shm"))}
    there.discard((dev.data_dir / "read-model.db").readlink().name)
    assert stored == there
    named = set(re.findall(r"`((?:atlas|consumers|tests|scripts)[\w/.]*)`", tables))
    assert all((ROOT / name).exists() for name in named)
    packages = {
        f"atlas/{path.name}" for path in (ROOT / "atlas").iterdir() if (path / "__init__.py").exists()
    }
    assert packages <= named
