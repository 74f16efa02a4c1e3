from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.adapters.aes_secret_box import AesSecretBox, SecretNotOpened
from atlas.ports.secret_box import SecretBox

KEY = bytes(range(32))
BOX: SecretBox = AesSecretBox(KEY, os.urandom)
CONTEXT = "ws_4F9KQ2C7Z1/live/wf_billing_sync"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@given(st.text(), st.text())
def test_what_was_sealed_opens(secret: str, context: str) -> None:
    assert BOX.open(BOX.seal(secret, context), context) == secret


def test_the_same_secret_is_never_sealed_the_same() -> None:
    assert BOX.seal(SECRET, CONTEXT) != BOX.seal(SECRET, CONTEXT)


def test_the_nonce_comes_from_the_entropy_given() -> None:
    box = AesSecretBox(KEY, lambda n: b"n" * n)
    raw = base64.b64decode(box.seal(SECRET, CONTEXT))
    assert raw[:13] == b"\x01" + b"n" * 12
    assert len(raw) == 13 + len(SECRET) + 16
    assert SECRET.encode() not in raw


@pytest.mark.parametrize(
    "context", ["ws_4F9KQ2C7Z1/test/wf_billing_sync", "ws_OTHER/live/wf_billing_sync", ""]
)
def test_it_does_not_open_in_another_context(context: str) -> None:
    with pytest.raises(SecretNotOpened):
        BOX.open(BOX.seal(SECRET, CONTEXT), context)


def test_it_does_not_open_under_another_master_key() -> None:
    with pytest.raises(SecretNotOpened):
        AesSecretBox(bytes(32), os.urandom).open(BOX.seal(SECRET, CONTEXT), CONTEXT)


@given(st.integers(0, 68), st.integers(1, 255))
def test_one_changed_byte_is_noticed(place: int, change: int) -> None:
    raw = bytearray(base64.b64decode(BOX.seal(SECRET, CONTEXT)))
    raw[place % len(raw)] ^= change
    with pytest.raises(SecretNotOpened):
        BOX.open(base64.b64encode(raw).decode(), CONTEXT)


@pytest.mark.parametrize("sealed", ["", "AQ==", "not base64!", "\u00e9", "AQAAAAAAAAAAAAAAAA=="])
def test_what_was_never_sealed_is_refused(sealed: str) -> None:
    with pytest.raises(SecretNotOpened):
        BOX.open(sealed, CONTEXT)


@pytest.mark.parametrize("size", [31, 33])
def test_a_master_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AesSecretBox(bytes(size), os.urandom)
