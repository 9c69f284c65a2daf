"""Where peers can be dialled: bounded, and forgotten some time after it was last heard.

Rules of this file: no clock (callers pass `now`) and no I/O.
"""

from __future__ import annotations

from quiver.ids import PeerId
from quiver.values.peer import PeerInfo

PEERS_KNOWN_MAX = 4096
ADDRESSES_PER_PEER_MAX = 8
# As long as a provider record's addresses in go-libp2p before they must be heard again.
ADDRESS_TTL_S = 3600.0


class AddressBook:
    """The newest `PEERS_KNOWN_MAX` peers; pinned ones (an operator named them) stay for ever and count besides."""

    def __init__(self) -> None:
        self._known: dict[PeerId, tuple[float, tuple[bytes, ...]]] = {}
        self._pinned: dict[PeerId, tuple[bytes, ...]] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._known or peer in self._pinned

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._known)

    def learn(self, info: PeerInfo, now: float) -> None:
        """Addresses as last heard."""
        self._known.pop(info.peer_id, None)
        self._known[info.peer_id] = (now + ADDRESS_TTL_S, info.addresses[:ADDRESSES_PER_PEER_MAX])
        while len(self._known) > PEERS_KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def pin(self, info: PeerInfo) -> None:
        """Addresses from a config file."""
        self._pinned[info.peer_id] = info.addresses[:ADDRESSES_PER_PEER_MAX]

    def addresses(self, peer: PeerId, now: float) -> tuple[bytes, ...]:
        """What is still worth dialling, as heard first, then as pinned."""
        expires_s, heard = self._known.get(peer, (now, ()))
        if expires_s <= now:
            self._known.pop(peer, None)
            heard = ()
        return tuple(dict.fromkeys((*heard, *self._pinned.get(peer, ()))))

    def keep(self, peer: PeerId, now: float) -> None:
        """The peer was connected until now: its addresses are good for another while."""
        known = self._known.get(peer)
        if known is not None:
            self._known[peer] = (now + ADDRESS_TTL_S, known[1])
