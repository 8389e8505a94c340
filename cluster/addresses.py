"""Which IP addresses this server may connect to for a caller. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from cluster.settings import Network

Address = IPv4Address | IPv6Address

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # every other IPv6 address is local, multicast or unassigned
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 host of the last 32 bits
# Public by number, yet answered by the machine's own cloud: Azure's host agent, Oracle's metadata.
_CLOUD_INTERNAL = (ip_network("168.63.129.16/32"), ip_network("192.0.0.0/24"))


def may_reach(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether every host that a packet to `address` may end at is public or in an allowed network."""
    return all(
        is_public(end) or any(end in network for network in allowed) for end in _possible_ends(address)
    )


def is_public(address: Address) -> bool:
    """Whether the address belongs to the public internet and to nothing nearer."""
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, IPv6Address):
        return address in _GLOBAL_UNICAST
    return not any(address in network for network in _CLOUD_INTERNAL)


def _possible_ends(address: Address) -> tuple[Address, ...]:
    """The address, or the IPv4 hosts that the system or a relay makes of it."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    if address.sixtofour is not None:
        return (address, address.sixtofour)
    return (address, *(address.teredo or ()))
