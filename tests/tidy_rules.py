"""The rules behind test_tidy.py. Each is a function from a parsed file to the lines that break it."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60  # docstring included

TOP_LEVEL: Final = {
    "pyproject.toml", "README.md", "LICENSE", "atlas", "consumers", "schemas", "tests", "compose", "scripts",
}  # fmt: skip
#: Made by tools, never committed.
TOOL_OUTPUT: Final = {"__pycache__", "build", "dist", "htmlcov", "node_modules"}
#: Hidden directories that are ours; the others belong to tools and editors.
OUR_DOT_DIRECTORIES: Final = {".ci", ".github"}

# Written in halves, so that this file does not break the rules it checks.
MACHINE_PATH: Final = re.compile(r"(?<![\w.)-])/(?:wo" + r"rk|ro" + r"ot)/")
REGISTRY_HOST: Final = re.compile(
    "|".join(
        ("pypi" + r"\.org", "python" + r"hosted\.org", "npm" + r"js\.(?:org|com)", "proxy" + r"\.golang\.org")
    )
)
UNFINISHED: Final = re.compile(r"\b(?:FIX" + r"ME|TO" + r"DO|XX" + r"X)\b")

#: The part of the standard library that is neither clock, chance nor input and output.
PURE_STDLIB: Final = {
    "__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "copy", "dataclasses",
    "datetime", "decimal", "email.utils", "enum", "fractions", "functools", "hashlib", "heapq", "hmac",
    "ipaddress", "itertools", "json", "math", "operator", "re", "string", "struct", "textwrap",
    "types", "typing", "unicodedata", "urllib.parse", "zlib",
}  # fmt: skip
IMPURE_CALLS: Final = {
    "open", "print", "input", "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today",
}  # fmt: skip
CODECS: Final = {"msgspec", "orjson"}
TELEMETRY: Final = {"structlog", "prometheus_client"}


@dataclass(frozen=True)
class Zone:
    """What the modules of one directory may import. `vendors` None: any; `stdlib` None: all but sqlite3."""

    atlas: set[str]
    vendors: set[str] | None
    stdlib: set[str] | None = None


_INNER: Final = {"atlas.core", "atlas.ports", "atlas.runtime"}
_EDGES: Final = {"atlas.gateway", "atlas.status", "atlas.dashboard"}
ZONES: Final = {
    "atlas/core": Zone({"atlas.core"}, CODECS, PURE_STDLIB),
    "atlas/ports": Zone({"atlas.core", "atlas.ports"}, CODECS),
    "atlas/adapters": Zone({"atlas.core", "atlas.ports", "atlas.adapters"}, None),
    "atlas/runtime": Zone(_INNER, CODECS | TELEMETRY | {"uvloop", "hypercorn", "uvicorn"}),
    "atlas/gateway": Zone(_INNER | _EDGES, CODECS | TELEMETRY | {"starlette"}),
    "atlas/status": Zone(_INNER | _EDGES, CODECS | TELEMETRY | {"starlette"}),
    "atlas/dashboard": Zone(_INNER | _EDGES, CODECS | TELEMETRY | {"starlette"}),
    "atlas/client": Zone({"atlas.core", "atlas.client"}, CODECS | {"aiohttp"}),
    "atlas/data": Zone(set(), CODECS),
    # A consumer's main() asks the composition root for its adapters; what it handles them with takes ports.
    "consumers": Zone(_INNER | {"consumers", "atlas.bootstrap"}, CODECS | TELEMETRY),
}
#: May name adapters: the composition root, the adapters themselves, and tests.
NAMES_ADAPTERS: Final = ("atlas/bootstrap.py", "atlas/adapters/", "tests/")

Finding = tuple[int, str]
Rule = Callable[[ast.Module], Iterator[Finding]]


# --- what there is


def files() -> list[Path]:
    found = []
    for directory, subdirectories, names in os.walk(ROOT):
        subdirectories[:] = [
            name
            for name in subdirectories
            if name in OUR_DOT_DIRECTORIES or not (name.startswith(".") or name in TOOL_OUTPUT)
        ]
        found += [Path(directory, name) for name in names if not name.endswith((".pyc", ".swp", "~"))]
    return sorted(path for path in found if path.is_file())


def text(path: Path) -> str:
    """The file's text; empty for what is no text (packed data, pictures)."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    first_line = text(path).partition("\n")[0]
    return first_line.startswith("#!") and "python" in first_line


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*prefixes: str) -> list[Path]:
    return [path for path in files() if is_python(path) and where(path).startswith(prefixes or "")]


def refuse(findings: list[str]) -> None:
    assert not findings, "\n  " + "\n  ".join(findings)


def check(rule: Rule, paths: list[Path]) -> None:
    findings = []
    for path in paths:
        tree = ast.parse(text(path), filename=where(path))
        findings += [f"{where(path)}:{line}: {message}" for line, message in rule(tree)]
    refuse(findings)


def check_lines(pattern: re.Pattern[str], message: str) -> None:
    refuse(
        [
            f"{where(path)}:{number}: {message}: {line.strip()[:80]}"
            for path in files()
            for number, line in enumerate(text(path).splitlines(), 1)
            if pattern.search(line)
        ]
    )


# --- rules on one file


def imports(tree: ast.Module) -> Iterator[Finding]:
    """Line and full dotted name of everything imported, anywhere in the file; `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield node.lineno, "." * node.level + f"{node.module or ''}.{name.name}"


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def may_import(zone: Zone, name: str) -> bool:
    top = name.partition(".")[0]
    if top in {"atlas", "consumers", "tests"}:
        return within(name, zone.atlas)
    if top in sys.stdlib_module_names:
        if zone.vendors is None:
            return True
        return within(name, zone.stdlib) if zone.stdlib is not None else top != "sqlite3"
    return zone.vendors is None or top in zone.vendors


def foreign_imports(zone: Zone) -> Rule:
    def rule(tree: ast.Module) -> Iterator[Finding]:
        for line, name in imports(tree):
            if not may_import(zone, name):
                yield line, f"must not import {name}"

    return rule


def adapter_imports(tree: ast.Module) -> Iterator[Finding]:
    for line, name in imports(tree):
        if within(name, {"atlas.adapters"}):
            yield line, f"imports {name}: only atlas/bootstrap.py names adapters"


def impure_calls(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in IMPURE_CALLS:
            yield node.lineno, f"calls {called}(): the core has no clock and does no I/O"


def long_functions(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name}() has {lines} lines, over {FUNCTION_LINES_MAX}"


def sleeps(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not re.search(r"(^|[._])sleep$", ast.unparse(node.func)):
            continue
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if (
                isinstance(argument, ast.Constant)
                and isinstance(argument.value, int | float)
                and argument.value > 0
            ):
                yield (
                    node.lineno,
                    f"sleeps for {argument.value} s: use virtual time, or wait for the thing itself",
                )


def mocks(tree: ast.Module) -> Iterator[Finding]:
    for line, name in imports(tree):
        if within(name, {"unittest.mock", "mock", "pytest_mock"}):
            yield line, f"imports {name}: the fakes are the shipped adapters"


_DIRECTIVE: Final = re.compile(
    r"type:\s*ignore(?P<types>\[[\w, -]+\])?|noqa(?P<lint>:\s*[A-Z]+\d+(?:[, ]+[A-Z]+\d+)*)?"
)
_WHOLE_FILE: Final = re.compile(r"#\s*(?:ruff:\s*noqa|flake8:\s*noqa|mypy:\s*(?:ignore|disable|allow))")


def bare_ignores(source: str) -> Iterator[Finding]:
    """Comments that switch a check off without saying which, or without saying why."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if _WHOLE_FILE.search(token.string):
            yield line, "switches a check off for the whole file"
        elif found := list(_DIRECTIVE.finditer(token.string)):
            if not all(one["types"] or one["lint"] for one in found):
                yield line, "does not say which check it switches off"
            if len(re.findall(r"[A-Za-z]{2,}", _DIRECTIVE.sub("", token.string))) < 2:
                yield line, "does not say why the check is switched off"
