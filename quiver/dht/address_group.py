"""Address groups: peers that one operator can place there cheaply, an IPv4 /24 or an IPv6 /48.

Rules of this file: no I/O; what an address says is what its peer claims, and a dial is the proof. Loopback, private and
link-local addresses, names and peers without addresses (a simulation) have no group: there one operator owns all of them.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

from quiver.errors import MalformedMessage
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr

# Peers of one group that a bucket takes (as py-libp2p), and that wait for a place in it.
GROUP_PEERS_MAX = 2
_PREFIX_BYTES = {multiaddr.IP4: 3, multiaddr.IP6: 6}


@functools.lru_cache(maxsize=1 << 14)
def groups_of(addresses: tuple[bytes, ...]) -> frozenset[bytes]:
    """The groups of a peer with these binary multiaddrs; an address nobody can read has none."""
    groups = set()
    for address in addresses:
        try:
            parts = multiaddr.decode(address)
        except MalformedMessage:
            continue
        if parts and (length := _PREFIX_BYTES.get(parts[0][0])) is not None:
            code, raw = parts[0]
            if ipaddress.ip_address(raw).is_global:
                groups.add(bytes((code,)) + raw[:length])
    return frozenset(groups)


def has_room(peers: Iterable[PeerInfo], info: PeerInfo) -> bool:
    """Whether `info` may stand beside `peers`: at most `GROUP_PEERS_MAX` of each of its groups."""
    groups = groups_of(info.addresses)
    if not groups:
        return True
    counts = dict.fromkeys(groups, 0)
    for peer in peers:
        others = groups_of(peer.addresses)
        for group in counts:
            counts[group] += group in others
    return max(counts.values()) < GROUP_PEERS_MAX
