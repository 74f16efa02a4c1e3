"""Encryption of signing secrets at rest (design section 6)."""

from __future__ import annotations

from typing import Protocol


class SecretBox(Protocol):
    """Authenticated encryption under the installation's master key."""

    def seal(self, secret: str, context: str) -> str:
        """Encrypt; `context` (workspace, environment, target) is bound to the ciphertext, base64."""

    def open(self, sealed: str, context: str) -> str:
        """Decrypt.

        Raises:
            AtlasError: wrong master key, or the ciphertext belongs to another context.
        """
