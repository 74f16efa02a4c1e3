from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core.ids import (
    ALPHABET,
    DEDUP_KEY_BYTES,
    ENTROPY_BYTES,
    TIME_MS_MAX,
    IdSource,
    dedup_key,
    delivery_id,
    event_id,
    id_time_ms,
    is_id,
    keyed_event_id,
    notice_id,
    ulid,
)

times_ms = st.integers(0, TIME_MS_MAX)
entropies = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)

REFERENCE_IDS = [
    "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
    "stm_01HX9Z0F8C5G3R8K2V1NQ7M4WP",
    "whd_01HX9ZB44X1A9KP6T2Q0F3R5XM",
    "req_01HX9ZD2M1Y0K8X6V3N7P5Q2W4",
]


def plain(number: int) -> str:
    """Crockford base32 of 130 bits, digit by digit."""
    digits = ""
    for _ in range(26):
        number, digit = divmod(number, 32)
        digits = ALPHABET[digit] + digits
    return digits


@given(times_ms, entropies)
def test_ulid_is_time_then_entropy_in_base32(ms: int, entropy: bytes) -> None:
    number = int.from_bytes(entropy, "big")
    assert ulid(ms, entropy) == ulid(ms, number) == plain(ms << 80 | number)
    assert is_id("evt_", event_id(ms, entropy))
    assert id_time_ms(event_id(ms, entropy)) == ms


@given(st.tuples(times_ms, entropies), st.tuples(times_ms, entropies))
def test_text_order_is_time_order(one: tuple[int, bytes], other: tuple[int, bytes]) -> None:
    assert (ulid(*one) < ulid(*other)) == (one < other)


def test_a_known_ulid() -> None:
    """The example of the ULID specification's canonical implementation: time 1469918176385."""
    assert ulid(1469918176385, 0).startswith("01ARYZ6S41")


@pytest.mark.parametrize("ms", [-1, TIME_MS_MAX + 1])
def test_times_that_do_not_fit(ms: int) -> None:
    with pytest.raises(ValueError, match="ULID"):
        ulid(ms, 0)


@pytest.mark.parametrize("identifier", REFERENCE_IDS)
def test_ids_of_the_reference(identifier: str) -> None:
    assert is_id(identifier[:4], identifier)
    assert ulid(id_time_ms(identifier), 0)[:10] == identifier[4:14]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evt_",
        "evt_01HX9YR8...",
        "evt_01HX9YS3K4P2QV8M1R7Z6N0WJ1B",  # the reference's own, one character too long
        "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1",
        "evt_01hx9yqk2t7v3m4zb6f5n0wj1a",
        "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A\n",
        " evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
        "stm_01HX9YQK2T7V3M4ZB6F5N0WJ1A",
        "01HX9YQK2T7V3M4ZB6F5N0WJ1A",
        "evt_8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
        *(f"evt_01HX9YQK2T7V3M4ZB6F5N0WJ1{letter}" for letter in "ILOUaé٣"),
    ],
)
def test_what_is_no_event_id(text: str) -> None:
    assert not is_id("evt_", text)


def test_the_largest_ulid_is_an_id() -> None:
    assert is_id("evt_", "evt_7ZZZZZZZZZZZZZZZZZZZZZZZZZ")


# --- ids that are hashes

parts = st.text(st.sampled_from("ab:1 é"), max_size=4)


@given(st.tuples(parts, parts, parts, parts), st.tuples(parts, parts, parts, parts))
def test_keyed_ids_differ_unless_all_parts_agree(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    assert (dedup_key(*one) == dedup_key(*other)) == (one == other)
    assert (keyed_event_id(5, *one) == keyed_event_id(5, *other)) == (one == other)


def test_a_keyed_event_id_is_the_time_and_the_dedup_key() -> None:
    key = dedup_key("ws_1", "live", "", "k")
    assert len(key) == DEDUP_KEY_BYTES
    assert keyed_event_id(1_000, "ws_1", "live", "", "k") == event_id(1_000, key[:ENTROPY_BYTES])


def test_hashed_ids_never_change() -> None:
    """They are in logs and in receivers' tables: another hash would be a second delivery."""
    assert (
        keyed_event_id(1779113000000, "ws_4F9KQ2C7Z1", "live", "", "key") == "evt_01KRXPBZ20W9PXS6892TH27YYY"
    )
    outcome = ("we_01HX9YQK2T7V3M4ZB6F5N0WJ1A", "event.delivered", "wf_billing_sync", 1, 0)
    assert notice_id(1779113000000, REFERENCE_IDS[0], *outcome) == "whd_01KRXPBZ20BGTTP9R85SZESB6V"
    assert delivery_id(REFERENCE_IDS[0], "wf_billing_sync", 0) == "whd_2902W932DR1VCPGH2F3KHKY3VF"


deliveries = st.tuples(parts, parts, st.integers(0, 100))


@given(deliveries, deliveries)
def test_delivery_ids(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (delivery_id(*one) == delivery_id(*other)) == (one == other)
    assert is_id("whd_", delivery_id(*one))


outcomes = st.tuples(parts, parts, parts, parts, st.integers(0, 100), st.integers(0, 100))


@given(times_ms, outcomes, outcomes)
def test_ids_of_notices(
    ms: int, one: tuple[str, str, str, str, int, int], other: tuple[str, str, str, str, int, int]
) -> None:
    assert (notice_id(ms, *one) == notice_id(ms, *other)) == (one == other)
    assert is_id("whd_", notice_id(ms, *one))
    assert id_time_ms(notice_id(ms, *one)) == ms


def test_a_notice_of_a_time_that_no_id_holds_has_the_last_one() -> None:
    assert id_time_ms(notice_id(2**53, "", "", "", "", 1, 0)) == TIME_MS_MAX


# --- the source of new ids


def test_new_ids_use_every_drawn_byte_once() -> None:
    drawn: list[bytes] = []
    clock = itertools.count(1_000)

    def entropy(n: int) -> bytes:
        first = sum(map(len, drawn)) // 4
        drawn.append(b"".join(i.to_bytes(4, "big") for i in range(first, first + n // 4)))
        return drawn[-1]

    source = IdSource(entropy, lambda: next(clock))
    ids = [source.new("req_") for _ in range(1_500)]
    used = b"".join(drawn)
    assert ids == [
        "req_" + ulid(1_000 + i, used[i * ENTROPY_BYTES : (i + 1) * ENTROPY_BYTES]) for i in range(1_500)
    ]
    assert 1 < len(drawn) < 10
    assert id_time_ms(source.event_id(77)) == 77
