"""Both signatures against independent re-implementations of their texts, and the verifier's refusals."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from atlas.core import signing
from atlas.core.errors import AtlasError
from atlas.core.signing import (
    SIGNATURE_HEADER_CHARS_MAX,
    TOLERANCE_S,
    SignatureMismatch,
    atlas_signature,
    delivery_headers,
    encode_secret,
    standard_signature,
    verify,
)

NEW = encode_secret(bytes(range(32)))
OLD = encode_secret(b"\xff" * 32)
AT_S = 1_747_579_332
BODY = b'{"id":"evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A","data":{"caf\xc3\xa9":"\xe2\x82\xac"}}'
DELIVERY = "whd_01HX9ZB44X1A9KP6T2Q0F3R5XM"

bodies = st.binary(max_size=2_000)
keys = st.binary(min_size=32, max_size=32)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """RFC 2104, written out."""
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


@given(keys, st.integers(0, 10**11), bodies)
def test_atlas_signature_is_what_the_reference_says(key: bytes, at_s: int, body: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    signed = hmac_sha256(secret.encode(), str(at_s).encode() + b"." + body)
    assert atlas_signature([secret], at_s, body) == f"t={at_s},v1={signed.hex()}"


@given(keys, st.integers(0, 10**11), bodies)
def test_standard_signature_is_keyed_with_the_decoded_bytes(key: bytes, at_s: int, body: bytes) -> None:
    signed = hmac_sha256(key, f"{DELIVERY}.{at_s}.".encode() + body)
    expected = "v1," + base64.b64encode(signed).decode()
    assert standard_signature([encode_secret(key)], DELIVERY, at_s, body) == expected


def test_a_known_answer_of_both() -> None:
    """Computed once with `openssl dgst -sha256 -mac HMAC`; a change here breaks every receiver."""
    secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert secret == NEW
    assert atlas_signature([secret], 1_747_579_332, b"{}") == (
        "t=1747579332,v1=f31a1a2fbd9a55c8c40e59123e9a5fa6b22473a1126aedecbc5491d0e72aa95d"
    )
    assert standard_signature([secret], "whd_1", 1_747_579_332, b"{}") == (
        "v1,GUh7oH2CzUOue3mMN+JfBkt2UGJTzuGyGNXYRkuNQ2Y="
    )


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_the_standard_webhooks_library_verifies_it_during_a_rotation(secret: str) -> None:
    headers = delivery_headers([NEW, OLD], DELIVERY, 1, int(time.time()), BODY)
    assert Webhook(secret).verify(BODY, headers)["id"].startswith("evt_")


def test_headers_of_an_attempt() -> None:
    headers = delivery_headers([NEW], DELIVERY, 3, AT_S, BODY, {"Authorization": "Bearer x"})
    assert headers == {
        "Authorization": "Bearer x",
        "Content-Type": "application/json",
        "X-Atlas-Signature": atlas_signature([NEW], AT_S, BODY),
        "X-Atlas-Delivery-Id": DELIVERY,
        "X-Atlas-Attempt": "3",
        "webhook-id": DELIVERY,
        "webhook-timestamp": str(AT_S),
        "webhook-signature": standard_signature([NEW], DELIVERY, AT_S, BODY),
    }


def test_a_rotation_sends_one_v1_per_live_secret_newest_first() -> None:
    both = atlas_signature([NEW, OLD], AT_S, BODY)
    time_part, newest, older = both.split(",")
    assert f"{time_part},{newest}" == atlas_signature([NEW], AT_S, BODY)
    assert f"{time_part},{older}" == atlas_signature([OLD], AT_S, BODY)
    assert len(both) < SIGNATURE_HEADER_CHARS_MAX
    for secret in (NEW, OLD):
        verify(secret, both, BODY, AT_S)


@given(bodies, st.integers(0, 2_000), st.integers(1, 255))
def test_a_changed_body_is_refused(body: bytes, at: int, flip: int) -> None:
    changed = bytearray(body or b"x")
    changed[at % len(changed)] ^= flip
    with pytest.raises(SignatureMismatch):
        verify(NEW, atlas_signature([NEW], AT_S, body or b"x"), bytes(changed), AT_S)


def test_another_secret_and_another_time_are_refused() -> None:
    header = atlas_signature([NEW], AT_S, BODY)
    with pytest.raises(SignatureMismatch, match="no signature fits"):
        verify(OLD, header, BODY, AT_S)
    with pytest.raises(SignatureMismatch, match="no signature fits"):
        verify(NEW, header.replace(str(AT_S), str(AT_S + 1)), BODY, AT_S)


@pytest.mark.parametrize("drift_s", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_drift_up_to_five_minutes_is_accepted(drift_s: int) -> None:
    verify(NEW, atlas_signature([NEW], AT_S, BODY), BODY, AT_S + drift_s)


@pytest.mark.parametrize("drift_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, TOLERANCE_S + 0.001])
def test_drift_above_five_minutes_is_refused(drift_s: float) -> None:
    with pytest.raises(SignatureMismatch, match="300 seconds"):
        verify(NEW, atlas_signature([NEW], AT_S, BODY), BODY, AT_S + drift_s)


GOOD = atlas_signature([NEW], AT_S, BODY)
HEX = GOOD.partition("v1=")[2]


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",",
        "=",
        HEX,
        f"v1={HEX}",
        f"t={AT_S}",
        f"t={AT_S},v1=",
        f"t={AT_S},v1={HEX[:-1]}",
        f"t={AT_S},v1={HEX[:32]}",
        f"t={AT_S},v1={HEX}0",
        f"t={AT_S},v1={HEX.upper()}",
        f"t={AT_S},v1={HEX[:-1]}g",
        f"t={AT_S},v1={HEX}\n",
        f"t={AT_S},v1={HEX},v1=short",
        f"t={AT_S},v2={HEX}",
        f"t={AT_S},t={AT_S},v1={HEX}",
        f"t=,v1={HEX}",
        f"t=+{AT_S},v1={HEX}",
        f"t=0{AT_S},v1={HEX}",
        f"t={AT_S}.0,v1={HEX}",
        f"t=-1,v1={HEX}",
        f"t=nan,v1={HEX}",
        f"t={'9' * 13},v1={HEX}",
        "t=" + "\uff11" * 10 + f",v1={HEX}",
        f"t={AT_S},v1={'é' * 64}",
        GOOD + ",x=" + "x" * SIGNATURE_HEADER_CHARS_MAX,
    ],
)
def test_an_empty_short_or_malformed_signature_is_refused(header: str) -> None:
    with pytest.raises(SignatureMismatch):
        verify(NEW, header, BODY, AT_S)


@given(st.text(max_size=300))
def test_no_header_makes_the_verifier_fail_otherwise(header: str) -> None:
    with pytest.raises(SignatureMismatch):
        verify(NEW, header, BODY, AT_S)


def test_a_later_scheme_beside_v1_is_left_alone() -> None:
    verify(NEW, GOOD + ",v2=whatever", BODY, AT_S)


def test_the_header_bound_is_exact() -> None:
    padding = GOOD + ",v2=" + "x" * (SIGNATURE_HEADER_CHARS_MAX - len(GOOD) - 4)
    verify(NEW, padding, BODY, AT_S)
    with pytest.raises(SignatureMismatch):
        verify(NEW, padding + "x", BODY, AT_S)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec",
        NEW.removeprefix("whsec_"),
        "whsec_!!!!",
        NEW[:-4],
        NEW[:-1],
        NEW + "AAAA",
        "whsec_é",
    ],
)
def test_a_malformed_secret_is_an_error_that_does_not_show_it(secret: str) -> None:
    for attempt in (
        lambda: atlas_signature([secret], AT_S, BODY),
        lambda: standard_signature([secret], DELIVERY, AT_S, BODY),
        lambda: verify(secret, GOOD, BODY, AT_S),
    ):
        with pytest.raises(ValueError, match="signing secret") as caught:
            attempt()
        assert len(secret) < 7 or secret not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_nothing_is_sent_unsigned() -> None:
    with pytest.raises(ValueError, match="at least one"):
        delivery_headers([], DELIVERY, 1, AT_S, BODY)
    with pytest.raises(ValueError, match="32 bytes"):
        encode_secret(b"\0" * 31)


def test_signing_twice_gives_the_same() -> None:
    """The cached, begun HMAC must not be used up."""
    assert atlas_signature([NEW], AT_S, BODY) == atlas_signature([NEW], AT_S, BODY) == GOOD
    assert signing._keyed.cache_info().maxsize == signing.KEYS_CACHED_MAX


def test_the_refusal_is_one_of_ours() -> None:
    assert issubclass(SignatureMismatch, AtlasError)
