"""The address guard's vectors: both ends of every block refused, the addresses around them not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.core import addresses
from atlas.core.addresses import LOOPBACK, REFUSED_V4, REFUSED_V6, networks, refusal

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000::1",
    "2001:200::1",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:830::200e",
    "3ffe:ffff::1",
    "3fff:1000::1",
]

REFUSED = [
    # security notes: is_global is true, or was, for each of these
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "2002:a9fe:a9fe::",
    "::127.0.0.1",
    "::7f00:1",
    "224.0.0.1",
    "239.255.255.255",
    "ff02::1",
    "ff0e::1",
    "fec0::1",
    "5f00::1",
    "3fff::1",
    # loopback, in all its spellings
    "127.0.0.1",
    "127.255.255.255",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:0:127.0.0.1",
    "0:0:0:0:0:0:0:1",
    # metadata services
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    # the rest
    "0.0.0.0",
    "::",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.175.48.1",
    "fe80::1",
    "fc00::1",
    "fdff::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:a9fe:a9fe::1",
    "2001:1::1",
    "2001:2::1",
    "2001:3::1",
    "2001:4:112::1",
    "2001:10::1",
    "2001:20::1",
    "2001:30::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2620:4f:8000::1",
    "1::1",
    "4000::1",
    "8000::1",
    "e000::1",
    # a public address carried by another is no way round either
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_dialled(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize("address", REFUSED)
def test_refused_addresses(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(("block", "why"), REFUSED_V4 + REFUSED_V6)
def test_both_ends_of_every_block_are_refused(block: str, why: str) -> None:
    network = ipaddress.ip_network(block)
    assert refusal(str(network[0]))
    assert refusal(str(network[-1]))
    assert refusal(str(network[network.num_addresses // 2]))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.01",
        "0177.0.0.1",
        " 8.8.8.8",
        "8.8.8.8\n",
    ],
)
def test_what_is_no_address_in_canonical_form_is_refused(address: str) -> None:
    assert refusal(address) == "not an IP address"


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700:4700::1111%1", "8.8.8.8%1"])
def test_zone_ids_are_refused_even_on_what_is_allowed(address: str) -> None:
    assert refusal(address, networks(["0.0.0.0/0", "::/0"])) == "a zone id"


@given(st.ip_addresses())
def test_never_laxer_than_the_standard_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """`is_global` lets too much through, but what even it refuses we refuse too."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert refusal(str(address))


def test_dev_opens_loopback_and_nothing_else() -> None:
    for address in ("127.0.0.1", "127.255.255.255", "::1"):
        assert refusal(address, LOOPBACK) is None
    for address in ("10.0.0.1", "169.254.169.254", "0.0.0.0", "::", "fe80::1", "192.168.0.1"):
        assert refusal(address, LOOPBACK)


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"])
def test_a_carried_address_is_open_only_when_its_carrier_is_too(address: str) -> None:
    carriers = networks(["::ffff:0:0/96", "::/96", "64:ff9b::/96", "2002::/16"])
    assert refusal(address, LOOPBACK)
    assert refusal(address, carriers)
    assert refusal(address, (*LOOPBACK, *carriers)) is None


def test_an_ipv6_only_site_may_open_nat64_to_public_addresses_alone() -> None:
    nat64 = networks(["64:ff9b::/96"])
    assert refusal("64:ff9b::808:808", nat64) is None
    assert refusal("64:ff9b::a9fe:a9fe", nat64)
    assert refusal("64:ff9b::a00:1", nat64)
    teredo = networks(["2001::/32"])
    # server 8.8.8.8, client 10.0.0.1 (inverted, RFC 4380)
    assert refusal("2001:0:808:808::f5ff:fffe", teredo)


def test_reasons_name_the_block_and_never_the_address() -> None:
    assert refusal("127.0.0.1") == "loopback"
    assert refusal("169.254.169.254") == "link-local, cloud metadata"
    assert refusal("::1") == "loopback"
    assert refusal("255.255.255.255") == "broadcast"


def test_networks_refuses_what_is_none() -> None:
    assert [str(network) for network in networks(["10.1.0.0/16", "::1"])] == ["10.1.0.0/16", "::1/128"]
    for bad in ("10.1.2.3/16", "localhost", "10.0.0.0/33"):
        with pytest.raises(ValueError, match=bad.partition("/")[0]):
            networks([bad])


def test_verdicts_are_remembered_within_a_bound() -> None:
    assert addresses._refusal.cache_info().maxsize == addresses.VERDICTS_CACHED_MAX
