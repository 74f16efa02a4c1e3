"""compose/ by the rules of others: the Compose Specification, a Dockerfile linter, Prometheus's grammar.

No container engine runs here, so beside those the files are held against what they are about: the metrics,
the package, each other.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest

from atlas.runtime.telemetry import Metrics
from atlas.serve import CUT_OFF_S, GRACEFUL_S
from atlas.settings import SECRETS
from tests.compose.files import (
    COMPOSE,
    KAFKA_SERVICES,
    PORT_BY_PROCESS,
    argument,
    exec_form,
    image_environment,
    instructions,
    load,
    services,
)
from tests.tidy_rules import ROOT

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: A drain's end in the worst case: the server, then what the processes still write.
DRAIN_MAX_S: Final = GRACEFUL_S + 2 * CUT_OFF_S + 2.0


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


# --- the rules of others


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    return tool(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_compose_yaml_follows_the_specification(tmp_path: Path) -> None:
    checked = check_schema(COMPOSE / "compose.yaml")
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((COMPOSE / "compose.yaml").read_text().replace("mem_limit:", "mem_limits:"))
    assert check_schema(wrong).returncode == 1


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    return tool(Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style", path)


def test_the_dockerfile_passes_the_linter(tmp_path: Path) -> None:
    linted = hadolint(COMPOSE / "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python\nRUN cd / && pip install x\n")
    assert hadolint(wrong).returncode == 1


def rules() -> list[dict[str, Any]]:
    return [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])
    assert set(re.findall(r"atlas_\w+", rule["expr"])) <= series()
    assert set(re.findall(r'job="(\w+)"', rule["expr"])) <= set(PORT_BY_PROCESS)
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_an_expression_with_a_mistake_is_noticed() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse("increase(atlas_task_restarts_total[10m]")


def series() -> set[str]:
    """The names that a scrape of ours gives."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in suffixes.get(family.type, [""])
    }


# --- compose.yaml


def test_every_service_is_bounded_watched_and_started_again() -> None:
    for name, service in services().items():
        assert service["restart"] == "unless-stopped", name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["ulimits"]["nofile"]["hard"] >= 65_536, name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        if name in PORT_BY_PROCESS:
            assert float(service["stop_grace_period"].removesuffix("s")) > DRAIN_MAX_S
            assert service["read_only"]
            assert service["image"] == f"atlas-events:{PROJECT['version']}"


def test_processes_wait_for_all_brokers_and_share_one_volume() -> None:
    for process in PORT_BY_PROCESS:
        service = services()[process]
        for broker in KAFKA_SERVICES:
            assert service["depends_on"][broker] == {"condition": "service_healthy"}
        assert service["volumes"] == [f"atlas:{image_environment()['ATLAS_DATA_DIR']}"]
    volumes = [services()[broker]["volumes"][0].partition(":")[0] for broker in KAFKA_SERVICES]
    assert {*volumes, "atlas", "prometheus"} == set(load("compose.yaml")["volumes"])


def test_only_this_machine_gets_in_and_replicas_do_not_collide() -> None:
    for name, service in services().items():
        assert "container_name" not in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert not services()["deliverer"].get("ports")
    assert not services()["projector"].get("ports")


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    pom = (ROOT / "scripts" / "kafka_lib" / "pom.xml").read_text()
    (version,) = re.findall(r"<kafka\.version>([\d.]+)<", pom)
    assert {services()[broker]["image"] for broker in KAFKA_SERVICES} == {f"apache/kafka:{version}"}


def test_prometheus_finds_its_files() -> None:
    mounted = dict(volume.split(":")[:2] for volume in services()["prometheus"]["volumes"])
    assert all((COMPOSE / path).is_file() for path in mounted if path.startswith("./"))
    assert [f"./{name}" for name in load("prometheus.yml")["rule_files"]] == ["./alerts.yml"]
    assert f"--config.file={mounted['./prometheus.yml']}" in services()["prometheus"]["command"]


def test_no_secret_is_written_down() -> None:
    text = (COMPOSE / "compose.yaml").read_text() + (COMPOSE / "Dockerfile").read_text()
    assert not re.search(rf"(?:{'|'.join(SECRETS)})[=:]", text)
    (env_file,) = {services()[process]["env_file"] for process in PORT_BY_PROCESS}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"/compose/{env_file}" in ignored
    assert not reaches_the_builder(f"compose/{env_file}")


# --- the Dockerfile


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a path through; the last pattern that fits decides."""
    kept = True
    for line in (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#"):
            parts = [path, path.partition("/")[0]] + (path.split("/") if "**/" in line else [])
            if any(fnmatch.fnmatchcase(part, pattern) for part in parts):
                kept = line.startswith("!")
    return kept


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    sources = [
        name
        for instruction, rest in instructions()
        if instruction == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    ]
    assert {"requirements.lock", "atlas", "consumers"} <= set(sources)
    for name in sources:
        assert (ROOT / name).exists(), name
        assert reaches_the_builder(name), name
    for name in (".git", ".atlas", "tests", "compose/atlas.env", "atlas/core/__pycache__"):
        assert not reaches_the_builder(name), name


def test_the_image_runs_as_nobody_in_particular_and_is_stopped_gently() -> None:
    assert [rest for name, rest in instructions() if name == "USER"] == ["10001:10001"]
    assert argument("STOPSIGNAL") == "SIGTERM"
    assert exec_form("ENTRYPOINT") == ["atlas"]
    assert exec_form("ENTRYPOINT")[0] in PROJECT["scripts"]
    assert "CMD [" in argument("HEALTHCHECK")
    assert "--require-hashes" in " ".join(rest for name, rest in instructions() if name == "RUN")


def test_the_readme_names_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:compose|/opt/atlas)/[\w.]+", readme))
    env_file = f"compose/{services()['gateway']['env_file']}"
    assert named == {"compose/Dockerfile", "/opt/atlas/make_env.py", "compose/compose.yaml", env_file}
    assert "compose/make_env.py /opt/atlas/" in " ".join(rest for _, rest in instructions())
    assert set(re.findall(r"atlas-events:[\d.]+\d", readme)) == {services()["gateway"]["image"]}
