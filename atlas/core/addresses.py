"""The address guard: which addresses a delivery may be sent to.

Judged is the address dialled, at every connection, never the name: a name can resolve to one address
when it is checked and to another when it is used. `ipaddress.is_global` is not enough: it is true for
64:ff9b::a9fe:a9fe, 2002:a9fe:a9fe::, ::127.0.0.1, fec0::1, 5f00::1, 3fff::1 and multicast.

The list: the IANA special-purpose registries of IPv4 and IPv6 (RFC 6890 and its updates) in full,
multicast, what IPv6 sets aside outside 2000::/3 (RFC 4291), and the public addresses at which cloud
hosts serve instance metadata. An IPv6 address that carries an IPv4 address is judged by that one too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Network = IPv4Network | IPv6Network

#: Addresses whose verdict is remembered.
VERDICTS_CACHED_MAX: Final = 4_096

#: What `atlas dev` allows, for targets on the same machine.
LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

#: The narrowest block that holds an address comes first, so that the reason is the telling one.
REFUSED_V4: Final[tuple[tuple[str, str], ...]] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private use"),
    ("100.64.0.0/10", "shared by carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "cloud metadata"),  # Azure's host agent, on a public address
    ("169.254.0.0/16", "link-local, cloud metadata"),
    ("172.16.0.0/12", "private use"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "AS112"),
    ("192.52.193.0/24", "AMT relays"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private use"),
    ("192.175.48.0/24", "AS112"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
)

REFUSED_V6: Final[tuple[tuple[str, str], ...]] = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("::/96", "IPv4-compatible"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "NAT64"),
    ("100::/64", "discard only"),
    ("100:0:0:1::/64", "dummy prefix"),
    ("2001::/32", "Teredo"),
    ("2001:2::/48", "benchmarking"),
    ("2001:3::/32", "AMT relays"),
    ("2001:4:112::/48", "AS112"),
    ("2001:10::/28", "ORCHID"),
    ("2001:20::/28", "ORCHIDv2"),
    ("2001:30::/28", "drone identifiers"),
    ("2001::/23", "protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("2620:4f:8000::/48", "AS112"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "private use"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
    # All global unicast is in 2000::/3 (IANA IPv6 address space registry); the rest is unassigned.
    ("::/3", "not global unicast"),
    ("4000::/2", "not global unicast"),
    ("8000::/1", "not global unicast"),
)

_V4: Final = tuple((IPv4Network(block), why) for block, why in REFUSED_V4)
_V6: Final = tuple((IPv6Network(block), why) for block, why in REFUSED_V6)

#: Where the IPv4 address stands in the last 32 bits (RFC 4291, RFC 2765, RFC 6052). In 64:ff9b:1::/48
#: it stands where the site chose, so nothing can be judged by it.
_V4_AT_THE_END: Final = tuple(
    IPv6Network(block) for block in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96")
)


def networks(blocks: Iterable[str]) -> tuple[Network, ...]:
    """An operator's list of allowed blocks, for example `10.1.0.0/16`.

    Raises:
        ValueError: one of them is not a network, or has host bits set.
    """
    return tuple(ipaddress.ip_network(block) for block in blocks)


def refusal(address: str, allow: Sequence[Network] = ()) -> str | None:
    """Why this address must not be dialled.

    Args:
        address: an IPv4 or IPv6 address in its canonical text form, as a socket address has it.
        allow: blocks that the operator opened. An address that carries another (IPv4-mapped, NAT64,
            6to4, Teredo) is open only when both are.

    Returns:
        The reason, for people, without the address; None when it may be dialled.
    """
    return _refusal(address, tuple(allow))


@lru_cache(maxsize=VERDICTS_CACHED_MAX)
def _refusal(address: str, allow: tuple[Network, ...]) -> str | None:
    if "%" in address:
        return "a zone id"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "not an IP address"
    if isinstance(parsed, IPv4Address):
        return _refusal_v4(parsed, allow)
    return _refusal_v6(parsed, allow)


def _refusal_v4(address: IPv4Address, allow: tuple[Network, ...]) -> str | None:
    if any(address in block for block in allow):
        return None
    return next((why for block, why in _V4 if address in block), None)


def _refusal_v6(address: IPv6Address, allow: tuple[Network, ...]) -> str | None:
    if not any(address in block for block in allow):
        reason = next((why for block, why in _V6 if address in block), None)
        if reason is not None:
            return reason
    return next((why for inner in _carried(address) if (why := _refusal_v4(inner, allow))), None)


def _carried(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """IPv4 addresses that a packet to this address may end up at."""
    if address.teredo is not None:
        return address.teredo
    if address.sixtofour is not None:
        return (address.sixtofour,)
    # :: and ::1 have addresses of their own (RFC 4291, 2.5.5.1 leaves them out).
    if int(address) > 1 and any(address in block for block in _V4_AT_THE_END):
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    return ()
