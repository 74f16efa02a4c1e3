"""Signatures of what Atlas sends, and the one verifier of them.

Every delivery carries two signatures over the exact bytes of its body, so that a receiver may use either:

* `X-Atlas-Signature: t=<unix s>,v1=<hex>` (reference, "Verify the signature"): HMAC-SHA256 of
  `{t}.{body}`, keyed with the bytes of the whole secret string, `whsec_` included.
* `webhook-signature: v1,<base64>` (Standard Webhooks, https://www.standardwebhooks.com): HMAC-SHA256 of
  `{webhook-id}.{webhook-timestamp}.{body}`, keyed with the 32 bytes that the secret encodes.

While a secret is being rotated both live secrets sign, newest first, and one match is enough.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from atlas.core.errors import AtlasError

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 the prefix that all secrets share
SECRET_KEY_BYTES: Final = 32

#: A signature older or newer than this is refused, so that a recorded request cannot be replayed later.
TOLERANCE_S: Final = 300

#: No header of ours comes near it (two signatures take 150); bounds the verifier's work.
SIGNATURE_HEADER_CHARS_MAX: Final = 1_024

#: Live secrets whose keys are kept set up; the one unused for longest is dropped beyond that.
KEYS_CACHED_MAX: Final = 4_096

CONTENT_TYPE: Final = "application/json"

_TIMESTAMP = re.compile(r"0|[1-9][0-9]{0,11}")
_V1 = re.compile(r"[0-9a-f]{64}")


class SignatureMismatch(AtlasError):
    """The request was not signed with this secret, was altered, or is too old or too new."""


class _Keyed(NamedTuple):
    """HMAC-SHA256 begun with one secret, as the two schemes key it. Copy before use."""

    whole: hmac.HMAC
    decoded: hmac.HMAC


def encode_secret(key: bytes) -> str:
    """The secret string of 32 random bytes: what is shown once, and what both schemes start from.

    Raises:
        ValueError: not 32 bytes.
    """
    if len(key) != SECRET_KEY_BYTES:
        raise ValueError(f"a signing key has {SECRET_KEY_BYTES} bytes")
    return SECRET_PREFIX + base64.b64encode(key).decode()


def atlas_signature(secrets: Sequence[str], timestamp_s: int, body: bytes) -> str:
    """Value of `X-Atlas-Signature`.

    Args:
        secrets: the live secrets, newest first; at least one.
        timestamp_s: unix time of this attempt.
        body: the exact bytes that are sent.

    Raises:
        ValueError: no secret, or one that is not of the form `whsec_<base64 of 32 bytes>`.
    """
    prefix = b"%d." % timestamp_s
    signatures = [_digest(keyed.whole, prefix, body).hex() for keyed in _live(secrets)]
    return f"t={timestamp_s},v1=" + ",v1=".join(signatures)


def standard_signature(secrets: Sequence[str], delivery_id: str, timestamp_s: int, body: bytes) -> str:
    """Value of `webhook-signature`; arguments and errors as `atlas_signature`."""
    prefix = f"{delivery_id}.{timestamp_s}.".encode()
    signatures = [_digest(keyed.decoded, prefix, body) for keyed in _live(secrets)]
    return " ".join("v1," + base64.b64encode(signature).decode() for signature in signatures)


def delivery_headers(
    secrets: Sequence[str],
    delivery_id: str,
    attempt: int,
    timestamp_s: int,
    body: bytes,
    custom: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """All headers of one attempt but those of the connection itself (Host, Content-Length, User-Agent).

    Args:
        secrets: the live secrets, newest first; at least one.
        delivery_id: `whd_...`, the same on every attempt.
        attempt: number of this attempt, from 1.
        timestamp_s: unix time of this attempt.
        body: the exact bytes that are sent.
        custom: the target's own headers, as `targets.check_headers` let them pass.

    Raises:
        ValueError: as `atlas_signature`.
    """
    return {
        **(custom or {}),
        "Content-Type": CONTENT_TYPE,
        "X-Atlas-Signature": atlas_signature(secrets, timestamp_s, body),
        "X-Atlas-Delivery-Id": delivery_id,
        "X-Atlas-Attempt": str(attempt),
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": standard_signature(secrets, delivery_id, timestamp_s, body),
    }


def verify(secret: str, header: str, body: bytes, now_s: float, tolerance_s: int = TOLERANCE_S) -> None:
    """Check an `X-Atlas-Signature` at the receiver.

    Args:
        secret: the endpoint's secret, `whsec_...`.
        header: the value of `X-Atlas-Signature`.
        body: the raw body, before any parsing.
        now_s: the receiver's unix time.
        tolerance_s: largest difference allowed between `now_s` and the signed time, either way.

    Raises:
        SignatureMismatch: with the reason; the request must be refused.
        ValueError: the secret itself is malformed, which is the receiver's own mistake.
    """
    keyed = _keyed(secret)
    timestamp_s, signatures = _parse(header)
    if abs(now_s - timestamp_s) > tolerance_s:
        raise SignatureMismatch(f"signed more than {tolerance_s} seconds away from the time here")
    expected = _digest(keyed.whole, b"%d." % timestamp_s, body).hex()
    # Every candidate is compared, in constant time: how long it takes tells nothing about which one fits.
    fits = [hmac.compare_digest(expected, candidate) for candidate in signatures]
    if not any(fits):
        raise SignatureMismatch("no signature fits this body and secret")


def _parse(header: str) -> tuple[int, list[str]]:
    """Time and `v1` signatures of a header; schemes of other names are left for later versions.

    Raises:
        SignatureMismatch: the header is not of the form that Atlas sends.
    """
    if not header or len(header) > SIGNATURE_HEADER_CHARS_MAX:
        raise SignatureMismatch("the signature header is empty or too long")
    fields = [part.partition("=")[::2] for part in header.split(",")]
    times = [value for name, value in fields if name == "t"]
    signatures = [value for name, value in fields if name == "v1"]
    if len(times) != 1 or not _TIMESTAMP.fullmatch(times[0]):
        raise SignatureMismatch("the signature header must carry one time, t=<unix seconds>")
    if not signatures or not all(_V1.fullmatch(signature) for signature in signatures):
        raise SignatureMismatch("a signature must be v1=<64 lower-case hexadecimal digits>")
    return int(times[0]), signatures


def _digest(begun: hmac.HMAC, prefix: bytes, body: bytes) -> bytes:
    mac = begun.copy()
    mac.update(prefix)
    mac.update(body)
    return mac.digest()


def _live(secrets: Sequence[str]) -> list[_Keyed]:
    if not secrets:
        raise ValueError("a delivery needs at least one live secret")
    return [_keyed(secret) for secret in secrets]


@lru_cache(maxsize=KEYS_CACHED_MAX)
def _keyed(secret: str) -> _Keyed:
    """Setting a key up takes longer than signing with it, and the same few secrets sign everything.

    Raises:
        ValueError: not `whsec_<base64 of 32 bytes>`; the message does not repeat the secret.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a signing secret starts with {SECRET_PREFIX}")
    try:
        decoded = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a signing secret is base64 after its prefix") from None
    if len(decoded) != SECRET_KEY_BYTES:
        raise ValueError(f"a signing secret encodes {SECRET_KEY_BYTES} bytes")
    return _Keyed(hmac.new(secret.encode(), digestmod="sha256"), hmac.new(decoded, digestmod="sha256"))
