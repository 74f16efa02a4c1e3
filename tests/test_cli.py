"""The `atlas` command: help, usage errors, and workspaces over HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

from atlas.core.tokens import make_operator_token
from tests.processes import Dev, request, run_atlas, start_dev

NOBODY_THERE: Final = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with start_dev(tmp_path_factory.mktemp("dev")) as running:
        yield running


def workspace(dev: Dev, *arguments: str) -> subprocess.CompletedProcess[str]:
    token = {"ATLAS_OPERATOR_TOKEN": dev.operator_token}
    return run_atlas("workspace", *arguments, "--url", dev.url, env=token)


def answered(dev: Dev, *arguments: str) -> dict[str, object]:
    ended = workspace(dev, *arguments, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, object] = json.loads(ended.stdout)
    return answer


def test_version() -> None:
    assert run_atlas("--version").stdout == f"atlas, version {version('atlas-events')}\n"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from atlas.cli import main; main(['--help'], standalone_mode=False); "
        "heavy = {'aiohttp', 'starlette', 'uvloop', 'hypercorn', 'uvicorn', 'rich', 'cryptography'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "workspace" in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["dev", "--port", "65536"],
        ["dev", "--server", "gunicorn"],
        ["dev", "--quota-per-minute", "0"],
        ["dev", "--quota-burst", "0"],
        ["dev", "left-over"],
        ["demo", "--server", "gunicorn"],
        ["workspace", "create"],
        ["workspace", "quota", "ws_1", "--requests-per-minute", "1"],
        ["workspace", "quota", "ws_1", "--default", "--burst", "1"],
        ["workspace", "quota", "ws_1"],
        ["replay", "--watch", "rpl_1", "--cancel", "rpl_2"],
        ["replay", "--watch", "rpl_1", "--stream", "orders-prod"],
        ["replay", "--cancel", "rpl_1", "--status", "failed"],
        ["replay", "--watch", "rpl_1", "--rate", "100"],
        ["replay", "--watch", "rpl_1", "--workflow", "wf_a"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    ended = run_atlas(*arguments, env={"ATLAS_OPERATOR_TOKEN": "x", "ATLAS_API_KEY": "x"})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Error: " in ended.stderr


def test_no_operator_token_is_wrong_usage() -> None:
    ended = run_atlas("workspace", "list", "--url", NOBODY_THERE)
    assert ended.returncode == 2
    assert "ATLAS_OPERATOR_TOKEN" in ended.stderr


def test_nobody_there_is_one_line() -> None:
    ended = run_atlas("workspace", "list", "--url", NOBODY_THERE, env={"ATLAS_OPERATOR_TOKEN": "x"})
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"atlas: no answer from {NOBODY_THERE}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "--stream", "\udcff\udcfe"],
        ["replay", "--workflow", "\udcff"],
        ["workspace", "create", "\udcff"],
        ["dev", "--port", "0", "--host", "\udcff"],
        ["gateway", "--kafka", "127.0.0.1:9", "--port", "0", "--host", "\udcff"],
    ],
)
def test_what_is_not_utf_8_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    """As an argument's bytes that are not UTF-8 come into Python: PEP 383."""
    given = {
        "ATLAS_API_KEY": "x",
        "ATLAS_OPERATOR_TOKEN": make_operator_token(bytes(20)),
        "ATLAS_DATA_DIR": str(tmp_path),
    }
    ended = run_atlas(*arguments, env=given)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("atlas: cannot ")


@pytest.mark.parametrize("name", ["lock", "master.key", "operator.token", "workspace.json"])
def test_a_file_of_the_data_directory_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    ended = run_atlas("dev", "--port", "0", "--data-dir", str(tmp_path))
    said = f"atlas: cannot use {tmp_path / name}: Is a directory\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", said)


def test_a_wrong_token_is_one_line(dev: Dev) -> None:
    token = {"ATLAS_OPERATOR_TOKEN": dev.live_secret_key}
    ended = run_atlas("workspace", "list", "--url", dev.url, env=token)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("atlas: authentication_failed: ")
    assert dev.live_secret_key not in line


def test_a_workspace_from_the_shell(dev: Dev) -> None:
    made = answered(dev, "create", "acme")
    keys = made["keys"]
    assert isinstance(keys, list)
    secrets = {key["environment"]: key["secret"] for key in keys}
    for secret in secrets.values():
        assert request(dev.url, "GET", "/v1/event-streams", token=secret).status == 200

    workspace_id = str(made["id"])
    limits = ("--requests-per-minute", "60", "--burst", "2")
    answered(dev, "quota", workspace_id, "--environment", "test", *limits)
    bursts = [
        request(dev.url, "GET", "/v1/event-streams", token=secrets[environment]).headers["x-ratelimit-limit"]
        for environment in ("test", "live")
    ]
    assert bursts == ["2", "200"]
    answered(dev, "quota", workspace_id, "--default")
    reply = request(dev.url, "GET", "/v1/event-streams", token=secrets["test"])
    assert reply.headers["x-ratelimit-limit"] == "200"

    assert answered(dev, "suspend", workspace_id)["status"] == "suspended"
    assert request(dev.url, "GET", "/v1/event-streams", token=secrets["live"]).status == 403
    assert dev.request("GET", "/v1/event-streams").status == 200
    assert answered(dev, "suspend", workspace_id, "--undo")["status"] == "enabled"
    assert request(dev.url, "GET", "/v1/event-streams", token=secrets["live"]).status == 200


def test_the_list_shows_every_workspace_on_a_line_of_its_own(dev: Dev) -> None:
    made = [answered(dev, "create", f"tenant {number}") for number in range(3)]
    ended = workspace(dev, "list")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    for each in made:
        (line,) = [line for line in lines if str(each["id"]) in line]
        assert str(each["name"]) in line
        assert "1200/min, burst 200" in line
    listed = answered(dev, "list")["data"]
    assert isinstance(listed, list)
    assert {each["id"] for each in made} < {each["id"] for each in listed}


def test_a_new_workspace_shows_its_keys_for_people_too(dev: Dev) -> None:
    shown = workspace(dev, "create", "people").stdout
    assert re.search(r"^live secret key +atlas_live_sk_\w+$", shown, re.MULTILINE)
    assert re.search(r"^test secret key +atlas_test_sk_\w+$", shown, re.MULTILINE)


def test_what_does_not_print_is_shown_escaped(dev: Dev) -> None:
    name = "a\x1b[31m\r\nb\x07\u202ec\x9b"
    made = answered(dev, "create", name)
    assert made["name"] == name
    (line,) = [line for line in workspace(dev, "list").stdout.splitlines() if str(made["id"]) in line]
    shown = r"a\x1b[31m\r\nb\x07\u202ec\x9b"
    assert shown in line
    created = workspace(dev, "create", name).stdout
    assert f"name             {shown}\n" in created
    for text in (line, created.replace("\n", "")):
        assert text.isprintable()


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    ended = run_atlas("workspace", "list", "--url", "http://a\n\x1b[31m", env={"ATLAS_OPERATOR_TOKEN": "x"})
    (line,) = ended.stderr.splitlines()
    assert line.startswith(r"atlas: no answer from http://a\n\x1b[31m: ")


@pytest.mark.parametrize("workspace_id", ["ws_NONE", "../../v1/events", "a/b?c#d", "%2e"])
def test_an_unknown_workspace_is_one_line(dev: Dev, workspace_id: str) -> None:
    ended = workspace(dev, "suspend", workspace_id)
    assert ended.returncode == 1
    assert ended.stderr.startswith("atlas: workspace_not_found: ")
