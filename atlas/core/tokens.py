"""Bearer tokens: `atlas_{live,test}_{sk,pk}_<secret>` and `atlas_op_<secret>`. Pure.

A secret is 40 hex characters of randomness (160 bits) and 8 of a CRC-32 over everything before them. The
checksum keeps nobody out: it lets a mistyped token be refused without any look-up, and secret scanners
tell a real token from a look-alike. Only a token's SHA-256 is ever stored: at this entropy a slow hash
would add nothing but a denial of service.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Final

from atlas.core.facts import ENVIRONMENTS

ENTROPY_BYTES: Final = 20
CHECKSUM_CHARS: Final = 8
#: Characters of the secret that a listing shows, so that people can tell their keys apart.
SHOWN_CHARS: Final = 4

#: An API key's `kind` as it is written in the token.
MARK_BY_KIND: Final = {"secret": "sk", "publishable": "pk"}

_HEX: Final = rf"[0-9a-f]{{{2 * ENTROPY_BYTES + CHECKSUM_CHARS}}}"
_KEY: Final = re.compile(rf"atlas_(?:live|test)_(?:sk|pk)_{_HEX}".encode()).fullmatch
_OPERATOR: Final = re.compile(f"atlas_op_{_HEX}".encode()).fullmatch
_PUBLISHABLE: Final = tuple(f"atlas_{environment}_pk_".encode() for environment in ENVIRONMENTS)


def make_key(environment: str, kind: str, entropy: bytes) -> str:
    """A new API key.

    Args:
        environment: live or test.
        kind: secret or publishable.
        entropy: `ENTROPY_BYTES` random bytes.
    """
    if environment not in ENVIRONMENTS:
        raise ValueError(f"no such environment: {environment}")
    return _make(f"atlas_{environment}_{MARK_BY_KIND[kind]}_", entropy)


def make_operator_token(entropy: bytes) -> str:
    """A new operator token, from `ENTROPY_BYTES` random bytes."""
    return _make("atlas_op_", entropy)


def is_key(token: bytes) -> bool:
    """Whether this has the form of an API key, and the right checksum."""
    return _KEY(token) is not None and _checksum(token[:-CHECKSUM_CHARS]) == token[-CHECKSUM_CHARS:]


def is_operator_token(token: bytes) -> bool:
    """Whether this has the form of an operator token, and the right checksum."""
    return _OPERATOR(token) is not None and _checksum(token[:-CHECKSUM_CHARS]) == token[-CHECKSUM_CHARS:]


def looks_publishable(token: bytes) -> bool:
    """Whether this begins like a publishable key; it need not be a good one."""
    return token.startswith(_PUBLISHABLE)


def digest(token: bytes | str) -> str:
    """SHA-256 of a token, hex: what is stored and looked up."""
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).hexdigest()


def display_prefix(token: str) -> str:
    """The part of a token that may be shown: all but the secret, and its first characters."""
    head, _, secret = token.rpartition("_")
    return f"{head}_{secret[:SHOWN_CHARS]}"


def _make(head: str, entropy: bytes) -> str:
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"needs {ENTROPY_BYTES} random bytes")
    body = head + entropy.hex()
    return body + _checksum(body.encode()).decode()


def _checksum(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)
