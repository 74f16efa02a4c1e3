"""The table of settings: flags over environment over defaults, secrets masked, README and help in step."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner

from atlas.cli import main
from atlas.settings import SECRETS, SETTINGS
from tests.processes import run_atlas
from tests.tidy_rules import ROOT

COMMANDS: Final = ("dev", "gateway", "projector", "deliverer", "up")


def config(*arguments: str, env: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """What `atlas config --json` says, by variable."""
    ended = run_atlas("config", "--json", *arguments, env=env)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return {row["variable"]: row for row in json.loads(ended.stdout)}


def test_each_value_tells_where_it_came_from() -> None:
    shown = config("--port", "9000", env={"ATLAS_PORT": "9001", "ATLAS_KAFKA": "a:9092,b:9092"})
    assert (shown["ATLAS_PORT"]["value"], shown["ATLAS_PORT"]["source"]) == ("9000", "flag")
    assert (shown["ATLAS_KAFKA"]["value"], shown["ATLAS_KAFKA"]["source"]) == ("a:9092,b:9092", "environment")
    assert (shown["ATLAS_KAFKA_SHARDS"]["value"], shown["ATLAS_KAFKA_SHARDS"]["source"]) == ("6", "default")
    assert shown["ATLAS_OPS_PORT"]["value"] == "8081 (projector), 8082 (deliverer), 8081 (up)"
    assert set(shown) == {setting.variable for setting in SETTINGS} | set(SECRETS)


def test_what_does_not_print_is_shown_escaped() -> None:
    shown = run_atlas("config", "--host", "a\n\x1b[31m").stdout
    assert r"a\n\x1b[31m" in shown
    assert shown.replace("\n", "").isprintable()
    assert config("--host", "a\n\x1b[31m")["ATLAS_HOST"]["value"] == "a\n\x1b[31m"


def test_secrets_are_masked_and_their_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("atlas_op_secret-in-a-file")
    secrets = {"ATLAS_MASTER_KEY": "5ec7e7" * 10, "ATLAS_KAFKA_PASSWORD": "hush-hush"}
    for more in ([], ["--json"]):
        ended = run_atlas("config", "--data-dir", str(tmp_path), *more, env=secrets)
        assert ended.returncode == 0
        for secret in (*secrets.values(), "secret-in-a-file"):
            assert secret not in ended.stdout + ended.stderr
    shown = config("--data-dir", str(tmp_path), env=secrets)
    assert shown["ATLAS_MASTER_KEY"]["source"] == "environment"
    assert shown["ATLAS_OPERATOR_TOKEN"]["source"] == str(tmp_path / "operator.token")
    assert config()["ATLAS_KAFKA_PASSWORD"]["source"] == "not set"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATLAS_PORT", "65536"),
        ("ATLAS_SERVER", "gunicorn"),
        ("ATLAS_KAFKA_SHARDS", "0"),
        ("ATLAS_KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("ATLAS_KAFKA_CA_FILE", "/nowhere/ca.pem"),
        ("ATLAS_ALLOW_NETWORKS", "10.0.0.0/33"),
        ("ATLAS_DELIVERERS", "65"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str) -> None:
    ended = run_atlas("config", env={variable: value})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert variable in ended.stderr


@pytest.mark.parametrize("flag", [setting.flag for setting in SETTINGS if not setting.is_flag])
def test_an_empty_flag_is_refused(flag: str) -> None:
    ended = CliRunner().invoke(main, ["config", flag, ""])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert flag in ended.stderr


def test_an_empty_variable_is_none() -> None:
    assert config(env={setting.variable: "" for setting in SETTINGS}) == config()


def test_no_data_directory_is_wrong_usage_and_writes_nothing(tmp_path: Path) -> None:
    ended = run_atlas("dev", "--port", "0", "--data-dir", "", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--data-dir" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["gateway", "projector", "deliverer", "up"])
def test_without_brokers_a_process_says_what_is_missing(command: str) -> None:
    ended = run_atlas(command)
    assert ended.returncode == 2
    assert "ATLAS_KAFKA" in ended.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_setting_with_its_variable(command: str) -> None:
    shown = " ".join(run_atlas(command, "--help", env={"COLUMNS": "200"}).stdout.split())
    for setting in SETTINGS:
        assert (setting.flag in shown) == (command in setting.used_by), setting.name
        assert (setting.variable in shown) == (command in setting.used_by), setting.name


@pytest.mark.parametrize("command", ["gateway", "projector", "deliverer"])
def test_help_says_which_processes_share_a_machine(command: str) -> None:
    shown = " ".join(run_atlas(command, "--help").stdout.split())
    assert "machine" in shown
    assert "--data-dir" in shown


def test_no_secret_is_a_flag() -> None:
    for command in main.commands.values():
        for parameter in command.params:
            assert isinstance(parameter, click.Option | click.Argument)
            assert not re.search("password|secret|token|master", parameter.name or ""), parameter.name


def test_the_readme_has_the_table() -> None:
    rows = re.findall(
        r"^\| `(ATLAS_\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    expected = [
        (
            setting.variable,
            f"`{setting.flag}`",
            ", ".join(
                f"`{each}`" for each in dict.fromkeys(str(setting.default_for(c)) for c in setting.used_by)
            )
            if setting.default is not None
            else "",
            setting.help,
        )
        for setting in SETTINGS
    ]
    expected += [
        (variable, "", f"`{secret.file}` in the data directory" if secret.file else "", secret.help)
        for variable, secret in SECRETS.items()
    ]
    assert rows == expected
