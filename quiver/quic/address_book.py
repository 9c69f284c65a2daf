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
        self._proved: dict[PeerId, bytes] = {}
        self._pinned: dict[PeerId, tuple[bytes, ...]] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._known or peer in self._pinned

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._known)

    def learn(self, info: PeerInfo, now: float) -> None:
        """Addresses as somebody says them. Anybody may: they go before those heard earlier, never in their place."""
        before = self.heard(info.peer_id, now)
        self._known.pop(info.peer_id, None)
        merged = tuple(dict.fromkeys((*info.addresses, *before)))
        self._known[info.peer_id] = (now + ADDRESS_TTL_S, merged[:ADDRESSES_PER_PEER_MAX])
        while len(self._known) > PEERS_KNOWN_MAX:
            self._forget(next(iter(self._known)))

    def prove(self, peer: PeerId, address: bytes, now: float) -> None:
        """The peer itself answered there: no lie pushes this one out while its peer is known."""
        self.learn(PeerInfo(peer_id=peer, addresses=(address,)), now)
        self._proved[peer] = address

    def heard(self, peer: PeerId, now: float) -> tuple[bytes, ...]:
        """Unexpired addresses, newest first; what has expired is forgotten."""
        expires_s, heard = self._known.get(peer, (now, ()))
        if expires_s <= now:
            self._forget(peer)
            return ()
        return heard

    def _forget(self, peer: PeerId) -> None:
        self._known.pop(peer, None)
        self._proved.pop(peer, None)

    def pin(self, info: PeerInfo) -> None:
        """Addresses from a config file."""
        self._pinned[info.peer_id] = info.addresses[:ADDRESSES_PER_PEER_MAX]

    def is_pinned(self, peer: PeerId) -> bool:
        """Whether an operator named it."""
        return peer in self._pinned

    def addresses(self, peer: PeerId, now: float) -> tuple[bytes, ...]:
        """What is still worth dialling: where it answered before, as pinned, as heard."""
        heard = self.heard(peer, now)
        proved = (self._proved[peer],) if peer in self._proved else ()
        return tuple(dict.fromkeys((*proved, *self._pinned.get(peer, ()), *heard)))

    def keep(self, peer: PeerId, now: float) -> None:
        """The peer was connected until now: its addresses are good for another while."""
        known = self._known.get(peer)
        if known is not None:
            self._known[peer] = (now + ADDRESS_TTL_S, known[1])
