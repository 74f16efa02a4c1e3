"""What compose/ says to Atlas is what its command line takes."""

from __future__ import annotations

import click
import pytest

from atlas.cli import main
from atlas.settings import SECRETS
from tests.compose.files import (
    PORT_BY_PROCESS,
    argument,
    exec_form,
    image_environment,
    load,
    services,
)


def envvars(command: click.Command) -> set[str]:
    """The variables that set a command's options."""
    given = [option.envvar for option in command.params if option.envvar is not None]
    return {name for each in given for name in ([each] if isinstance(each, str) else each)}


def default(command: str, variable: str) -> object:
    (option,) = [each for each in main.commands[command].params if each.envvar == variable]
    return option.default


@pytest.mark.parametrize("process", PORT_BY_PROCESS)
def test_a_process_takes_what_it_is_given(process: str) -> None:
    service = services()[process]
    assert service["command"] == [process]
    given = {name for name in service["environment"] if name.startswith("ATLAS_")}
    assert given
    assert given <= envvars(main.commands[process]) | SECRETS.keys()


@pytest.mark.parametrize(("process", "port"), PORT_BY_PROCESS.items())
def test_its_port_is_the_same_everywhere(process: str, port: int) -> None:
    assert default(process, "ATLAS_PORT" if process == "gateway" else "ATLAS_OPS_PORT") == port
    assert services()[process]["healthcheck"]["test"][-1] == str(port)
    (scraped,) = [job for job in load("prometheus.yml")["scrape_configs"] if job["job_name"] == process]
    assert [(one["names"], one["port"]) for one in scraped["dns_sd_configs"]] == [([process], port)]
    assert str(port) in argument("EXPOSE").split()


def test_the_image_sets_what_processes_take() -> None:
    given = {name for name in image_environment() if name.startswith("ATLAS_")}
    known = {name for process in PORT_BY_PROCESS for name in envvars(main.commands[process])}
    assert given
    assert given <= known
    assert exec_form("CMD")[0] in main.commands
