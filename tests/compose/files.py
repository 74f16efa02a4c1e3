"""What lies in compose/, read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from tests.tidy_rules import ROOT

COMPOSE: Final = ROOT / "compose"
KAFKA_SERVICES: Final = ("kafka-1", "kafka-2", "kafka-3")
#: The processes of ours, and the port of each one's health, readiness and metrics.
PORT_BY_PROCESS: Final = {"gateway": 8080, "projector": 8081, "deliverer": 8082}


def load(name: str) -> Any:
    """A YAML file, its anchors resolved."""
    return yaml.safe_load((COMPOSE / name).read_text())


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
    return found


def instructions(path: Path = COMPOSE / "Dockerfile") -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, one line each."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.split("\n"))]


def argument(instruction: str) -> str:
    """The argument of its last occurrence, which is the one that holds for the image."""
    return [rest for name, rest in instructions() if name == instruction][-1]


def exec_form(instruction: str) -> list[str]:
    """Its last occurrence in exec form: no shell stands between the engine and the process."""
    words: list[str] = json.loads(argument(instruction))
    return words


def image_environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", argument("ENV")))
