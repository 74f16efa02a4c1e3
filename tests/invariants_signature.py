"""Whether a request is signed as the reference tells receivers to check it; written from its text alone.

"HMAC-SHA256 of `{timestamp}.{raw_body}` using your endpoint signing secret, compared against the `v1` value
in X-Atlas-Signature; reject a timestamp more than five minutes from server time." The secret is the whole
string, `whsec_` included (API notes, "Signing").
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

from tests.invariants_history import Arrival, History

DRIFT_MAX_MS: Final = 5 * 60 * 1000
_HEADER: Final = re.compile(r"t=(\d{1,12})((?:,v1=[0-9a-f]{64})+)")


def is_signed_by(history: History, arrival: Arrival) -> bool:
    """Whether a request has a good signature by the secret of where it arrived."""
    return is_signed(history.secrets.get(arrival.target, ""), arrival.headers, arrival.body, arrival.at_ms)


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, at_ms: int) -> bool:
    """Whether a request that arrived at this time, headers by lower-case name, has a good signature."""
    found = _HEADER.fullmatch(headers.get("x-atlas-signature", ""))
    if found is None or abs(at_ms - int(found[1]) * 1000) > DRIFT_MAX_MS:
        return False
    mac = hmac.new(secret.encode(), f"{found[1]}.".encode() + body, hashlib.sha256).hexdigest()
    return mac in found[2].split(",v1=")
