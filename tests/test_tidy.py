"""The rules of layout and style that matter, as tests: what may lie where, import what, and how big it is.

The rules themselves are in tidy_rules.py. Here they are held over our files, and then over made-up ones: a
rule that cannot fail is worth nothing.
"""

from __future__ import annotations

import ast
import os
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.tidy_rules import (
    FUNCTION_LINES_MAX,
    MACHINE_PATH,
    MODULE_LINES_MAX,
    NAMES_ADAPTERS,
    REGISTRY_HOST,
    ROOT,
    TOOL_OUTPUT,
    TOP_LEVEL,
    UNFINISHED,
    ZONES,
    Rule,
    adapter_imports,
    bare_ignores,
    check,
    check_lines,
    foreign_imports,
    impure_calls,
    long_functions,
    mocks,
    python_files,
    refuse,
    sleeps,
    text,
    where,
)

# --- the rules on our files


def test_top_level_is_fixed() -> None:
    names = {path.name for path in ROOT.iterdir()} - TOOL_OUTPUT
    strangers = {
        name for name in names - TOP_LEVEL if not name.startswith(".") and not name.endswith(".lock")
    }
    refuse([f"{name}: does not belong at the top level" for name in sorted(strangers)])


@pytest.mark.parametrize("directory", ZONES)
def test_dependency_direction(directory: str) -> None:
    check(foreign_imports(ZONES[directory]), python_files(directory + "/"))


def test_every_directory_has_its_rule() -> None:
    ruled = {Path(zone).parts[1] for zone in ZONES if zone.startswith("atlas/")}
    packages = {where(path).split("/")[1] for path in python_files("atlas/") if path.parent != ROOT / "atlas"}
    refuse([f"atlas/{name}: add it to ZONES" for name in sorted(packages - ruled)])


def test_only_the_composition_root_names_adapters() -> None:
    check(adapter_imports, [path for path in python_files() if not where(path).startswith(NAMES_ADAPTERS)])


def test_the_core_has_no_clock_and_no_io() -> None:
    check(impure_calls, python_files("atlas/core/"))


def test_functions_are_small() -> None:
    check(long_functions, python_files())


def test_modules_are_small() -> None:
    sizes = {path: len(text(path).splitlines()) for path in python_files()}
    refuse(
        [
            f"{where(path)}:{lines}: has {lines} lines, over {MODULE_LINES_MAX}"
            for path, lines in sizes.items()
            if lines > MODULE_LINES_MAX
        ]
    )


def test_no_test_sleeps() -> None:
    check(sleeps, python_files("tests/"))


def test_no_mocks() -> None:
    check(mocks, python_files())


def test_every_ignore_says_which_and_why() -> None:
    refuse(
        [
            f"{where(path)}:{line}: {message}"
            for path in python_files()
            for line, message in bare_ignores(text(path))
        ]
    )


def test_nothing_is_left_unfinished() -> None:
    check_lines(UNFINISHED, "left unfinished")


def test_no_machine_path() -> None:
    check_lines(MACHINE_PATH, "names a path of one machine")


def test_no_package_registry_is_named() -> None:
    check_lines(REGISTRY_HOST, "names a package registry")


def test_scripts_explain_themselves_and_can_be_run() -> None:
    findings = []
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        if not path.is_file():
            continue
        lines = [*text(path).splitlines(), "", ""]
        if not os.access(path, os.X_OK):
            findings.append(f"{where(path)}:1: is not executable")
        if not lines[0].startswith("#!/usr/bin/env "):
            findings.append(f"{where(path)}:1: does not start with #!/usr/bin/env")
        if not re.match(r'(# |""")\w.{19}', lines[1]):
            findings.append(f"{where(path)}:2: does not say what the script does")
        if lines[0].endswith("bash") and "set -euo pipefail" not in lines:
            findings.append(f"{where(path)}:1: lacks set -euo pipefail")
    refuse(findings)


# --- dependencies


def locked(lock: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes by package name."""
    entries = re.split(r"^(?=\S)", (ROOT / lock).read_text(), flags=re.MULTILINE)
    pins = [
        (re.match(r"([a-z0-9-]+)==(\S+)", entry), entry.count("--hash=sha256:")) for entry in entries if entry
    ]
    assert all(pin for pin, _ in pins), f"{lock} holds more than pins"
    return {pin[1]: (pin[2], hashes) for pin, hashes in pins if pin}


def test_every_dependency_is_bounded_locked_and_explained() -> None:
    source = (ROOT / "pyproject.toml").read_text().splitlines()
    project = tomllib.loads("\n".join(source))
    wanted = {
        "requirements.lock": project["project"]["dependencies"] + project["build-system"]["requires"],
        "requirements-dev.lock": project["project"]["dependencies"]
        + [each for extra in project["project"]["optional-dependencies"].values() for each in extra],
    }
    findings = []
    for lock, requirements in wanted.items():
        for requirement in requirements:
            line = next((number for number, each in enumerate(source, 1) if f'"{requirement}"' in each), 0)
            name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
            if not re.fullmatch(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?>=\d[\w.]*(,.*)?", requirement):
                findings.append(f"pyproject.toml:{line}: {requirement} has no lower bound")
            if locked(lock).get(name.lower(), ("", 0))[1] == 0:
                findings.append(f"{lock}:1: {name} is not locked with a hash: run scripts/lock")
            if requirement not in project["build-system"]["requires"] and "#" not in source[line - 2]:
                findings.append(f"pyproject.toml:{line}: {requirement} gives no reason in the line above")
    refuse(findings)


def test_tests_run_on_the_locked_runtime() -> None:
    runtime, tests = locked("requirements.lock"), locked("requirements-dev.lock")
    refuse(
        [f"requirements-dev.lock:1: {name} differs" for name in runtime if tests.get(name) != runtime[name]]
    )
    refuse([f"{name}: locked without a hash" for name, (_, hashes) in tests.items() if hashes == 0])


# --- the rules can fail

CORE: Final = foreign_imports(ZONES["atlas/core"])


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        *(
            (CORE, f"def f() -> None:\n    import {name}")
            for name in (
                "asyncio",
                "os",
                "time",
                "random",
                "secrets",
                "socket",
                "threading",
                "aiosqlite",
                "urllib.request",
            )
        ),
        (CORE, "from atlas import ports"),
        (CORE, "from .. import ports"),
        (foreign_imports(ZONES["atlas/ports"]), "from atlas.runtime import loop"),
        (foreign_imports(ZONES["atlas/ports"]), "import aiohttp"),
        (foreign_imports(ZONES["atlas/adapters"]), "import atlas.runtime.loop"),
        (foreign_imports(ZONES["atlas/runtime"]), "from atlas.adapters.embedded_log import EmbeddedLog"),
        *(
            (foreign_imports(ZONES["atlas/runtime"]), f"import {name}")
            for name in ("sqlite3", "aiohttp", "starlette")
        ),
        (foreign_imports(ZONES["atlas/gateway"]), "import aiosqlite"),
        (foreign_imports(ZONES["consumers"]), "from atlas.gateway import app"),
        (adapter_imports, "from atlas import adapters"),
        (impure_calls, "from datetime import datetime\nx = datetime.now(tz=None)"),
        (sleeps, "async def f() -> None:\n    await asyncio.sleep(0.1)"),
        (mocks, "from unittest.mock import patch"),
        (mocks, "from unittest import mock"),
        (long_functions, "def f() -> None:\n" + "    pass\n" * FUNCTION_LINES_MAX),
    ],
)
def test_a_rule_refuses(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (
            CORE,
            "import msgspec\nfrom urllib.parse import urlsplit\nfrom atlas.core.errors import AtlasError",
        ),
        (
            foreign_imports(ZONES["atlas/adapters"]),
            "import sqlite3, aiosqlite\nfrom atlas.ports.log import Log",
        ),
        (
            foreign_imports(ZONES["atlas/gateway"]),
            "import starlette.routing\nfrom atlas.runtime import config",
        ),
        (sleeps, "async def f() -> None:\n    await asyncio.sleep(0)"),
        (long_functions, "def f() -> None:\n" + "    pass\n" * (FUNCTION_LINES_MAX - 1)),
    ],
)
def test_a_rule_allows(rule: Rule, source: str) -> None:
    assert not list(rule(ast.parse(source)))


@pytest.mark.parametrize(
    ("comment", "faults"),
    [
        ("type: ignore", 2),
        ("type: ignore[arg-type]", 1),
        ("type: ignore[arg-type]  # the stub is older than the library", 0),
        ("noqa", 2),
        ("noqa: S608", 1),
        ("noqa: S608, E501  # the name is one of our own constants", 0),
        ("noqa: S608 - the name is one of our own constants", 0),
        ("ruff: " + "noqa", 1),
    ],
)
def test_ignores_are_judged(comment: str, faults: int) -> None:
    assert len(list(bare_ignores(f"x = 1  # {comment}\n"))) == faults


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATH, "DATA = '/wo" + "rk/data'"),
        (MACHINE_PATH, "see /ro" + "ot/.cache"),
        (REGISTRY_HOST, "https://pypi" + ".org/simple"),
        (REGISTRY_HOST, "files.python" + "hosted.org"),
        (UNFINISHED, "# TO" + "DO: later"),
        (UNFINISHED, "FIX" + "ME"),
    ],
)
def test_a_line_is_refused(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATH, "GET /v1/workflows/wfl_1, docs/work/x, https://example.com/root/x"),
        (REGISTRY_HOST, "pip install"),
        (UNFINISHED, "mktemp atlas.XXXXXX; a todo list"),
    ],
)
def test_a_line_is_allowed(pattern: re.Pattern[str], line: str) -> None:
    assert not pattern.search(line)
