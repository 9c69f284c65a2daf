"""One k-bucket: the live peers of one distance range, least recently seen first.

Rules of this file: no clock and no I/O. A live peer is never pushed out by a new one, because long uptime predicts
longer uptime (Maymounkov & Mazieres 2002, 2.2); newcomers wait as spares until a live one fails.
"""

from __future__ import annotations

from quiver.dht.distance import KEYS
from quiver.ids import PeerId
from quiver.values.peer import PeerInfo

# Newcomers remembered per full bucket; the newest replaces the next peer that fails.
SPARES_MAX = 4


class KBucket:
    """At most `k` live peers and `SPARES_MAX` spares. Two parallel lists: small, and quick to search by key."""

    __slots__ = ("keys", "peers", "spares", "refreshed_s")

    def __init__(self) -> None:
        self.keys: list[int] = []
        "Keyspace integers of `peers`, same order."
        self.peers: list[PeerInfo] = []
        "Live peers, least recently seen first."
        self.spares: list[PeerInfo] | None = None
        "Newest last; None until the first one, since most buckets of a young table need none."
        self.refreshed_s = float("-inf")
        "`now` of the last lookup in this bucket's range."

    def on_seen(self, key: int, info: PeerInfo, k: int) -> None:
        """A peer spoke: it moves to the end, or joins, or becomes a spare when the bucket is full."""
        keys, peers = self.keys, self.peers
        if key in keys:
            if keys[-1] == key:
                self._renew(len(keys) - 1, info)
                return
            place = keys.index(key)
            self._renew(place, info)
            keys.append(keys.pop(place))
            peers.append(peers.pop(place))
        elif len(keys) < k:
            keys.append(key)
            peers.append(info)
        else:
            self._add_spare(info)

    def _renew(self, place: int, info: PeerInfo) -> None:
        # Addresses we once knew are better than none.
        if info.addresses and info is not self.peers[place]:
            self.peers[place] = info

    def _add_spare(self, info: PeerInfo) -> None:
        spares = self.spares
        if spares is None:
            self.spares = [info]
            return
        for place, spare in enumerate(spares):
            if spare.peer_id == info.peer_id:
                info = info if info.addresses else spare
                del spares[place]
                break
        spares.append(info)
        if len(spares) > SPARES_MAX:
            del spares[0]

    def on_failed(self, key: int, peer_id: PeerId) -> None:
        """A peer was silent or broke the protocol: it leaves, and the newest spare takes its place."""
        spares = self.spares
        if key in self.keys:
            place = self.keys.index(key)
            del self.keys[place], self.peers[place]
            if spares:
                info = spares.pop()
                self.keys.append(KEYS[info.peer_id])
                self.peers.append(info)
        elif spares:
            self.spares = [spare for spare in spares if spare.peer_id != peer_id]

    def validate(self, k: int) -> None:
        """Own invariants."""
        assert len(self.keys) == len(self.peers) <= k
        assert self.keys == [KEYS[info.peer_id] for info in self.peers]
        assert len(set(self.keys)) == len(self.keys)
        spares = [KEYS[info.peer_id] for info in self.spares or ()]
        assert len(spares) <= SPARES_MAX and len(set(spares)) == len(spares) and not set(spares) & set(self.keys)
