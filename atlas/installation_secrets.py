"""Secrets of an installation: from the environment, else from private files in the data directory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from atlas.bootstrap import MASTER_KEY_BYTES, read_or_create_private
from atlas.core.errors import AtlasError
from atlas.core.tokens import ENTROPY_BYTES, is_operator_token, make_operator_token
from atlas.settings import MASTER_KEY_VARIABLE, SECRETS, TOKEN_VARIABLE

MASTER_KEY_FILE: Final = SECRETS[MASTER_KEY_VARIABLE].file
OPERATOR_FILE: Final = SECRETS[TOKEN_VARIABLE].file

_HEX_KEY: Final = re.compile(f"[0-9a-fA-F]{{{2 * MASTER_KEY_BYTES}}}")


def master_key(data_dir: Path, *, make: bool = True) -> bytes:
    """The key that signing secrets are sealed with, written as hexadecimal digits.

    Args:
        make: make a new one when there is none. Only one process of an installation may: whoever owns the
            data directory, or the gateway.

    Raises:
        AtlasError: it is malformed, or there is none; the message does not repeat it.
        DataDirectoryUnusable: the file cannot be read or written.
    """
    path = data_dir / MASTER_KEY_FILE
    if not make and not os.environ.get(MASTER_KEY_VARIABLE) and not path.exists():
        raise AtlasError(
            f"there is no master key: set {MASTER_KEY_VARIABLE} to the gateway's, or start the gateway over "
            f"{data_dir} first"
        )
    text = _secret(MASTER_KEY_VARIABLE, path, lambda: os.urandom(MASTER_KEY_BYTES).hex())
    if not _HEX_KEY.fullmatch(text):
        raise AtlasError(
            f"the master key in {MASTER_KEY_VARIABLE} or {path} "
            f"must be {2 * MASTER_KEY_BYTES} hexadecimal digits"
        )
    return bytes.fromhex(text)


def operator_token(data_dir: Path) -> str:
    """What opens `/admin/v1`.

    Raises:
        AtlasError: it is malformed; the message does not repeat it.
        DataDirectoryUnusable: the file cannot be read or written.
    """
    token = _secret(
        TOKEN_VARIABLE, data_dir / OPERATOR_FILE, lambda: make_operator_token(os.urandom(ENTROPY_BYTES))
    )
    if not is_operator_token(token.encode()):
        raise AtlasError(
            f"the operator token in {TOKEN_VARIABLE} or {data_dir / OPERATOR_FILE} is malformed; "
            f"move the file away, or unset the variable, and a new one is made"
        )
    return token


def _secret(variable: str, path: Path, make: Callable[[], str]) -> str:
    given = os.environ.get(variable)
    if not given:
        given = read_or_create_private(path, lambda: make().encode() + b"\n").decode(errors="replace")
    return given.strip()
