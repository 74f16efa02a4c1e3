from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core import tokens

ENTROPY = bytes(range(20))
KEY = tokens.make_key("live", "secret", ENTROPY)


@pytest.mark.parametrize(
    ("environment", "kind", "head"),
    [
        ("live", "secret", "atlas_live_sk_"),
        ("live", "publishable", "atlas_live_pk_"),
        ("test", "secret", "atlas_test_sk_"),
        ("test", "publishable", "atlas_test_pk_"),
    ],
)
def test_a_key_is_its_head_the_randomness_and_a_checksum(environment: str, kind: str, head: str) -> None:
    token = tokens.make_key(environment, kind, ENTROPY)
    body = head + ENTROPY.hex()
    assert token == f"{body}{zlib.crc32(body.encode()):08x}"
    assert tokens.is_key(token.encode())
    assert not tokens.is_operator_token(token.encode())
    assert tokens.looks_publishable(token.encode()) is (kind == "publishable")


def test_an_operator_token() -> None:
    token = tokens.make_operator_token(ENTROPY)
    assert token.startswith("atlas_op_" + ENTROPY.hex())
    assert tokens.is_operator_token(token.encode())
    assert not tokens.is_key(token.encode())


@given(st.binary(min_size=20, max_size=20), st.integers(0, 61), st.characters(codec="ascii"))
def test_one_wrong_character_is_noticed(entropy: bytes, place: int, wrong: str) -> None:
    token = tokens.make_key("live", "secret", entropy)
    typo = token[:place] + wrong + token[place + 1 :]
    assert tokens.is_key(typo.encode()) is (typo == token)


def test_the_checksum_covers_environment_and_kind() -> None:
    assert not tokens.is_key(KEY.replace("live", "test").encode())
    assert not tokens.is_key(KEY.replace("_sk_", "_pk_").encode())


@pytest.mark.parametrize(
    "token",
    [
        b"",
        KEY.encode() + b"\n",
        b" " + KEY.encode(),
        KEY.upper().encode(),
        KEY.encode()[:-1],
        KEY.encode() + b"0",
        b"atlas_live_sk_9f4c2c1e6b8a4d2bb7e6c0a8d3f1e5c2",
        b"\xff" * 62,
    ],
)
def test_what_is_no_key(token: bytes) -> None:
    assert not tokens.is_key(token)


@pytest.mark.parametrize("size", [19, 21])
def test_entropy_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="20 random bytes"):
        tokens.make_key("live", "secret", bytes(size))


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="environment"):
        tokens.make_key("staging", "secret", ENTROPY)


def test_the_digest_is_sha256() -> None:
    assert tokens.digest(KEY) == tokens.digest(KEY.encode()) == hashlib.sha256(KEY.encode()).hexdigest()


def test_the_prefix_shows_four_characters_of_the_secret() -> None:
    assert tokens.display_prefix(KEY) == "atlas_live_sk_0001"
