"""Adapter of the `SecretBox` port: AES-256-GCM from `cryptography` (NIST SP 800-38D).

A sealed secret is base64 of a version byte, a random 96-bit nonce and the ciphertext with its tag. The
context, with its version before it, is the associated data: a ciphertext moved to another workspace,
environment or target does not open. Random nonces under one key are safe for 2^32 secrets; an installation
makes thousands.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atlas.core.errors import AtlasError

MASTER_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
VERSION: Final = b"\x01"


class SecretNotOpened(AtlasError):
    """Wrong master key, another context, or not a sealed secret at all: nobody can tell which."""


class AesSecretBox:
    """See the module.

    Args:
        master_key: `MASTER_KEY_BYTES` bytes.
        entropy: n -> n random bytes, of cryptographic quality (`os.urandom`).
    """

    def __init__(self, master_key: bytes, entropy: Callable[[int], bytes]) -> None:
        if len(master_key) != MASTER_KEY_BYTES:
            raise ValueError(f"the master key must have {MASTER_KEY_BYTES} bytes")
        self._cipher = AESGCM(master_key)
        self._entropy = entropy

    def seal(self, secret: str, context: str) -> str:
        nonce = self._entropy(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, secret.encode(), VERSION + context.encode())
        return base64.b64encode(VERSION + nonce + sealed).decode()

    def open(self, sealed: str, context: str) -> str:
        try:
            raw = base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError) as error:
            raise SecretNotOpened("not base64") from error
        nonce, ciphertext = raw[1 : 1 + NONCE_BYTES], raw[1 + NONCE_BYTES :]
        if raw[:1] != VERSION or len(nonce) < NONCE_BYTES:
            raise SecretNotOpened("not a sealed secret of a version known here")
        try:
            return self._cipher.decrypt(nonce, ciphertext, VERSION + context.encode()).decode()
        except InvalidTag as error:
            raise SecretNotOpened("wrong master key, or sealed for another context") from error
