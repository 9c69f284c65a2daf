"""A peer as others know it."""

from __future__ import annotations

import msgspec

from quiver.ids import PeerId


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who, and where to dial."""

    peer_id: PeerId
    addresses: tuple[bytes, ...] = ()
    "Binary multiaddrs without the /p2p tail; empty in the simulation, where the peer id is the address."
