"""Who asks, and what they may do (reference, "Authentication"; API notes, "Keys" and "Operators")."""

from __future__ import annotations

import enum
import hmac
from typing import Final

from atlas.core.entities import ApiKey
from atlas.core.errors import ApiError, Unavailable
from atlas.core.tokens import digest, is_key
from atlas.gateway.call import Principal
from atlas.ports.clock import Clock
from atlas.runtime.registry import Registry


class Access(enum.Enum):
    """What a key must be allowed for a method of a path."""

    SEND = "send"
    """Send events: every key."""
    READ = "read"
    """Read streams and their events: secret keys, within their scope."""
    FULL = "full"
    """Everything else: secret keys that are not scoped to streams."""


class Gate:
    """Lets callers in. Reads memory only, but for a digest it has never seen.

    Args:
        registry: the fold that knows the keys.
        clock: for keys that expire.
        operator_token_digest: SHA-256 of the operator token, hex.
    """

    def __init__(self, registry: Registry, clock: Clock, operator_token_digest: str) -> None:
        self._registry = registry
        self._clock = clock
        self._operator_token_digest = operator_token_digest

    async def caller(self, token: bytes) -> Principal:
        """The caller behind a bearer token; the workspace may be suspended.

        A checksum that does not fit is refused before any look-up. A digest not known here may be of a
        key made elsewhere a moment ago: then the end of the control topic is waited for, once.

        Raises:
            ApiError: 401.
            Unavailable: nobody can tell now whether the key is still good.
        """
        if not is_key(token):
            raise _unauthenticated("The bearer token is malformed: it is not an Atlas API key.")
        self._confirm_current()
        digested = digest(token)
        state = self._registry.state
        key = state.keys_by_digest.get(digested)
        if key is None:
            await self._registry.catch_up()
            key = state.keys_by_digest.get(digested)
        if key is None or not key.is_live(self._clock.now_ms()):
            raise _unauthenticated("The API key is unknown, has expired or was revoked.")
        return Principal(key, state.workspaces[key.workspace_id])

    def operator(self, token: bytes) -> None:
        """Let only the operator pass.

        Raises:
            ApiError: 401.
            Unavailable: the control plane cannot be read now.
        """
        if not hmac.compare_digest(digest(token), self._operator_token_digest):
            raise _unauthenticated("This is not the operator token.")
        self._confirm_current()

    def _confirm_current(self) -> None:
        reason = self._registry.not_ready()
        if reason is not None:
            raise Unavailable(f"This gateway is not ready: {reason}.")


def permits(key: ApiKey, access: Access) -> bool:
    """Whether a key of this kind and scope may do it at all; which streams it sees is another question."""
    if access is Access.SEND:
        return True
    return not key.publishable and (access is Access.READ or key.streams is None)


_SCHEME: Final = b"bearer"


def bearer(authorization: bytes | None) -> bytes:
    """The token in an `Authorization` header. The scheme's case does not matter (RFC 9110, 11.1).

    Raises:
        ApiError: 401.
    """
    if authorization is None:
        raise _unauthenticated("The Authorization header is missing.")
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != _SCHEME:
        raise _unauthenticated("The Authorization header must be: Bearer <key>.")
    return token.strip(b" ")


def _unauthenticated(message: str) -> ApiError:
    return ApiError("authentication_failed", message, headers={"www-authenticate": "Bearer"})
